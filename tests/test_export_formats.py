"""What receivers are told: OCSF 1.8 by its published schema, ECS by its fields, and native."""

from __future__ import annotations

import json
import typing
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from bifrost.audit import events
from bifrost.audit.events import AuditAccess, BudgetReached, Event, Exported
from bifrost.exports.ecs import VERSION as ECS
from bifrost.exports.ecs import ecs
from bifrost.exports.formats import guarded
from bifrost.exports.native import native
from bifrost.exports.ocsf import VERSION as OCSF
from bifrost.exports.ocsf import ocsf
from bifrost.exports.records import CHECKPOINT, Record, entry
from tests.exporting import change, request

FIELDS = Path(__file__).parent / "samples" / "ecs-fields.csv"
ORIGIN = "gw.example/audit/1"
AT = 1_790_000_000_123_456_789
NOTE = f"{ORIGIN}\n5\nAAAA\n\n\N{EM DASH} {ORIGIN} AAAA\n"
NAMED = {
    "request": request(1, at=AT, client="192.0.2.7"),
    "bare request": events.ModelAccess(at=AT, request="r", key="vk", outcome="unsettled"),
    "refused": request(2, at=AT, outcome="refused", code="budget_exceeded", status=402, model=None),
    "failed": request(3, at=AT, outcome="broken", team=None, customer=None, user=None),
    "sampled": request(
        4, at=AT, samplings=(events.Sampling("claude", 1, 2, 3, 4, 5, 6, 7),), tier="batch"
    ),
    **{
        f"policy {action} {kind}": change(1, at=AT, action=action, kind=kind, reason="why")
        for action, kind in (
            ("create", "customer"), ("update", "team"), ("delete", "user"),
            ("rotate", "virtual_key"), ("revoke", "virtual_key"), ("else", "something"),
        )
    },
    "budget": BudgetReached(
        at=AT, budget="bud_1", level="team", id="team_1", name="core", window_start=AT,
        window_end=AT, threshold=80, limit=5, settled=4,
    ),
    "stalled": Exported(at=AT, actor="exporter", action="stalled", sink="siem", reason="HTTP 500"),
    "read": AuditAccess(at=AT, actor="admin", action="export", first=3, count=9, filters="{}"),
}  # fmt: skip


def made(kind: type) -> Any:
    """An event of a type with something in every field, so that no type is forgotten here."""

    def value(of: Any) -> Any:
        if typing.get_origin(of) is not None and type(None) in typing.get_args(of):
            of = next(one for one in typing.get_args(of) if one is not type(None))
        if typing.get_origin(of) is tuple:
            return ()
        return {str: "text", int: 7, bool: True}.get(of, None)

    return kind(**{name: value(of) for name, of in typing.get_type_hints(kind).items()})


# Types that other parts of the gateway may write, as they stand in the log.
OTHERS: dict[str, dict[str, Any]] = {
    "let in": {"type": "auth", "door": "api", "outcome": "allowed", "actor": "admin", "count": 1},
    "turned away": {
        "type": "auth", "door": "models", "outcome": "refused", "code": "virtual_key_not_found",
        "credential": "ab12", "address": "2001:db8::1", "count": 7, "until": AT, "request": "r",
    },
    **{
        f"gateway {action}": {
            "type": "gateway", "actor": "cli:ann", "action": action, "version": "1", "config": "a",
        }
        for action in ("start", "stop", "configure", "else")
    },
    "clock": {"type": "clock", "step": -5},
    "intent": {"type": "intent", "request": "r", "key": "k", "user": "u", "model": "m"},
    "content": {
        "type": "content", "request": "r", "key": "k", "side": "request", "subject": "u",
        "sealer": "s", "size": 4, "mac": "ff", "sealed": "AAAA",
    },
    "erasure": {"type": "erasure", "actor": "admin", "subject": "u", "reason": "asked"},
    "withdrawn": {"type": "withdrawn", "actor": "admin", "withdrawn": [1, 2]},
    **{
        f"retention {action}": {"type": "retention", "actor": "steward", "action": action, "end": 9}
        for action in ("archive", "prune", "hold", "release")
    },
}  # fmt: skip
ALL: dict[str, Event] = {
    **NAMED,
    **{f"any {kind.__name__}": made(kind) for kind in typing.get_args(events.Event)},
}


