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

from bifrost.config.settings import (
    BudgetSpec,
    Governance,
    Governed,
    RateLimitSpec,
    VirtualKeySpec,
)
from bifrost.errors import Conflict
from bifrost.governance.directory import Directory
from bifrost.governance.entities import (
    Budget,
    Entity,
    Kind,
    ProviderRule,
    RateLimit,
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
        same = next((budget for budget in kept if _window(budget) == _window(spec)), None)
        if same is not None:
            kept.remove(same)
        made.append(
            Budget(
                id=new_id("budget") if same is None else same.id,
                max_limit=spec.nano_usd,
                reset_duration=spec.reset_duration,
                calendar_aligned=spec.calendar_aligned,
                time_zone=spec.time_zone,
                fiscal_start=spec.fiscal_start,
                provider=spec.provider,
                overdraft=spec.overdraft,
                tight=spec.tight,
                created_at=time.time_ns() if same is None else same.created_at,
                reset_at=0 if same is None else same.reset_at,
                reset_reason="" if same is None else same.reset_reason,
                override=None if same is None else same.override,
            )
        )
    return tuple(made)


def _window(budget: Budget | BudgetSpec) -> tuple[object, ...]:
    """What makes two budgets count the same spending in the same windows."""
    return (
        budget.reset_duration, budget.calendar_aligned, budget.time_zone, budget.fiscal_start,
        budget.provider,
    )  # fmt: skip


def rate_limits(
    specs: Sequence[RateLimitSpec], old: Sequence[RateLimit] = ()
) -> tuple[RateLimit, ...]:
    """Rate limits for declared specs; one that counts the same keeps its id, so its count stays."""
    known = {(limit.metric, limit.window, limit.provider, limit.model): limit for limit in old}
    made = []
    for spec in specs:
        window = spec.window or "1m"
        same = known.pop((spec.metric, window, spec.provider, spec.model), None)
        made.append(
            RateLimit(
                id=new_id("rate_limit") if same is None else same.id,
                metric=spec.metric,
                max_limit=spec.max_limit,
                window=window,
                provider=spec.provider,
                model=spec.model,
            )
        )
    return tuple(made)


def _rules(spec: Governed) -> tuple[ProviderRule, ...]:
    return tuple(
        ProviderRule(
            provider=rule.provider,
            allowed_models=rule.allowed_models,
            blocked_models=rule.blocked_models,
            weight=rule.weight,
        )
        for rule in spec.provider_configs
    )


def apply(declared: Governance, directory: Directory) -> list[Minted]:
    """Creates and updates what ``declared`` names; returns the keys that got a secret."""
    for customer in declared.customers:
        _put(directory, "customer", customer)
    for team in declared.teams:
        _put(directory, "team", team, customer=team.customer)
    for user in declared.users:
        owner = _owner(team=user.team, customer=None if user.team else user.customer)
        _put(directory, "user", user, **owner)
    minted = [_put_key(directory, key) for key in declared.virtual_keys]
    return [mint for mint in minted if mint is not None]


def _owner(**parents: str | None) -> dict[str, Any]:
    """Only the parent that is named, or an explicit none."""
    named: dict[str, Any] = {kind: name for kind, name in parents.items() if name}
    return named or {next(iter(parents)): None}


def _governed(spec: Governed, old: Entity | None) -> dict[str, Any]:
    """The fields every kind has; budgets and limits that stay keep what they have counted."""
    return {
        "is_active": spec.is_active,
        "budgets": budgets(spec.budgets, old.budgets if old is not None else ()),
        "rate_limits": rate_limits(spec.rate_limits, old.rate_limits if old is not None else ()),
        "provider_configs": _rules(spec),
    }


def _put(directory: Directory, kind: Kind, spec: Governed, **owner: Any) -> Entity:
    old = directory.find(kind, spec.name)
    if old is None:
        try:
            return directory.create(kind, spec.name, **_governed(spec, None), **owner)
        except Conflict:  # another process created it in between
            old = directory.get(kind, spec.name)
    return directory.update(kind, spec.name, **_governed(spec, old), **owner)


def _put_key(directory: Directory, spec: VirtualKeySpec) -> Minted | None:
    fields: dict[str, Any] = {
        "expires_at": spec.expires_ns,
        "allowed_fields": spec.allowed_fields,
        "audit_content": spec.audit_content,
        **_owner(user=spec.user, team=spec.team, customer=spec.customer),
    }
    old = directory.find("virtual_key", spec.name)
    if old is None:
        try:
            key, secret = directory.create_key(
                spec.name, secret=spec.value, **_governed(spec, None), **fields
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
    directory.update("virtual_key", spec.name, **_governed(spec, old), **fields)
    if spec.value and directory.digest(spec.value.encode()).hex() != old.digest:
        directory.rotate(spec.name, secret=spec.value)
    return None
