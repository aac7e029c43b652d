"""Exports of a running gateway: kills, reloads, commands, metrics, embedding, and the documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bifrost import Gateway
from bifrost.audit import events
from bifrost.audit.events import Exported
from bifrost.audit.log import Reader
from bifrost.config.load import load, parse
from bifrost.exports.progress import Progress, unsent
from bifrost.exports.shipment import LONGEST_S, pause_s
from tests.administration import Admin
from tests.collectors import Hec, Intake
from tests.commands import Office, bifrost, until
from tests.running import RunningGateway, RunningMock, bearer, configuration, message
from tests.test_config import problems
from tests.test_serve import ask, children, rewrite

DOCS = Path(__file__).parent.parent / "docs" / "exports.md"
PATIENCE_S = 60.0
SPLUNK: dict[str, Any] = {"type": "splunk", "name": "siem", "token": "t0ken", "interval_s": 0.1}


@pytest.fixture
def hec() -> Iterator[Hec]:
    found = Hec("t0ken")
    yield found
    found.close()


def exporting(mock: RunningMock, *sinks: dict[str, Any]) -> dict[str, Any]:
    return {**configuration(mock.url), "audit_logs": {"exports": list(sinks)}}


def in_log(data_dir: Path) -> list[bytes]:
    return [raw for _, raw in Reader(data_dir).read(0, 1_000_000)]


def about_exports(data_dir: Path) -> list[tuple[str, str, str]]:
    """What the audit log says of exports: who, what, which."""
    found = [events.decode(raw) for raw in in_log(data_dir)]
    return [(one.actor, one.action, one.sink) for one in found if isinstance(one, Exported)]


def received(hec: Hec) -> dict[int, bytes]:
    """The entries the collector took, by their index."""
    return {
        told["event"]["index"]: told["event"]["entry"]
        for told in list(hec.documents.values())
        if "entry" in told["event"]
    }


def whole(hec: Hec, data_dir: Path) -> bool:
    """Whether it took every entry of the log."""
    return received(hec) == {n: json.loads(raw) for n, raw in enumerate(in_log(data_dir))}


def exporter(gateway: RunningGateway) -> psutil.Process | None:
    """The process that holds the exports' lock."""
    lock = (gateway.data_dir / "exports.lock").stat().st_ino
    found = re.findall(
        rf"FLOCK +ADVISORY +WRITE +(\d+) +\S+:{lock} ", Path("/proc/locks").read_text()
    )
    return next((child for child in children(gateway) if str(child.pid) in found), None)


def test_kills_in_the_middle_lose_nothing_and_repeat_under_equal_ids(
    mock: RunningMock, hec: Hec, tmp_path: Path
) -> None:
    """Killed after the receiver has taken a batch and before its answer: the position stands."""
    gateway = RunningGateway(tmp_path, exporting(mock, {**SPLUNK, "url": hec.url}))
    try:
        for _ in range(3):
            hec.release.clear()
            before = len(hec.asked)
            hec.faults.append(("held", {}))
            for _ in range(5):
                assert ask(gateway.url).status_code == 200
            until(lambda before=before: not hec.faults and len(hec.asked) > before, PATIENCE_S)
            victim = until(lambda: exporter(gateway), PATIENCE_S)
            victim.kill()
            victim.wait(20)
            hec.release.set()
        until(lambda: whole(hec, gateway.data_dir), PATIENCE_S)
        ids = [one for one in hec.taken if "/checkpoint/" not in one]
        assert len(ids) == len(in_log(gateway.data_dir))
        assert any(count > 1 for count in hec.taken.values())
        assert about_exports(gateway.data_dir) == [("config", "added", "siem")]
    finally:
        gateway.stop()


def test_commands_show_replay_and_reset_and_the_log_knows(
    mock: RunningMock, hec: Hec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = RunningGateway(tmp_path, exporting(mock, {**SPLUNK, "url": hec.url}))
    office = Office(gateway.data_dir)
    try:
        headers = {**bearer(), "x-request-id": "poison-1"}
        answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=headers)
        assert answer.status_code == 200
        [letter] = until(lambda: office.json("audit", "exports", "dead", "siem"), PATIENCE_S)
        assert "Invalid data format" in letter["reason"] and not letter["waiting"]
        assert json.loads(in_log(gateway.data_dir)[letter["index"]])["request"] == "poison-1"
        until(lambda: office.json("audit", "exports")[0]["lag_entries"] == 0, PATIENCE_S)
        [shown] = office.json("audit", "exports")
        assert (shown["name"], shown["type"], shown["state"]) == ("siem", "splunk", "active")
        assert (shown["dead_letters"], shown["lag_seconds"]) == (1, 0)
        assert "t0ken" not in json.dumps(shown)
        assert "siem" in office("audit", "exports").out
        assert "poison-1" not in office("audit", "exports", "dead").out
        monkeypatch.setattr("tests.collectors.POISON", "nothing")
        done = office.json("audit", "exports", "replay", "siem", "--reason", "mended")
        assert done == {"sink": "siem", "replayed": 1}
        until(lambda: not office.json("audit", "exports", "dead"), PATIENCE_S)
        until(lambda: whole(hec, gateway.data_dir), PATIENCE_S)
        before = sum(hec.taken.values())
        assert office("audit", "exports", "reset", "siem", "--to", "10000").code == 2
        assert office.json("audit", "exports", "reset", "siem", "--to", "0")["next_index"] == 0
        until(lambda: sum(hec.taken.values()) >= 2 * before - 4, PATIENCE_S)
        until(lambda: whole(hec, gateway.data_dir), PATIENCE_S)
        told = about_exports(gateway.data_dir)
        assert [one[1] for one in told] == ["added", "dead_letter", "replay", "reset"]
        assert told[1][0] == "exporter" and told[2][0].startswith("cli:")
        before = ("audit", "exports", "--data-dir", gateway.data_dir, "dead")
        assert bifrost(*before).code == 2
        missing = office("audit", "exports", "replay", "nobody")
        assert missing.code == 1 and "There is no export 'nobody'" in missing.err
    finally:
        gateway.stop()


