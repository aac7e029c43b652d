"""ECS: entries as documents of the Elastic Common Schema.

What the schema has no field for stands under ``bifrost.<type>``, so that a name always has one type
in an index, and the entry itself, byte for byte, in ``event.original``.
"""

from __future__ import annotations

from typing import Any

from bifrost.exports.records import CHECKPOINT, Record
from bifrost.exports.sentences import address, ending, sentence, tokens

VERSION = "9.4.0"
# Category and kind of an event by its type; what is not listed is configuration, info.
KINDS: dict[str, tuple[str, str]] = {
    "model": ("api", "access"),
    "intent": ("api", "start"),
    "content": ("api", "info"),
    "policy": ("iam", "change"),
    "budget": ("iam", "info"),
    "auth": ("authentication", "start"),
    "gateway": ("process", "change"),
    "reconciled": ("configuration", "change"),
    "prices": ("configuration", "change"),
    "audit": ("configuration", "access"),
    "retention": ("configuration", "change"),
    "erasure": ("configuration", "deletion"),
    "key_handover": ("configuration", "change"),
}
# Of an action, where it says more than the type.
ACTIONS = {
    ("policy", "create"): "creation",
    ("policy", "delete"): "deletion",
    ("gateway", "start"): "start",
    ("gateway", "stop"): "end",
    ("retention", "prune"): "deletion",
}
ENTITIES = {"virtual_key": "user", "user": "user", "team": "group", "customer": "organization"}
# Said elsewhere in the document, so not under ``bifrost`` again.
HOMES = frozenset(
    ("type", "v", "seq", "at", "done_at", "key", "user", "team", "customer", "code", "actor",
     "action", "reason", "took_ns", "client", "address")
)  # fmt: skip
OF_REQUESTS = HOMES | {"request", "asked", "model", "provider", "status", "agent"}


def ecs(record: Record) -> dict[str, Any]:
    """A record as an ECS document."""
    event = record.event
    document: dict[str, Any] = {
        "@timestamp": record.time,
        "ecs": {"version": VERSION},
        "message": sentence(record),
        "event": _event(record),
        "service": {"name": "bifrost", "type": "bifrost"},
        "labels": {"origin": record.origin},
    }
    if record.kind == CHECKPOINT:
        document["bifrost"] = {CHECKPOINT: {"note": event["checkpoint"], "size": record.index}}
        return document
    document |= _parties(event)
    if record.kind == "model":
        document |= _model(event)
    elif record.kind == "policy":
        document |= _entity(event)
    homes = OF_REQUESTS if record.kind == "model" else HOMES
    own = {name: value for name, value in event.items() if name not in homes and _plain(value)}
    if own:
        document["bifrost"] = {record.kind: own}
    return document


def _event(record: Record) -> dict[str, Any]:
    event = record.event
    found: dict[str, Any] = {
        "id": record.id,
        "kind": "event",
        "module": "bifrost",
        "dataset": "bifrost.audit",
        "provider": "bifrost",
        "action": f"{record.kind}.{event['action']}" if event.get("action") else record.kind,
        "outcome": ending(event),
    }
    if record.kind == CHECKPOINT:
        return {**found, "kind": "state", "category": ["configuration"], "type": ["info"]}
    category, kind = KINDS.get(record.kind, ("configuration", "info"))
    if record.kind == "model" and event.get("outcome") == "refused":
        kind = "denied"
    found["category"] = [category]
    found["type"] = [ACTIONS.get((record.kind, str(event.get("action"))), kind)]
    found |= {"sequence": record.index, "hash": record.hash}
    found["original"] = record.raw.decode("utf-8", "backslashreplace")
    for name, source in (("code", "code"), ("reason", "reason"), ("duration", "took_ns")):
        if event.get(source):
            found[name] = event[source]
    return found


def _parties(event: dict[str, Any]) -> dict[str, Any]:
    """Who did it, and for whom: the actor or the virtual key's owner, team and customer."""
    found: dict[str, Any] = {}
    who = event.get("user") or event.get("key")
    if event.get("actor"):
        found["user"] = {"name": event["actor"]}
    elif who:
        found["user"] = {"id": who}
    for name, field in (("team", "group"), ("customer", "organization")):
        if event.get(name):
            found[field] = {"id": event[name]}
    related = [event[name] for name in ("actor", "user", "key") if event.get(name)]
    if related:
        found["related"] = {"user": related}
    if event.get("key"):
        found["tags"] = [f"key:{event['key']}"]
    if where := address(event):
        found["source"] = {"ip": where}
        found.setdefault("related", {})["ip"] = [where]
    return found


def _model(event: dict[str, Any]) -> dict[str, Any]:
    into, out = tokens(event)
    model: dict[str, Any] = {"usage": {"input_tokens": into, "output_tokens": out}}
    if event.get("provider"):
        model["provider"] = {"name": event["provider"]}
    if event.get("asked") or event.get("model"):
        model["request"] = {"model": event.get("asked") or event.get("model")}
    if event.get("model"):
        model["response"] = {"model": event["model"]}
    found: dict[str, Any] = {"gen_ai": model}
    http: dict[str, Any] = {}
    if event.get("request"):
        http["request"] = {"id": event["request"]}
    if event.get("status"):
        http["response"] = {"status_code": event["status"]}
    if http:
        found["http"] = http
    if event.get("agent"):
        found["user_agent"] = {"original": event["agent"]}
    return found


def _entity(event: dict[str, Any]) -> dict[str, Any]:
    """What was changed, in the field of its kind."""
    named = {"id": event.get("id"), "name": event.get("name")}
    match ENTITIES.get(str(event.get("kind"))):
        case "user":
            return {"user": {"name": event.get("actor"), "target": named}}
        case "group":
            return {"group": named}
        case "organization":
            return {"organization": named}
    return {}


def _plain(value: object) -> bool:
    """Whether an index can hold it as it is: no lists of lists, which have no mapping."""
    return isinstance(value, str | int | float | bool) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    )
