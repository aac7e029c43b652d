"""Messages: what a receiver is told of an event, as JSON. Ids, names and amounts; nothing else.

Money is told twice: USD as an exact decimal string, and int nano-USD. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bifrost.audit.events import BudgetReached
from bifrost.money import usd


class Message(msgspec.Struct, frozen=True):
    """One message: its id, the same at every attempt, its type and its body."""

    id: str
    type: str
    body: bytes


def told(event: BudgetReached) -> Message:
    """The message about a threshold; its id follows from what makes the event unique."""
    fact = f"{event.budget}:{event.window_start}:{event.threshold}"
    data = {
        "budget_id": event.budget,
        "owner": {"level": event.level, "id": event.id, "name": event.name},
        "threshold_percent": event.threshold,
        "window_start": moment(event.window_start),
        "window_end": moment(event.window_end),
        "limit_usd": usd(event.limit),
        "limit_nano_usd": event.limit,
        "spent_usd": usd(event.settled),
        "spent_nano_usd": event.settled,
    }
    digest = hashlib.sha256(fact.encode()).hexdigest()[:32]
    return _message(f"msg_{digest}", "budget.threshold", event.at, data)


def trial(at_ns: int) -> Message:
    """A message that means nothing, to try a receiver with."""
    data = {"text": "This is a test of a webhook of Bifrost; nothing has happened."}
    return _message(f"msg_{secrets.token_hex(16)}", "webhook.test", at_ns, data)


def _message(message_id: str, kind: str, at_ns: int, data: dict[str, Any]) -> Message:
    body = {"type": kind, "timestamp": moment(at_ns), "data": data}
    return Message(message_id, kind, msgspec.json.encode(body))


def moment(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, to the microsecond."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)
    return at.isoformat().replace("+00:00", "Z")
