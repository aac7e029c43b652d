"""What is governed: customers, teams, users, virtual keys, and the budgets on each of them.

Frozen values without cycles (``gc=False``); ``directory`` stores them. Ids are a prefix and 16 hex
digits (64 random bits), so that the counters can use the 64 bits as their key. Money is int
nano-USD, time is int nanoseconds.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from bifrost.errors import Stale

SECRET_PREFIX = "sk-bf-"
Kind = Literal["customer", "team", "user", "virtual_key"]
KINDS: tuple[Kind, ...] = ("customer", "team", "user", "virtual_key")
PREFIX: dict[str, str] = {
    "customer": "cus_",
    "team": "team_",
    "user": "usr_",
    "virtual_key": "vk_",
    "budget": "bud_",
    "rate_limit": "lim_",
}

_KIND_OF: dict[str, Kind] = {PREFIX[kind]: kind for kind in KINDS}


def new_id(kind: str) -> str:
    """A fresh id of the given kind, for example ``vk_0123456789abcdef``."""
    return PREFIX[kind] + secrets.token_hex(8)


def new_secret() -> str:
    """A fresh secret of a virtual key: the prefix and 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def id_number(identifier: str) -> int:
    """The 64-bit number inside an id (the counters' key)."""
    return int(identifier[-16:], 16)


def kind_of(identifier: str) -> Kind | None:
    """The kind an id belongs to by its prefix, or None if it is not an id."""
    return _KIND_OF.get(identifier[:-16])


def is_name(text: str) -> bool:
    """Whether an entity can have this name (LMDB keys hold 511 bytes with the kind in front)."""
    if not text.isprintable() or text != text.strip():
        return False
    return 1 <= len(text) <= 200 and len(text.encode()) <= 480


class Override(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """Another limit for some windows: ``max_limit`` nano-USD from ``start_at`` until ``end_at``."""

    max_limit: int
    start_at: int
    end_at: int
    reason: str = ""


class Budget(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A cap on spending per window. ``max_limit`` is nano-USD, the instants are nanoseconds.

    ``provider`` narrows it to what goes to that provider (a key's only). ``fiscal_start`` is the
    month, 1 to 12, in which aligned quarters and years begin. ``reset_at`` is the last manual
    reset, ``reset_reason`` its reason: the window that holds it begins anew there.
    """

    id: str
    max_limit: int
    reset_duration: str
    calendar_aligned: bool = False
    time_zone: str = "UTC"
    created_at: int
    provider: str | None = None
    overdraft: Literal["none", "last_request"] = "none"
    tight: Literal["wait,clamp", "wait", "clamp", "refuse"] = "wait,clamp"
    fiscal_start: int = 1
    reset_at: int = 0
    reset_reason: str = ""
    override: Override | None = None


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A cap on requests or tokens in any ``window``, or on requests at the same time.

    ``provider`` and ``model`` (globs) narrow what it counts; None is everything.
    """

    id: str
    metric: Literal["requests", "tokens", "input_tokens", "output_tokens", "concurrency"]
    max_limit: int
    window: str = "1m"
    provider: str | None = None
    model: str | None = None


class ProviderRule(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """Which models of which provider a key may use; globs, ``*`` alone means all; a deny wins."""

    provider: str = "*"
    allowed_models: tuple[str, ...] = ("*",)
    blocked_models: tuple[str, ...] = ()
    weight: float = 1.0


class Entity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What customers, teams, users and keys have in common.

    ``provider_configs`` of a customer, team or user narrow what is below; empty does not.
    """

    id: str
    name: str
    is_active: bool = True
    budgets: tuple[Budget, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    provider_configs: tuple[ProviderRule, ...] = ()
    created_at: int
    updated_at: int


class Customer(Entity, frozen=True, kw_only=True, gc=False):
    """The organisation that pays."""


class Team(Entity, frozen=True, kw_only=True, gc=False):
    """A part of a customer, or standing alone."""

    customer_id: str | None = None


class User(Entity, frozen=True, kw_only=True, gc=False):
    """A person or service, in at most one team or directly under a customer."""

    team_id: str | None = None
    customer_id: str | None = None


class VirtualKey(Entity, frozen=True, kw_only=True, gc=False):
    """A credential of the gateway; the secret itself is never stored, only ``digest``.

    ``digest`` is the keyed BLAKE3 of the secret in hex; ``hint`` its last four characters.
    ``audit_content`` is what is recorded of what it says, None: what the deployment records.
    ``allowed_fields`` are governed request fields this key may use (see ``governance.admission``).
    """

    digest: str
    hint: str
    expires_at: int | None = None
    user_id: str | None = None
    team_id: str | None = None
    customer_id: str | None = None
    provider_configs: tuple[ProviderRule, ...] = (ProviderRule(),)
    allowed_fields: tuple[str, ...] | None = None
    audit_content: Literal["none", "hash", "full"] | None = None


class Credential(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is recorded of an administrator's credential: ``digest`` is a keyed one."""

    id: str
    digest: str

    @property
    def name(self) -> str:
        """What it is called where changes are listed."""
        return self.id.replace("_", " ")


TYPES: dict[Kind, type[Entity]] = {
    "customer": Customer,
    "team": Team,
    "user": User,
    "virtual_key": VirtualKey,
}


def expected(stored: Entity, expect: Entity | None) -> Entity:
    """The stored entity; raises Stale if it is not as ``expect`` any more."""
    if expect is not None and stored != expect:
        raise Stale(f"{stored.name!r} was changed meanwhile; read it again.")
    return stored


def change_of(before: Entity | None, after: Entity | None) -> tuple[str, Kind]:
    """What happened (create, update, delete, rotate, revoke) and to what kind of entity."""
    entity = after or before
    kind = kind_of(entity.id) if entity is not None else None
    assert kind is not None
    action = "create" if before is None else "delete" if after is None else "update"
    if isinstance(before, VirtualKey) and isinstance(after, VirtualKey):
        if before.digest != after.digest:
            action = "rotate" if after.digest else "revoke"
    return action, kind