def record(event: Event, index: int = 4) -> Record:
    return entry(ORIGIN, index, events.sequenced(events.encode(event), 77))


def signed() -> Record:
    event = {"type": CHECKPOINT, "checkpoint": NOTE, "keys": ["key"]}
    return Record(ORIGIN, 5, CHECKPOINT, AT, msgspec.json.encode(event), event)


RECORDS = {
    **{name: record(event) for name, event in ALL.items()},
    **{
        name: entry(ORIGIN, 6, msgspec.json.encode({"seq": 5, **one, "at": AT}))
        for name, one in OTHERS.items()
    },
    "checkpoint": signed(),
    "of another version": entry(ORIGIN, 9, b'{"type":"session.begun","at":5,"who":["a"],"n":{}}'),
    "unreadable": entry(ORIGIN, 10, b'{"seq":1,not json'),
}


@pytest.fixture(params=RECORDS, ids=str)
def told(request: pytest.FixtureRequest) -> Record:
    found: Record = RECORDS[request.param]
    return found


@cache
def catalogue() -> dict[str, Any]:
    found: dict[str, Any] = get_ocsf_schema(OCSF)
    return found


@cache
def schema(name: str, profiles: tuple[str, ...]) -> Any:
    """The JSON Schema of a class; attributes it does not have are refused."""
    return OcsfJsonSchemaEmbedded(catalogue()).get_class_schema(name, list(profiles))


def constrained(value: dict[str, Any], rules: dict[str, list[str]], where: str) -> None:
    """``at_least_one`` and ``just_one``, which the JSON Schema does not say."""
    for rule, names in (rules or {}).items():
        count = sum(name in value for name in names)
        assert count >= 1 and (rule != "just_one" or count == 1), (where, rule, names)


def check_objects(value: dict[str, Any], attributes: dict[str, Any], where: str) -> None:
    for name, one in value.items():
        attribute = attributes[name]
        kind = attribute.get("object_type")
        if attribute.get("type") != "object_t" or kind == "object":
            continue
        described = catalogue()["objects"][kind]
        for each in one if isinstance(one, list) else [one]:
            constrained(each, described.get("constraints"), f"{where}.{name}")
            check_objects(each, described["attributes"], f"{where}.{name}")


def test_ocsf_is_valid_by_the_schema_of_its_class(told: Record) -> None:
    event = json.loads(msgspec.json.encode(ocsf(told)))
    found = [
        (name, one) for name, one in catalogue()["classes"].items()
        if one["uid"] == event["class_uid"]
    ]  # fmt: skip
    [(name, described)] = found
    profiles = tuple(event["metadata"].get("profiles", ()))
    document = schema(name, profiles)
    assert document["additionalProperties"] is False
    jsonschema.Draft202012Validator(document).validate(event)
    constrained(event, described.get("constraints"), name)
    check_objects(event, described["attributes"], name)
    assert set(profiles) <= set(described["profiles"])
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    activities = described["attributes"]["activity_id"]["enum"]
    assert event["activity_id"] == 99 or (
        event["activity_name"] == activities[str(event["activity_id"])]["caption"]
    )
    assert event["category_uid"] == described.get("category_uid", 0)
    assert event["metadata"]["uid"] == told.id
    if told.kind != CHECKPOINT:
        assert event["raw_data"].encode() == told.raw
        assert event["raw_data_hash"]["value"] == sha256(told.raw).hexdigest()
        assert event["unmapped"]["tree_hash"] == sha256(b"\0" + told.raw).hexdigest()


@cache
def fields() -> dict[str, tuple[str, bool, frozenset[str]]]:
    """ECS: type, array or not, allowed values, by name."""
    lines = [line for line in FIELDS.read_text().splitlines() if not line.startswith("#")]
    rows = [line.split(",") for line in lines]
    return {
        name: (kind, array == "array", frozenset(filter(None, allowed.split("|"))))
        for name, kind, array, allowed in rows
    }


