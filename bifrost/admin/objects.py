"""The objects that the API answers, as the contract writes them. Money is decimal text in USD."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bifrost._fast.gate import Gate
from bifrost.governance import entities
from bifrost.governance.budgets import budget_window
from bifrost.governance.entities import Entity, Kind, id_number
from bifrost.money import usd

Usd = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$", description="USD, exact decimal.")]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
LEVELS: dict[Kind, str] = {
    "customer": "customer",
    "team": "team",
    "user": "user",
    "virtual_key": "key",
}


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object of an answer."""


class Override(Object, frozen=True, kw_only=True):
    """Another limit that holds from ``start_at`` until ``end_at``."""

    max_limit: Usd
    start_at: Time
    end_at: Time
    reason: str


class Budget(Object, frozen=True, kw_only=True):
    """A cap on spending, and how much of it is used in the present window."""

    id: str
    max_limit: Usd
    reset_duration: str
    calendar_aligned: bool
    time_zone: str
    fiscal_start: int
    provider: str | None
    overdraft: str
    tight: str
    current_usage: Usd
    reserved: Usd
    resets_at: Time
    reset_at: Time | None
    reset_reason: str
    override: Override | None


class Owner(Object, frozen=True, kw_only=True):
    """Whose a budget is."""

    level: str
    id: str
    name: str


class OwnedBudget(Budget, frozen=True, kw_only=True):
    """A budget by itself, with its owner."""

    owner: Owner


class RateLimit(Object, frozen=True, kw_only=True):
    """A cap on requests or tokens in any window, or on requests at the same time (no window)."""

    id: str
    metric: str
    max_limit: int
    window: str | None
    provider: str | None
    model: str | None


class ProviderConfig(Object, frozen=True, kw_only=True):
    """Which models of which provider may be used."""

    provider: str
    allowed_models: tuple[str, ...]
    blocked_models: tuple[str, ...]
    weight: float


class Governed(Object, frozen=True, kw_only=True):
    """What customers, teams, users and virtual keys have in common."""

    id: str
    name: str
    is_active: bool
    budgets: tuple[Budget, ...]
    rate_limits: tuple[RateLimit, ...]
    provider_configs: tuple[ProviderConfig, ...]
    created_at: Time
    updated_at: Time


class Customer(Governed, frozen=True, kw_only=True):
    """The organisation that pays."""


class Team(Governed, frozen=True, kw_only=True):
    """A part of a customer, or standing alone."""

    customer_id: str | None


class User(Governed, frozen=True, kw_only=True):
    """A person or service."""

    team_id: str | None
    customer_id: str | None


class VirtualKey(Governed, frozen=True, kw_only=True):
    """A credential of the gateway; ``hint`` are the last characters of its secret."""

    hint: str
    expires_at: Time | None
    user_id: str | None
    team_id: str | None
    customer_id: str | None
    allowed_fields: tuple[str, ...] | None
    audit_content: Literal["none", "hash", "full"] | None
    mcp_configs: tuple[str, ...] = ()


class NewVirtualKey(VirtualKey, frozen=True, kw_only=True):
    """The answer to create and rotate: the only ones with the secret."""

    value: str


ANSWERS: dict[Kind, type[Governed]] = {
    "customer": Customer,
    "team": Team,
    "user": User,
    "virtual_key": VirtualKey,
}


def timestamp(ns: int) -> str:
    """Nanoseconds since the epoch as an RFC 3339 time in UTC, with a fraction if there is one."""
    seconds, fraction = divmod(ns, 1_000_000_000)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    more = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{moment.isoformat().removesuffix('+00:00')}{more}Z"


def whole(ns: int) -> str:
    """The same to the second."""
    return timestamp(ns - ns % 1_000_000_000)


def budgets(found: Sequence[entities.Budget], gate: Gate) -> tuple[Budget, ...]:
    """Budgets with what is spent and held in their present windows."""
    now = time.time_ns()
    windows = [budget_window(budget, now) for budget in found]
    cells = gate.counters(
        [(id_number(b.id), start) for b, (start, _) in zip(found, windows, strict=True)]
    )
    return tuple(
        Budget(
            id=budget.id,
            max_limit=usd(budget.max_limit),
            reset_duration=budget.reset_duration,
            calendar_aligned=budget.calendar_aligned,
            time_zone=budget.time_zone,
            fiscal_start=budget.fiscal_start,
            provider=budget.provider,
            overdraft=budget.overdraft,
            tight=budget.tight,
            current_usage=usd(cell[0], places=0),
            reserved=usd(cell[1], places=0),
            resets_at=whole(end),
            reset_at=whole(budget.reset_at) if budget.reset_at else None,
            reset_reason=budget.reset_reason,
            override=override(budget.override, now),
        )
        for budget, (_, end), cell in zip(found, windows, cells, strict=True)
    )


def override(found: entities.Override | None, now_ns: int) -> Override | None:
    """The limit that holds for a while, or None when there is none or its time is over."""
    if found is None or now_ns >= found.end_at:
        return None
    return Override(
        max_limit=usd(found.max_limit),
        start_at=whole(found.start_at),
        end_at=whole(found.end_at),
        reason=found.reason,
    )


def owned(kind: Kind, entity: Entity, budget: entities.Budget, gate: Gate) -> OwnedBudget:
    """A budget with its owner."""
    shown = msgspec.structs.asdict(budgets((budget,), gate)[0])
    owner = Owner(level=LEVELS[kind], id=entity.id, name=entity.name)
    return OwnedBudget(**shown, owner=owner)


def rate_limits(found: Sequence[entities.RateLimit]) -> tuple[RateLimit, ...]:
    """Rate limits; one of requests at the same time has no window."""
    return tuple(
        RateLimit(
            id=limit.id,
            metric=limit.metric,
            max_limit=limit.max_limit,
            window=limit.window if limit.metric != "concurrency" else None,
            provider=limit.provider,
            model=limit.model,
        )
        for limit in found
    )


def provider_configs(found: Sequence[entities.ProviderRule]) -> tuple[ProviderConfig, ...]:
    """Rules on models and providers."""
    return tuple(ProviderConfig(**msgspec.structs.asdict(rule)) for rule in found)


def shown(kind: Kind, entity: Entity, gate: Gate) -> Governed:
    """A customer, team, user or key as it is answered, without anything secret."""
    fields: dict[str, Any] = msgspec.structs.asdict(entity)
    fields.pop("digest", None)
    if kind == "virtual_key":
        expires = fields["expires_at"]
        fields["expires_at"] = timestamp(expires) if expires is not None else None
    return ANSWERS[kind](
        **{
            **fields,
            "budgets": budgets(entity.budgets, gate),
            "rate_limits": rate_limits(entity.rate_limits),
            "provider_configs": provider_configs(entity.provider_configs),
            "created_at": whole(entity.created_at),
            "updated_at": whole(entity.updated_at),
        }
    )
