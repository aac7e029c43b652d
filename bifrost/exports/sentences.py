"""Sentences: what an entry says, in the words that people read in a SIEM, and how it ended."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Literal

from bifrost.exports.records import CHECKPOINT, Record
from bifrost.money import usd

Ending = Literal["success", "failure", "unknown"]
BAD = frozenset(("error", "broken", "refused", "denied", "failed", "failure", "stalled"))
GOOD = frozenset(("ok", "allowed", "success", "cut"))


def sentence(record: Record) -> str:
    """One line about a record."""
    event = record.event
    match record.kind:
        case "model":
            return _model(event)
        case "policy":
            what = f"{event.get('kind')} {event.get('name')!r}"
            return f"{event.get('actor')}: {event.get('action')} {what}"
        case "budget":
            return (
                f"{event.get('threshold')} % of the budget of {event.get('level')}"
                f" {event.get('name')!r} is spent"
            )
        case "reconciled":
            return f"{event.get('actor')}: request {event.get('request')} got its true cost"
        case "prices":
            return f"{event.get('actor')}: another price table is in use"
        case "key_handover":
            return f"Key {event.get('epoch')} signs the audit log from now on"
        case "audit":
            return f"{event.get('actor')}: {event.get('action')} entries of the audit log"
        case "export":
            why = f": {event['reason']}" if event.get("reason") else ""
            return f"Export {event.get('sink')!r} {event.get('action')}{why}"
        case "auth":
            who = event.get("actor") or event.get("key") or "somebody unknown"
            return f"{who} at the door {event.get('door')}: {event.get('outcome')}{_code(event)}"
        case "gateway":
            return f"{event.get('actor')}: {event.get('action')} of the gateway"
        case "intent":
            return f"Request {event.get('request')} to {event.get('model')} is about to leave"
        case "content":
            return f"The {event.get('side')} of {event.get('request')}, for the subject alone"
        case "erasure":
            return f"{event.get('actor')}: what {event.get('subject')} said can be read by nobody"
        case _ if record.kind == CHECKPOINT:
            return f"The first {record.index} entries of the audit log are signed"
    return _anything(record.kind, event)


def _model(event: dict[str, Any]) -> str:
    who = event.get("user") or event.get("key")
    model = event.get("model") or event.get("asked")
    text = f"Request to {model} by {who}: {event.get('outcome')}{_code(event)}"
    cost = event.get("cost")
    return f"{text}, {usd(cost)} USD" if isinstance(cost, int) and cost else text


def _code(event: dict[str, Any]) -> str:
    return f" ({event['code']})" if event.get("code") else ""


def _anything(kind: str, event: dict[str, Any]) -> str:
    names = ("actor", "action", "kind", "name", "subject", "outcome", "code", "reason")
    words = [str(event[name]) for name in names if event.get(name)]
    return f"{kind}: {' '.join(words)}" if words else kind


def ending(event: dict[str, Any]) -> Ending:
    """How it ended; what only tells that something was done was a success."""
    said = event.get("outcome", event.get("decision"))
    if said is None:
        done = event.get("action")
        return "failure" if done in ("stalled", "dead_letter", "passed_over", "gap") else "success"
    if said in GOOD:
        return "success"
    return "failure" if said in BAD else "unknown"


def address(event: dict[str, Any]) -> str | None:
    """The address of the client, if it is one and was recorded."""
    found = event.get("client") or event.get("address")
    try:
        return str(ip_address(found)) if isinstance(found, str) else None
    except ValueError:
        return None


def tokens(event: dict[str, Any]) -> tuple[int, int]:
    """Tokens in and out of a request to a model."""
    into = ("in_fresh", "in_cache_read", "in_cache_w5m", "in_cache_w1h", "in_tool")
    out = ("out_text", "out_think")
    return _sum(event, into), _sum(event, out)


def _sum(event: dict[str, Any], names: tuple[str, ...]) -> int:
    return sum(value for name in names if isinstance(value := event.get(name), int))
