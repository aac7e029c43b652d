"""Policy changes as events: who changed a customer, team, user or virtual key.

``acting`` says who is at work; the recorder turns each change into an event before it is committed.
A leaf room: it knows no directory, only the entities it is given.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from bifrost._fast.gate import Gate, GateError
from bifrost.audit import events
from bifrost.errors import StoreError

_actor: ContextVar[str] = ContextVar("bifrost_actor", default="gateway")
_reason: ContextVar[str] = ContextVar("bifrost_reason", default="")
_client: ContextVar[str | None] = ContextVar("bifrost_client", default=None)
_made: ContextVar[list[int] | None] = ContextVar("bifrost_made", default=None)


class Named(Protocol):
    """What a change must know of an entity; it is a msgspec Struct."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


@contextmanager
def acting(actor: str, reason: str = "", client: str | None = None) -> Iterator[None]:
    """Who changes things in this block (``cli:ann``, ``config``, ``admin``, ``user:x``), why, and
    from which address.

    It holds for this thread or task, and for tasks it starts.
    """
    was, why = _actor.set(actor), _reason.set(reason)
    where = _client.set(client or _client.get())
    try:
        yield
    finally:
        _actor.reset(was)
        _reason.reset(why)
        _client.reset(where)


def actor() -> str:
    """Who is at work now; ``gateway`` when nobody said."""
    return _actor.get()


def reason() -> str:
    """Why it is done; empty when nobody said."""
    return _reason.get()


def client() -> str | None:
    """From which address it is done; None when nobody said."""
    return _client.get()


def record(gate: Gate, action: str, kind: str, before: Any, after: Any) -> None:
    """Puts a change into the outbox; raises StoreError, so that no change goes unrecorded.

    ``before`` and ``after`` are the entity (``Named``), None where there was or is none.
    """
    named: Named = before if after is None else after
    now = time.time_ns()
    event = events.PolicyChange(
        at=now, actor=actor(), action=action, kind=kind, id=named.id, name=named.name,
        before=events.entity_digest(before), after=events.entity_digest(after),
        reason=reason(), client=client(),
    )  # fmt: skip
    put(gate, event, "The change cannot be recorded, so it is not made")


def put(gate: Gate, event: events.Event, complaint: str) -> int:
    """Puts an event into the outbox and returns its number; raises StoreError with ``complaint``.

    That it is on the disk is not said yet.
    """
    try:
        sequence = gate.append(events.encode(event), time.time_ns(), admitting=True)
    except GateError as error:
        raise StoreError(f"{complaint}: {error}.") from error
    made = _made.get()
    if made is not None:
        made.append(sequence)
    return sequence


@contextmanager
def collecting() -> Iterator[list[int]]:
    """The numbers of the events that are put in this block."""
    made: list[int] = []
    was = _made.set(made)
    try:
        yield made
    finally:
        _made.reset(was)


def record_access(gate: Gate, action: str, first: int, count: int, filters: str = "") -> int:
    """Puts a reading of the audit log into the outbox; raises StoreError, and then nothing is read.

    The fields are those of ``events.AuditAccess``. Returns the event's number.
    """
    now = time.time_ns()
    event = events.AuditAccess(
        at=now, actor=actor(), action=action, first=first, count=count, filters=filters,
        reason=reason(), client=client(),
    )  # fmt: skip
    return put(gate, event, "The access cannot be recorded, so it is refused")


def record_export(
    gate: Gate, action: str, sink: str, first: int = 0, count: int = 0, why: str = ""
) -> int:
    """Puts what happened to an export into the outbox; raises StoreError. Returns its number.

    The fields are those of ``events.Exported``; ``why`` goes before the reason somebody gave.
    """
    now = time.time_ns()
    event = events.Exported(
        at=now, actor=actor(), action=action, sink=sink, first=first, count=count,
        reason=why or reason(),
    )  # fmt: skip
    return put(gate, event, "What happened to an export cannot be recorded")


def record_hold(gate: Gate, action: str, name: str) -> int:
    """Puts a legal hold (``hold``) or its end (``release``) into the outbox; raises StoreError.

    Returns the event's number.
    """
    now = time.time_ns()
    event = events.RetentionStep(at=now, actor=actor(), action=action, name=name, reason=reason())
    return put(gate, event, "The hold cannot be recorded, so it stays as it is")
