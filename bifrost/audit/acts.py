"""Acts: the events that are no requests to models. Times are ns since the epoch, money nano-USD.

What ``v`` and ``seq`` are says ``events.py``.
"""

from __future__ import annotations

import msgspec


class PolicyChange(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="policy", gc=False
):
    """A customer, team, user or virtual key was changed: by whom, and from what to what.

    ``action``: create, update, delete, rotate, revoke. ``before`` and ``after`` are SHA-256 hex
    digests of the entity (``entity_digest``), None where there was or is none. ``client`` is the
    address it was asked from, where it came by the API.
    """

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    action: str
    kind: str
    id: str
    name: str
    before: str | None = None
    after: str | None = None
    reason: str = ""
    client: str | None = None


class BudgetReached(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="budget", gc=False
):
    """The spending of a budget reached a share of its limit in a window.

    ``level`` is the kind of the entity ``id`` that has the budget, ``threshold`` percent.
    """

    v: int = 1
    seq: int = 0
    at: int
    budget: str
    level: str
    id: str
    name: str
    window_start: int
    window_end: int
    threshold: int
    limit: int
    settled: int


class Reconciled(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="reconciled", gc=False
):
    """An unsettled request got its true cost.

    ``at`` is the request's own time, so that its window and its day are corrected, ``done_at`` that
    of the correction. ``before`` is what was charged, ``cost`` the signed difference booked now.
    """

    v: int = 1
    seq: int = 0
    at: int
    done_at: int
    request: str
    key: str
    user: str | None = None
    team: str | None = None
    customer: str | None = None
    model: str | None = None
    provider: str | None = None
    before: int = 0
    cost: int = 0
    reason: str = ""
    actor: str


class PriceChange(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="prices", gc=False
):
    """Another price table is in use: the digests of the one before and of this one and, in short
    texts, what became different, as ``store local/*: none -> input 1, output 2``."""

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    before: str = ""
    digest: str
    changes: tuple[str, ...] = ()
    reason: str = ""
    client: str | None = None


class KeyHandover(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="key_handover", gc=False
):
    """The key that signs the log names the next one: ``note`` is signed by the old key, the last
    checkpoint of which ends with this entry. ``epoch`` is the number of the new key."""

    v: int = 1
    seq: int = 0
    at: int
    epoch: int
    note: str


class AuditAccess(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="audit", gc=False
):
    """Entries of this log were read: by whom, and which.

    ``action``: list, show, prove, export. ``first`` is the index of the first entry that was looked
    at, ``count`` how many were asked for (0: all), ``filters`` what they had to fit.
    """

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    action: str
    first: int = 0
    count: int = 0
    filters: str = ""
    reason: str = ""
    client: str | None = None


class Withdrawn(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="withdrawn", gc=False
):
    """Changes that were recorded were not made after all: ``withdrawn`` are the ``seq`` of their
    events."""

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    withdrawn: tuple[int, ...]
    reason: str = ""


class Authentication(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="auth", gc=False
):
    """Somebody was let in or turned away, at the door ``api`` (administration) or ``models``.

    ``outcome``: allowed, refused (``code`` says why). ``actor`` is who it is found to be, ``key``
    the id of a virtual key that was recognised, ``credential`` the beginning of the keyed digest of
    one that was not, ``what`` the operation that was refused, ``request`` the first one's id.
    ``count``: how many were alike from ``at`` until ``until``; the first of them is an event of its
    own. Where too many differ, what tells them apart is left out (``lumped``).
    """

    v: int = 1
    seq: int = 0
    at: int
    until: int = 0
    count: int = 1
    door: str
    outcome: str
    code: str | None = None
    actor: str | None = None
    key: str | None = None
    credential: str | None = None
    client: str | None = None
    what: str | None = None
    request: str | None = None
    lumped: bool = False


class GatewayLife(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="gateway", gc=False
):
    """The gateway began, ended or took up another configuration.

    ``action``: start, stop, configure. ``config`` is the SHA-256 of the effective configuration
    without its secrets, ``before`` that of the one before.
    """

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    action: str
    version: str
    config: str
    before: str | None = None
    pid: int = 0
    workers: int = 0


class ClockStep(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="clock", gc=False
):
    """The wall clock was set while the gateway ran: by ``step`` ns, seen at ``at`` by the new time.

    Entries are ordered by their index, never by their times.
    """

    v: int = 1
    seq: int = 0
    at: int
    step: int


class Intent(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="intent", gc=False
):
    """A request is about to leave for its provider; recorded before that in the mode ``strict``."""

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
    reserved: int = 0


class Content(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="content", gc=False
):
    """What was said in a request, as a digest or sealed: nothing of it can be read without the key
    of its subject.

    ``side``: request (as it came from the client) or response (as it came from the provider).
    ``subject`` is the user, or the virtual key of nobody; ``sealer`` names its key, ``size`` are
    the bytes and ``mac`` is their HMAC-SHA-256 under it. ``sealed`` is one of ``parts`` parts, in
    base64; ``cut`` says that more came than is kept.
    """

    v: int = 1
    seq: int = 0
    at: int
    request: str
    key: str
    side: str
    subject: str
    sealer: str
    size: int
    mac: str
    part: int = 0
    parts: int = 0
    sealed: str | None = None
    cut: bool = False


class Erasure(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="erasure", gc=False
):
    """The key of a subject is destroyed: its content can be read by nobody any more.

    ``sealer`` names the key, as ``content`` does; none if there was none.
    """

    v: int = 1
    seq: int = 0
    at: int
    actor: str
    subject: str
    name: str = ""
    sealer: str | None = None
    reason: str = ""
