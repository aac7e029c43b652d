"""What the holder of a virtual key has left, asked with the key itself."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from bifrost._fast import wire
from bifrost.admin import objects
from bifrost.admin.problems import Problem, invalid
from bifrost.admin.table import OWN_KEY, Ask, House, Operation, Reply
from bifrost.errors import GatewayUnavailable, Refusal
from bifrost.governance.entities import Entity
from bifrost.identify import Grant
from bifrost.money import usd


class QuotaKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key that asks."""

    id: str
    name: str
    is_active: bool
    expires_at: objects.Time | None


class QuotaLevel(msgspec.Struct, frozen=True, kw_only=True):
    """The key, its user, team or customer: what holds there."""

    level: str
    id: str
    name: str
    budgets: tuple[objects.Budget, ...]
    rate_limits: tuple[objects.RateLimit, ...]
    provider_configs: tuple[objects.ProviderConfig, ...]


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a key has left. ``remaining`` is what the tightest budget of those that count every
    provider affords now, null without one, and ``resets_at`` when that one's window ends."""

    virtual_key: QuotaKey
    remaining: objects.Usd | None
    resets_at: objects.Time | None
    levels: tuple[QuotaLevel, ...]
    models: tuple[str, ...]
    allowed_fields: tuple[str, ...] | None
    recorded_content: Literal["none", "hash", "full"]


def quota(house: House, ask: Ask) -> Reply:
    """What is left at every level of the key's own chain."""
    grant = _grant(house, ask)
    left, resets = house.gate.remaining(grant.whole(), time.time_ns())
    key = grant.key
    expires = key.expires_at
    return Reply(
        value=Quota(
            virtual_key=QuotaKey(
                id=key.id,
                name=key.name,
                is_active=key.is_active,
                expires_at=objects.timestamp(expires) if expires is not None else None,
            ),
            remaining=usd(left) if left >= 0 else None,
            resets_at=objects.whole(resets) if left >= 0 and resets else None,
            levels=tuple(_level(house, level, entity) for level, entity in grant.chain),
            models=tuple(house.usable(grant)),
            allowed_fields=key.allowed_fields,
            recorded_content=key.audit_content or house.settings().evidence.content,
        )
    )


def _grant(house: House, ask: Ask) -> Grant:
    try:
        head = wire.read_head(ask.raw_headers)
    except wire.WireError as error:
        raise invalid(400, [("headers", f"malformed: {error}")]) from None
    try:
        return house.identifier.look_up(head.credential, head.foreign_credential)
    except GatewayUnavailable:
        raise
    except Refusal as refusal:
        headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
        raise Problem(refusal.status, str(refusal), code=refusal.code, headers=headers) from None


def _level(house: House, level: str, entity: Entity) -> QuotaLevel:
    return QuotaLevel(
        level="key" if level == "virtual key" else level,
        id=entity.id,
        name=entity.name,
        budgets=objects.budgets(entity.budgets, house.gate),
        rate_limits=objects.rate_limits(entity.rate_limits),
        provider_configs=objects.provider_configs(entity.provider_configs),
    )


def operations() -> list[Operation]:
    """The row of the quota."""
    return [
        Operation(method="GET", path="/api/governance/virtual-keys/quota", name="get_quota",
                  summary="What the virtual key that asks has left, at every level above it.",
                  permission=OWN_KEY, handler=quota, answer=Quota, refuses=(401, 403)),
    ]  # fmt: skip
