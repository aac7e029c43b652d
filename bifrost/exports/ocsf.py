"""OCSF 1.8: entries as events of the Open Cybersecurity Schema Framework.

Each names its class and holds the entry byte for byte (``raw_data``); what the class has no
attribute for is in ``unmapped``, with the entry's hash in the log's tree.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

from bifrost.exports.records import CHECKPOINT, PRODUCT, Record
from bifrost.exports.sentences import address, ending, sentence, tokens

VERSION = "1.8.0"
CATEGORIES = {0: "Uncategorized", 1: "System Activity", 3: "Identity & Access Management",
              6: "Application Activity"}  # fmt: skip
BASE, LOG, LOGON, ENTITY, LIFE, API = 0, 1008, 3002, 3004, 6002, 6003
CLASSES = {BASE: "Base Event", LOG: "Event Log Activity", LOGON: "Authentication",
           ENTITY: "Entity Management", LIFE: "Application Lifecycle",
           API: "API Activity"}  # fmt: skip
ENTITY_ACTIVITY = {"create": 1, "read": 2, "update": 3, "delete": 4, "rotate": 3, "revoke": 11}
ENTITY_NAMES = {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 11: "Deactivate"}
LOG_ACTIVITY = {"export": 3, "added": 9, "removed": 10, "stalled": 7, "recovered": 6,
                "archive": 4, "prune": 2}  # fmt: skip
LOG_NAMES = {2: "Delete", 3: "Export", 4: "Archive", 5: "Rotate", 6: "Start", 7: "Stop",
             9: "Enable", 10: "Disable", 99: "Other"}  # fmt: skip
LIFE_ACTIVITY = {"start": (3, "Start"), "stop": (4, "Stop"), "configure": (8, "Update")}
SHA_256 = 3
STATUS = {"unknown": (0, "Unknown"), "success": (1, "Success"), "failure": (2, "Failure")}
GATEWAY = {"name": "bifrost"}


def ocsf(record: Record) -> dict[str, Any]:
    """A record as an OCSF event of the class that fits its type."""
    return KINDS.get(record.kind, _base)(record)


def _event(record: Record, kind: int, activity: int, name: str, **more: Any) -> dict[str, Any]:
    """What all classes have."""
    status, said = STATUS[ending(record.event)]
    category = kind // 1000
    found = {
        "activity_id": activity,
        "activity_name": name,
        "category_uid": category,
        "category_name": CATEGORIES[category],
        "class_uid": kind,
        "class_name": CLASSES[kind],
        "type_uid": kind * 100 + activity,
        "type_name": f"{CLASSES[kind]}: {name}",
        "time": record.at // 1_000_000,
        "severity_id": 3 if status == 2 else 1,
        "severity": "Medium" if status == 2 else "Informational",
        "status_id": status,
        "status": said,
        "message": sentence(record),
        "metadata": _metadata(record),
        **more,
    }
    if record.kind != CHECKPOINT:
        found["raw_data"] = record.raw.decode("utf-8", "backslashreplace")
        found["raw_data_hash"] = {
            "algorithm_id": SHA_256, "algorithm": "SHA-256",
            "value": sha256(record.raw).hexdigest(),
        }  # fmt: skip
    for attribute, source in (("status_code", "code"), ("status_detail", "reason")):
        if record.event.get(source):
            found[attribute] = str(record.event[source])
    return found


def _metadata(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": VERSION,
        "product": {"name": "Bifrost", "vendor_name": "Bifrost", "version": PRODUCT},
        "uid": record.id,
        "log_name": record.origin,
        "log_provider": "bifrost",
        "event_code": record.kind,
        "original_time": record.time,
    }
    if record.kind != CHECKPOINT and record.index < 1 << 31:
        found["sequence"] = record.index
    if record.event.get("request"):
        found["correlation_uid"] = record.event["request"]
    return found


def _actor(event: dict[str, Any]) -> dict[str, Any]:
    """Who did it: a person or program by name, else the virtual key and its owner."""
    if event.get("actor"):
        return {"user": {"name": event["actor"]}}
    user: dict[str, Any] = {"uid": event.get("user") or event.get("key") or "unknown"}
    if event.get("key"):
        user["credential_uid"] = event["key"]
    if event.get("team"):
        user["groups"] = [{"uid": event["team"]}]
    if event.get("customer"):
        user["org"] = {"uid": event["customer"]}
    return {"user": user}


def _client(event: dict[str, Any]) -> dict[str, Any]:
    """Where it came from; its program's name where no address is recorded."""
    where = address(event)
    return {"ip": where} if where else {"name": str(event.get("agent") or "client")}