def leaves(value: Any, place: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and place not in ("bifrost", "labels"):
        return [
            leaf
            for name, one in value.items()
            for leaf in leaves(one, f"{place}.{name}" if place else name)
        ]
    return [(place, value)]


TYPES: dict[str, Any] = {
    "keyword": str, "date": str, "match_only_text": str, "long": int, "integer": int, "ip": str,
}  # fmt: skip


def test_ecs_has_only_fields_of_the_schema_with_their_types(told: Record) -> None:
    document = json.loads(msgspec.json.encode(ecs(told)))
    for name, value in leaves(document):
        if name == "bifrost":
            assert set(value) == {told.kind}
            continue
        if name == "labels":
            assert all(isinstance(one, str) for one in value.values())
            continue
        kind, array, allowed = fields()[name]
        assert isinstance(value, list) == array, name
        for one in value if array else [value]:
            assert isinstance(one, TYPES[kind]) and not isinstance(one, bool), name
            assert not allowed or one in allowed, (name, one)
            assert kind != "integer" or abs(one) < 1 << 31
    assert document["ecs"]["version"] == ECS
    assert document["event"]["id"] == told.id
    if told.kind != CHECKPOINT:
        assert document["event"]["original"].encode() == told.raw
        assert document["event"]["hash"] == sha256(b"\0" + told.raw).hexdigest()


def test_names_under_bifrost_have_one_type_each() -> None:
    """An index takes a name with one type only."""
    seen: dict[str, str] = {}
    for told in RECORDS.values():
        for kind, values in json.loads(msgspec.json.encode(ecs(told))).get("bifrost", {}).items():
            for name, value in values.items():
                one = value[0] if isinstance(value, list) and value else value
                found = type(one).__name__
                assert seen.setdefault(f"{kind}.{name}", found) == found or one == []


def test_native_is_the_entry_byte_for_byte(told: Record) -> None:
    raw = msgspec.json.encode(native(told))
    found = json.loads(raw)
    assert (found["id"], found["origin"], found["index"]) == (told.id, ORIGIN, told.index)
    if told.kind == CHECKPOINT:
        assert found["checkpoint"] == NOTE
        return
    assert found["hash"] == sha256(b"\0" + told.raw).hexdigest()
    if told.event:
        assert b'"entry":' + told.raw + b"}" in raw
    else:
        assert "base64" in found


@pytest.mark.parametrize("form", ["native", "ocsf", "ecs"])
def test_an_entry_that_fits_no_format_is_told_as_it_is(form: Any) -> None:
    odd = (
        b'{"type":"model","at":1e300,"took_ns":"long","client":[1],"status":{"a":1},"in_fresh":"x"}'
    )
    one = entry(ORIGIN, 3, odd)
    found = json.loads(msgspec.json.encode(guarded(form)(one)))
    assert odd.decode() in (
        found.get("raw_data"), found.get("event", {}).get("original"),
        json.dumps(found.get("entry"), separators=(",", ":")).replace("1e+300", "1e300"),
    )  # fmt: skip


def test_what_a_siem_is_told_of_a_request() -> None:
    event = ocsf(RECORDS["refused"])
    assert (event["class_uid"], event["status"]) == (6003, "Failure")
    assert event["actor"]["user"] == {
        "uid": "usr_1", "credential_uid": "vk_1", "groups": [{"uid": "team_1"}],
        "org": {"uid": "cus_1"},
    }  # fmt: skip
    assert event["status_code"] == "budget_exceeded"
    document = ecs(RECORDS["request"])
    assert document["message"] == "Request to claude-sonnet-4-5 by usr_1: ok, 0.000001234 USD"
    assert document["gen_ai"] == {
        "usage": {"input_tokens": 11, "output_tokens": 5},
        "provider": {"name": "anthropic"},
        "request": {"model": "sonnet"},
        "response": {"model": "claude-sonnet-4-5"},
    }
    assert document["event"]["outcome"] == "success"
    assert document["bifrost"]["model"]["cost"] == 1234
    assert ecs(RECORDS["refused"])["event"]["type"] == ["denied"]
    assert document["source"] == {"ip": "192.0.2.7"}
    assert ocsf(RECORDS["request"])["src_endpoint"] == {"ip": "192.0.2.7"}
    changed = ecs(RECORDS["policy rotate virtual_key"])
    assert changed["user"] == {"name": "cli:ann", "target": {"id": "vk_1", "name": "key 1"}}
    assert changed["message"] == "cli:ann: rotate virtual_key 'key 1'"
