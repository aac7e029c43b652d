"""Events: what happened, as compact versioned JSON. The outbox carries them, the log keeps them.

Ids beside names only where a name is the news; no content; no secrets. ``v`` rises when a field
changes its meaning. Times are ns since the epoch, money is nano-USD. ``seq`` is the number an event
had in the outbox, 0 for one that was born in the steward; it stands first in a stored entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import msgspec

from bifrost.audit.acts import AuditAccess as AuditAccess
from bifrost.audit.acts import Authentication as Authentication
from bifrost.audit.acts import BudgetReached as BudgetReached
from bifrost.audit.acts import ClockStep as ClockStep
from bifrost.audit.acts import Content as Content
from bifrost.audit.acts import Erasure as Erasure
from bifrost.audit.acts import GatewayLife as GatewayLife
from bifrost.audit.acts import Intent as Intent
from bifrost.audit.acts import KeyHandover as KeyHandover
from bifrost.audit.acts import PolicyChange as PolicyChange
from bifrost.audit.acts import PriceChange as PriceChange
from bifrost.audit.acts import Reconciled as Reconciled
from bifrost.audit.acts import Withdrawn as Withdrawn

MOST_LISTED = 2_048  # bytes of an event for the samplings of one request


class Sampling(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens of one sampling of a request that took several; no model means the request's."""

    model: str | None
    in_fresh: int
    in_cache_read: int
    in_cache_w5m: int
    in_cache_w1h: int
    in_tool: int
    out_text: int
    out_think: int


class ModelAccess(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="model", gc=False
):
    """One request to a model: who, what, how much, how it ended. Times in ns, money in nano-USD.

    ``outcome``: ok, refused (by us, ``code`` says why), error (the provider's status), cut (the
    client left, or the other of two hedged attempts served it), broken (the provider broke off),
    unsettled (its worker died; charged in full).
    ``source``: where the token counts come from (reported, partial, estimated, reserved).
    ``client``: the address the request came from, unless clients are not recorded.
    ``output_limit``: tokens, where the gateway lowered it to what the budget afforded.
    ``attempt``: 2 for the second target that was tried for a request, and so on; each has an event.
    ``hedge``: it was sent beside the attempt before, which had not begun to answer.

    To compute ``cost`` again: ``prices`` names the price table, ``provider_type`` the provider's
    type where that is not its name, ``priced`` the name in that table where it is not the model's:
    another one answered, or it has a price of its own in the provider's region. With ``samplings``
    those are billed instead of the counts beside them; ``unlisted`` is how many there were if they
    were too many to be listed.
    """

    v: int = 1
    seq: int = 0
    at: int
    request: str
    key: str
    user: str | None = None
    team: str | None = None
    customer: str | None = None
    asked: str | None = None
    model: str | None = None
    provider: str | None = None
    provider_type: str | None = None
    provider_key: str | None = None
    priced: str | None = None
    outcome: str
    code: str | None = None
    status: int = 0
    stream: bool = False
    in_fresh: int = 0
    in_cache_read: int = 0
    in_cache_w5m: int = 0
    in_cache_w1h: int = 0
    in_tool: int = 0
    out_text: int = 0
    out_think: int = 0
    web_searches: int = 0
    samplings: tuple[Sampling, ...] = ()
    unlisted: int = 0
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    source: str | None = None
    cost: int = 0
    reserved: int = 0
    output_limit: int = 0
    attempt: int = 0
    hedge: bool = False
    prices: str | None = None
    session: str | None = None
    agent: str | None = None
    client: str | None = None
    upstream_request: str | None = None
    took_ns: int = 0
    first_byte_ns: int = 0


class Exported(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="export", gc=False
):
    """Something happened to an export of this log.

    ``action``: added, changed, removed (by the configuration), stalled, recovered, dead_letter
    (``count`` entries from ``first`` on were refused for good), passed_over (so many are about to
    be removed, and were not sent), gap (so many were gone when it went on), reset (``first`` is
    next), replay.
    """

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    action: str
    sink: str
    first: int = 0
    count: int = 0
    reason: str = ""


