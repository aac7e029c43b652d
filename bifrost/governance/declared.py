"""What the configuration declares, brought into the directory: created or updated by name.

What the command line or the API made is kept; nothing is removed because the file no longer names
it. A key that was revoked stays revoked. Applying the same declaration again changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.config.settings import BudgetSpec, Governance, VirtualKeySpec
from bifrost.errors import Conflict
from bifrost.governance.directory import Directory
from bifrost.governance.entities import (
    Budget,
    Entity,
    Kind,
    ProviderRule,
    VirtualKey,
    new_id,
)

log = logging.getLogger("bifrost.governance")


class Minted(msgspec.Struct, frozen=True):
    """A virtual key that got its secret just now; the only time it can be shown."""

    name: str
    secret: str


def budgets(specs: Sequence[BudgetSpec], old: Sequence[Budget] = ()) -> tuple[Budget, ...]:
    """Budgets for declared specs; one with the same window keeps its id, so its spending stays."""
    kept = list(old)
    made: list[Budget] = []
    for spec in specs:
        window = (spec.reset_duration, spec.calendar_aligned, spec.time_zone)
        same = next(
            (b for b in kept if (b.reset_duration, b.calendar_aligned, b.time_zone) == window), None
        )
        if same is not None:
            kept.remove(same)
            made.append(msgspec.structs.replace(same, max_limit=spec.nano_usd))
            continue
        made.append(
            Budget(
                id=new_id("budget"),
                max_limit=spec.nano_usd,
                reset_duration=spec.reset_duration,
                calendar_aligned=spec.calendar_aligned,
                time_zone=spec.time_zone,
                created_at=time.time_ns(),
            )
        )
    return tuple(made)


def apply(declared: Governance, directory: Directory) -> list[Minted]:
    """Creates and updates what ``declared`` names; returns the keys that got a secret."""
    for customer in declared.customers:
        _put(directory, "customer", customer.name, customer.budgets, is_active=customer.is_active)
    for team in declared.teams:
        _put(
            directory, "team", team.name, team.budgets,
            is_active=team.is_active, customer=team.customer,
        )  # fmt: skip
    for user in declared.users:
        _put(
            directory, "user", user.name, user.budgets, is_active=user.is_active,
            **_owner(team=user.team, customer=None if user.team else user.customer),
        )  # fmt: skip
    minted = [_put_key(directory, key) for key in declared.virtual_keys]
    return [mint for mint in minted if mint is not None]


def _owner(**parents: str | None) -> dict[str, str | None]:
    """Only the parent that is named, or an explicit none."""
    named = {kind: name for kind, name in parents.items() if name}
    return named or {next(iter(parents)): None}  # type: ignore[return-value]


def _put(
    directory: Directory, kind: Kind, name: str, specs: Sequence[BudgetSpec], **fields: Any
) -> Entity:
    old = directory.find(kind, name)
    if old is None:
        try:
            return directory.create(kind, name, budgets=budgets(specs), **fields)
        except Conflict:  # another process created it in between
            old = directory.get(kind, name)
    return directory.update(kind, name, budgets=budgets(specs, old.budgets), **fields)


def _put_key(directory: Directory, spec: VirtualKeySpec) -> Minted | None:
    fields: dict[str, Any] = {
        "is_active": spec.is_active,
        "expires_at": spec.expires_ns,
        "allowed_fields": spec.allowed_fields,
        "provider_configs": tuple(
            ProviderRule(
                provider=rule.provider,
                allowed_models=rule.allowed_models,
                blocked_models=rule.blocked_models,
                weight=rule.weight,
            )
            for rule in spec.provider_configs
        ),
        **_owner(user=spec.user, team=spec.team, customer=spec.customer),
    }
    old = directory.find("virtual_key", spec.name)
    if old is None:
        try:
            key, secret = directory.create_key(
                spec.name, secret=spec.value, budgets=budgets(spec.budgets), **fields
            )
        except Conflict:
            old = directory.find("virtual_key", spec.name)
            if old is None:
                raise
        else:
            return None if spec.value else Minted(key.name, secret)
    assert isinstance(old, VirtualKey)
    if not old.digest:
        log.warning("a declared virtual key was revoked and stays so", extra={"key": spec.name})
        return None
    directory.update("virtual_key", spec.name, budgets=budgets(spec.budgets, old.budgets), **fields)
    if spec.value and directory.digest(spec.value.encode()).hex() != old.digest:
        directory.rotate(spec.name, secret=spec.value)
    return None