def _unmapped(record: Record, *known: str) -> dict[str, Any]:
    skipped = (*known, "type", "v", "seq", "at")
    left = {name: value for name, value in record.event.items() if name not in skipped}
    return {"unmapped": left if record.kind == CHECKPOINT else {**left, "tree_hash": record.hash}}


def _model(record: Record) -> dict[str, Any]:
    event = record.event
    into, out = tokens(event)
    more: dict[str, Any] = {
        "actor": _actor(event),
        "src_endpoint": _client(event),
        "api": {
            "operation": "model.request",
            "service": GATEWAY,
            "request": {"uid": event.get("request") or "unknown"},
        },
    }
    context = {
        "service": GATEWAY,
        "prompt_tokens": into,
        "completion_tokens": out,
        "total_tokens": into + out,
    }
    if event.get("status"):
        more["http_response"] = {"code": event["status"]}
        more["api"]["response"] = {"code": event["status"]}
    if event.get("took_ns"):
        more["duration"] = event["took_ns"] // 1_000_000
    more |= _unmapped(
        record, "actor", "user", "key", "team", "customer", "request", "status", "code"
    )
    found = _event(record, API, 99, "Other", **more)
    found["activity_name"] = "Model request"  # of an activity that is none of the schema's
    model = event.get("model") or event.get("asked")
    if model:
        provider = event.get("provider") or "unknown"
        found |= {"ai_model": {"name": model, "ai_provider": provider}, "message_context": context}
        found["metadata"]["profiles"] = ["ai_operation"]
    return found


def _policy(record: Record) -> dict[str, Any]:
    event = record.event
    activity = ENTITY_ACTIVITY.get(str(event.get("action")), 99)
    entity = {
        "type": str(event.get("kind", "entity")),
        "uid": str(event.get("id", "")),
        "name": str(event.get("name", "")),
    }
    more = _source(event) | _unmapped(record, "actor", "kind", "id", "name", "reason")
    name = ENTITY_NAMES.get(activity, "Other")
    return _event(record, ENTITY, activity, name, entity=entity, actor=_actor(event), **more)


def _changed(what: str, name: str) -> Callable[[Record], dict[str, Any]]:
    """A change of something that is no customer, team, user or key."""

    def change(record: Record) -> dict[str, Any]:
        event = record.event
        entity = {"type": what, "name": str(event.get(name) or what)}
        more = _source(event) | _unmapped(record, "actor", "reason")
        return _event(record, ENTITY, 3, "Update", entity=entity, actor=_actor(event), **more)

    return change


def _log(record: Record) -> dict[str, Any]:
    """What was done to the log itself: read, exported, its key changed."""
    event = record.event
    activity = (
        5 if record.kind == "key_handover" else LOG_ACTIVITY.get(str(event.get("action")), 99)
    )
    more = _source(event) | _unmapped(record, "actor", "reason")
    return _event(
        record, LOG, activity, LOG_NAMES[activity], log_name=record.origin,
        log_provider="bifrost", actor=_actor(event), **more,
    )  # fmt: skip


def _logon(record: Record) -> dict[str, Any]:
    """Somebody was let in or turned away."""
    event = record.event
    user = _actor(event)["user"] if event.get("key") or event.get("actor") else {"name": "unknown"}
    more = {"user": user, "service": GATEWAY, **_source(event)}
    if isinstance(event.get("count"), int):
        more["count"] = event["count"]
    more |= _unmapped(record, "actor", "key", "code", "count", "address", "client")
    return _event(record, LOGON, 1, "Logon", **more)


def _life(record: Record) -> dict[str, Any]:
    """The gateway began, ended, took up another configuration."""
    event = record.event
    activity, name = LIFE_ACTIVITY.get(str(event.get("action")), (99, "Other"))
    app = {"name": "Bifrost", "vendor_name": "Bifrost", "version": str(event.get("version", ""))}
    return _event(record, LIFE, activity, name, app=app, **_unmapped(record, "version"))


def _source(event: dict[str, Any]) -> dict[str, Any]:
    return {"src_endpoint": _client(event)} if address(event) else {}


def _base(record: Record) -> dict[str, Any]:
    return _event(record, BASE, 99, "Other", **_unmapped(record, "reason"))


KINDS: dict[str, Callable[[Record], dict[str, Any]]] = {
    "model": _model,
    "policy": _policy,
    "reconciled": _changed("request", "request"),
    "prices": _changed("price table", "digest"),
    "auth": _logon,
    "gateway": _life,
    "intent": _model,
    "erasure": _changed("subject", "subject"),
    "retention": _log,
    "audit": _log,
    "export": _log,
    "key_handover": _log,
}