def test_metrics_tell_how_far_each_export_is_behind(mock: RunningMock, tmp_path: Path) -> None:
    intake = Intake("k3y")
    sink = {"type": "datadog", "name": "dd", "url": intake.url, "token": "wrong", "interval_s": 0.1}
    gateway = RunningGateway(tmp_path, exporting(mock, sink))

    def figures() -> dict[str, float]:
        text = httpx.get(f"{gateway.url}/metrics").text
        found = re.findall(r'^bifrost_export_(\w+)\{sink="dd"\} (\S+)$', text, re.M)
        return {name: float(value) for name, value in found}

    try:
        assert ask(gateway.url).status_code == 200
        until(lambda: figures().get("failures", 0) >= 1 and figures()["lag_seconds"], PATIENCE_S)
        assert figures()["lag_entries"] == len(in_log(gateway.data_dir)) > 0
        assert unsent(gateway.data_dir, []) == {"dd": 0}
        assert figures()["removed_entries"] == 0
        rewrite(gateway, exporting(mock, {**sink, "token": "k3y"}))
        until(lambda: figures().get("lag_entries") == 0, PATIENCE_S)
        assert figures()["entries_total"] == len(in_log(gateway.data_dir))
        assert (figures()["failures"], figures()["lag_seconds"]) == (0, 0)
        assert [one[1] for one in about_exports(gateway.data_dir)] == ["added", "changed"]
        with Admin(gateway) as admin:
            shown = admin.get("/config")["audit_logs"]["exports"]
        assert shown[0]["type"] == "datadog" and shown[0]["token"] == "***"
    finally:
        gateway.stop()
        intake.close()