class RetentionStep(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="retention", gc=False
):
    """Entries were archived or removed, or a legal hold was set or released.

    ``action``: archive (entries ``first`` to before ``end``, as ``sha256`` of their segment, are in
    ``depot`` and were read back), prune (entries before ``end`` are removed from now on), hold and
    release (of ``name``). ``until``: when the archive's lock ends, 0 without one.
    """

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    action: str
    first: int = 0
    end: int = 0
    sha256: str = ""
    depot: str = ""
    until: int = 0
    name: str = ""
    reason: str = ""


Event = (
    ModelAccess
    | PolicyChange
    | BudgetReached
    | Reconciled
    | PriceChange
    | KeyHandover
    | AuditAccess
    | Withdrawn
    | Authentication
    | GatewayLife
    | ClockStep
    | Intent
    | Content
    | Erasure
    | Exported
    | RetentionStep
)


def opening(**fields: str | int | None) -> bytes:
    """How an event of a request to a model begins: JSON without its closing brace."""
    known = {name: value for name, value in fields.items() if value is not None}
    return encoder.encode({"type": "model", **known})[:-1]


def members(**fields: str) -> bytes:
    """More members for an opened event, with their leading comma."""
    return b"," + encoder.encode(fields)[1:-1]


class Sampled(Protocol):
    """What an event keeps of a sampling (metering's ``Iteration``)."""

    @property
    def model(self) -> str | None: ...
    @property
    def in_fresh(self) -> int: ...
    @property
    def in_cache_read(self) -> int: ...
    @property
    def in_cache_w5m(self) -> int: ...
    @property
    def in_cache_w1h(self) -> int: ...
    @property
    def in_tool(self) -> int: ...
    @property
    def out_text(self) -> int: ...
    @property
    def out_think(self) -> int: ...


def samplings(sampled: Iterable[Sampled]) -> bytes:
    """The member of an opened event that lists samplings, or only counts them if they are many."""
    rows = [tuple(getattr(one, field) for field in Sampling.__struct_fields__) for one in sampled]
    listed = encoder.encode(rows) if rows else b""
    if len(listed) > MOST_LISTED:
        return b',"unlisted":%d' % len(rows)
    return b',"samplings":' + listed if listed else b""


encoder = msgspec.json.Encoder()
canonical = msgspec.json.Encoder(order="sorted")
decoder = msgspec.json.Decoder(Event)
SEQUENCED = b'{"seq":'


def encode(event: Event) -> bytes:
    """The event as the bytes that are stored and later hashed."""
    return encoder.encode(event)


def decode(raw: bytes) -> Event:
    """The event of stored bytes; raises msgspec.DecodeError (or ValidationError) otherwise."""
    event: Event = decoder.decode(raw)
    return event


def unsettled(note: bytes, amount: int, created: int) -> ModelAccess:
    """What becomes of a reservation whose owner died: charged in full, as ``note`` opened it."""
    event: Event | None
    try:
        event = decode(note)
    except msgspec.DecodeError:
        event = None
    if not isinstance(event, ModelAccess):
        event = ModelAccess(at=created, request="", key="", outcome="unsettled")
    event.at, event.cost, event.reserved = created, amount, amount
    event.outcome, event.source = "unsettled", "reserved"
    return event


def sequenced(raw: bytes, sequence: int) -> bytes:
    """The entry of an event from the outbox: its number first, then the event's own members.

    Bytes that are no event are kept as they are behind the number: they are evidence too.
    """
    return b"%b%d,%b" % (SEQUENCED, sequence, raw[1:] if raw[:1] == b"{" else raw)


def sequence(entry: bytes) -> int:
    """The outbox number of an entry, 0 for one that did not come from there."""
    if not entry.startswith(SEQUENCED):
        return 0
    digits = entry[len(SEQUENCED) : entry.find(b",", 0, 32)]
    return int(digits) if digits.isdigit() else 0


class _Timed(msgspec.Struct):
    at: int = 0
    done_at: int = 0


def time_of(entry: bytes) -> int:
    """When the event of an entry happened (ns), 0 if it does not say so."""
    try:
        timed = msgspec.json.decode(entry, type=_Timed)
    except msgspec.DecodeError:
        return 0
    return timed.done_at or timed.at


def entity_digest(entity: msgspec.Struct | None) -> str | None:
    """SHA-256, in hex, of an entity's JSON with sorted members; None of None."""
    return None if entity is None else hashlib.sha256(canonical.encode(entity)).hexdigest()