def test_a_reload_adds_and_removes_sinks(mock: RunningMock, hec: Hec, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    gateway = RunningGateway(tmp_path, configuration(mock.url))
    try:
        assert not (gateway.data_dir / "exports.db").exists()
        assert ask(gateway.url).status_code == 200
        file = {"type": "file", "name": "file", "path": str(path), "interval_s": 0.1}
        rewrite(gateway, exporting(mock, file))
        until(lambda: path.exists() and path.read_bytes().count(b'"entry"') > 3, PATIENCE_S)
        rewrite(gateway, exporting(mock, {**SPLUNK, "url": hec.url, "start": "newest"}))
        until(lambda: len(about_exports(gateway.data_dir)) == 3, PATIENCE_S)
        assert ask(gateway.url).status_code == 200
        until(lambda: received(hec), PATIENCE_S)
        until(lambda: exporter(gateway), PATIENCE_S)
        assert 0 not in received(hec)
        rewrite(gateway, configuration(mock.url))
        until(lambda: len(about_exports(gateway.data_dir)) == 4, PATIENCE_S)
        assert [one[1:] for one in about_exports(gateway.data_dir)] == [
            ("added", "file"), ("added", "siem"), ("removed", "file"), ("removed", "siem"),
        ]  # fmt: skip
        until(lambda: exporter(gateway) is None, PATIENCE_S)
    finally:
        gateway.stop()


def test_embedded_a_thread_exports(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    file = {"type": "file", "name": "file", "path": "out.jsonl", "interval_s": 0.1}
    config = {**configuration("http://127.0.0.1:9"), "audit_logs": {"exports": [file]}}
    (tmp_path / "bifrost.json").write_text(json.dumps(config))
    gateway = Gateway.open(tmp_path / "bifrost.json", data_dir=tmp_path / "data")
    try:
        until(lambda: path.exists() and path.read_bytes().count(b'"entry"') >= 5, PATIENCE_S)
    finally:
        gateway.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["index"] for one in lines if "entry" in one][:5] == [0, 1, 2, 3, 4]
    assert any("checkpoint" in one for one in lines)


def test_a_gateway_that_stops_has_sent_nothing_it_will_miss(
    mock: RunningMock, hec: Hec, tmp_path: Path
) -> None:
    config = exporting(mock, {**SPLUNK, "url": hec.url})
    first = RunningGateway(tmp_path, config)
    assert ask(first.url).status_code == 200
    assert first.stop() == 0
    second = RunningGateway(tmp_path, config)
    try:
        until(lambda: whole(hec, second.data_dir), PATIENCE_S)
    finally:
        second.stop()


# -- the configuration and the documents -----------------------------------------------------------


def sinks(*found: dict[str, Any]) -> dict[str, Any]:
    return {"audit_logs": {"exports": list(found)}}


FILE = {"type": "file", "name": "f", "path": "x.jsonl"}


@pytest.mark.parametrize(
    ("sink", "said"),
    [
        (
            {"name": "x"},
            "audit_logs.exports[0].type: missing; expected 'elastic', 'splunk', 'datadog', 's3',"
            " 'webhook', 'syslog', 'otlp' or 'file'",
        ),
        (
            {"type": "spluck"},
            "audit_logs.exports[0].type: expected 'elastic', 'splunk', 'datadog', 's3', 'webhook',"
            " 'syslog', 'otlp' or 'file', got 'spluck'; did you mean 'splunk'?",
        ),
        ("x", "audit_logs.exports[0]: expected an object, got text"),
        (
            {**FILE, "token": "s3cret"},
            "audit_logs.exports[0].token: unknown key (valid: name, format, events, start,"
            " max_entries, max_bytes, interval_s, timeout_s, path)",
        ),
        (
            {**FILE, "format": "cef"},
            "audit_logs.exports[0].format: expected 'ecs', 'native' or 'ocsf', got 'cef'",
        ),
        (
            {**FILE, "name": "a/b"},
            "audit_logs.exports[0].name: expected a name of letters, digits and . _ - only",
        ),
        (
            {**FILE, "max_entries": 0},
            "audit_logs.exports[0].max_entries: expected an integer from 1 to 100000, got 0",
        ),
        (
            {"type": "splunk", "name": "s", "url": "https://u:p@h", "token": "t"},
            "audit_logs.exports[0].url: expected an http or https address without user, password,"
            " query or fragment",
        ),
        (
            {"type": "splunk", "name": "s", "url": "https://h", "token": "a b"},
            "audit_logs.exports[0].token: holds a space, a control character or a character beyond"
            " ASCII, which no header can carry",
        ),
        (
            {"type": "syslog", "name": "s", "url": "udp://h:514"},
            "audit_logs.exports[0].url: expected 'tcp://host:port' or 'tls://host:port'",
        ),
        (
            {"type": "elastic", "name": "e", "url": "https://h", "index": "i", "username": "u"},
            "audit_logs.exports[0]: expected username and password, or neither",
        ),
        (
            {"type": "elastic", "name": "e", "url": "https://h", "index": "Audit"},
            "audit_logs.exports[0].index: expected the name of an index in lower case",
        ),
    ],
)
def test_what_is_wrong_is_said(sink: Any, said: str) -> None:
    assert problems(sinks(sink)) == [said]


def test_names_and_files_are_used_once() -> None:
    assert problems(sinks(FILE, FILE)) == [
        "audit_logs.exports[1].name: 'f' is already the name of audit_logs.exports[0]",
        "audit_logs.exports[1].path: the same file as audit_logs.exports[0]",
    ]


def test_secrets_are_not_in_reprs() -> None:
    sink = {"type": "splunk", "name": "s", "url": "https://h", "token": "s3cret"}
    settings = parse(sinks(sink), where="x", base=Path("/nowhere"))
    assert "s3cret" not in repr(settings)
    assert settings.evidence.sinks[0].name == "s"
    off = parse({"audit_logs": {"enabled": False, "exports": [FILE]}}, where="x", base=Path("/"))
    assert off.evidence.sinks == ()


def test_the_documented_examples_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCS.read_text("utf-8")
    for name in re.findall(r"env\.([A-Z0-9_]+)", text):
        monkeypatch.setenv(name, "whsec_" + "MDEyMzQ1" * 5 if "WEBHOOK" in name else "s3cret")
    examples = re.findall(r"```json\n(\{\"type\".*?)```", text, re.S)
    assert len(examples) == 8
    found = [json.loads(one) for one in examples]
    path = tmp_path / "bifrost.json"
    path.write_text(json.dumps(sinks(*found)))
    loaded = load(path)
    assert {one["type"] for one in found} == {
        "elastic", "splunk", "datadog", "s3", "webhook", "syslog", "otlp", "file",
    }  # fmt: skip
    assert len(loaded.settings.evidence.sinks) == 8


def test_pauses_rise_at_random_up_to_a_minute_and_give_way_to_the_receivers() -> None:
    for attempt in range(40):
        pauses = [pause_s(attempt) for _ in range(50)]
        assert 0 < min(pauses) and max(pauses) <= min(LONGEST_S, 0.5 * 2.0**attempt)
        assert len(set(pauses)) > 40
    assert pause_s(0, 17) == 17.0
    assert pause_s(9, 1_000_000) == 3600.0


def test_progress_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    from bifrost.errors import StoreError

    Progress(tmp_path).close()
    db = sqlite3.connect(tmp_path / "exports.db")
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StoreError, match="newer Bifrost"):
        Progress(tmp_path)
