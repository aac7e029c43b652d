"""Exports whatever receivers do: nothing missing, only poison refused, repetitions of equal ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from bifrost.config.exports import (
    DatadogExport,
    ElasticExport,
    FileExport,
    OtlpExport,
    S3Export,
    Sink,
    SplunkExport,
    WebhookExport,
)
from bifrost.exports import dispatch, exporter, shipment, splunk
from bifrost.exports.progress import Progress
from tests.collectors import POISON, Answer, Asked, Collector, Hec, Intake, Plain
from tests.commands import until
from tests.exporting import PATIENCE_S, House
from tests.receiver import SECRET

COUNT, BAD = 57, 23
FAULTS: list[tuple[int | str, dict[str, str]]] = [
    (503, {}), ("lost", {}), (500, {}), (429, {"retry-after": "1"}), ("lost", {}), (502, {}),
]  # fmt: skip


class Bulk(Collector):
    """``_bulk`` as far as one index and ``create`` go; a poisoned document is refused alone."""

    def answer(self, asked: Asked) -> Answer:
        assert asked.path == "/audit/_bulk"
        assert asked.headers["content-type"] == "application/x-ndjson"
        assert asked.headers["authorization"] == "ApiKey bWU6c2VjcmV0"
        lines = asked.body.split(b"\n")
        assert lines.pop() == b""
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            identifier = json.loads(action)["create"]["_id"]
            if POISON.encode() in document:
                error = {"type": "document_parsing_exception", "reason": "no"}
                items.append({"create": {"status": 400, "error": error}})
            elif identifier in self.documents:
                error = {"type": "version_conflict_engine_exception", "reason": "there"}
                items.append({"create": {"status": 409, "error": error}})
            else:
                self.take([(identifier, json.loads(document))])
                items.append({"create": {"status": 201}})
        errors = any(item["create"]["status"] != 201 for item in items)
        return 200, {}, {"took": 1, "errors": errors, "items": items}


class Logs(Collector):
    """An OTLP receiver that rejects poison, says how much, and not which."""

    def answer(self, asked: Asked) -> Answer:
        assert asked.path == "/v1/logs"
        assert asked.headers["x-tenant"] == "acme"
        found = ExportLogsServiceRequest.FromString(asked.body)
        records = [
            record
            for resource in found.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
        good = [record for record in records if POISON not in record.body.string_value]
        self.take(
            [
                (one.attributes[0].value.string_value, json.loads(one.body.string_value))
                for one in good
            ]
        )
        said = ExportLogsServiceResponse()
        if len(good) < len(records):
            said.partial_success.rejected_log_records = len(records) - len(good)
            said.partial_success.error_message = "not all"
        return 200, {"content-type": "application/x-protobuf"}, said.SerializeToString()


def in_message(body: bytes) -> list[tuple[str, Any]]:
    data = json.loads(body)["data"]
    return [(one["id"], one) for one in data["entries"]]


Case = tuple[Callable[[], Collector], Callable[[str], Sink]]
SMALL: dict[str, Any] = {"interval_s": 0.05, "max_entries": 10}
CASES: dict[str, Case] = {
    "elastic": (Bulk, lambda url: ElasticExport(
        name="sink", url=url, index="audit", token="bWU6c2VjcmV0", **SMALL)),
    "splunk": (lambda: Hec("t0ken"), lambda url: SplunkExport(
        name="sink", url=url, token="t0ken", **SMALL)),
    "splunk, acknowledged": (lambda: Hec("t0ken", acks=True, late=1), lambda url: SplunkExport(
        name="sink", url=url, token="t0ken", ack=True, **SMALL)),
    "datadog": (lambda: Intake("k3y"), lambda url: DatadogExport(
        name="sink", url=url, token="k3y", tags=("env:test",), **SMALL)),
    "webhook": (lambda: Plain(in_message, 204), lambda url: WebhookExport(
        name="sink", url=f"{url}/hook", secret=SECRET, **SMALL)),
    "otlp": (Logs, lambda url: OtlpExport(
        name="sink", url=url, headers={"x-tenant": "acme"}, **SMALL)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(shipment, "SHORTEST_S", 0.02)
    monkeypatch.setattr(splunk, "ASK_S", 0.02)
    monkeypatch.setattr(exporter, "POLL_S", 0.05)
    monkeypatch.setattr(dispatch, "REST_S", 0.05)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "data")
    yield found
    found.close()


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Collector, Sink]]:
    make, sink = CASES[request.param]
    collector = make()
    yield collector, sink(collector.url)
    collector.close()


def entries(collector: Collector) -> set[str]:
    """The ids of the entries it took, checkpoints left out."""
    return {one for one in collector.taken if "/checkpoint/" not in one}


def test_nothing_is_missing_and_only_the_poison_is_refused(
    house: House, case: tuple[Collector, Sink]
) -> None:
    collector, sink = case
    collector.faults = list(FAULTS)
    house.requests(COUNT, poison=BAD)
    house.start(sink)
    house.caught_up("sink")
    assert not collector.faults
    assert entries(collector) == house.ids(range(COUNT)) - house.ids([BAD])
    assert house.dead("sink") == [BAD]
    added, told = house.told
    assert (added.action, added.sink, added.first) == ("added", "sink", 0)
    assert (told.action, told.first, told.count) == ("dead_letter", BAD, 1)
    standing = house.standing("sink")
    assert (standing.sent, standing.dead, standing.failures) == (COUNT - 1, 1, 0)
    if sink.format == "native" and not isinstance(sink, WebhookExport):
        covered = [one for one in collector.taken if "/checkpoint/" in one]
        assert covered == [f"{house.origin}/checkpoint/{COUNT}"]  # of every batch the same


def test_a_crash_before_the_position_moves_repeats_under_equal_ids(
    house: House, case: tuple[Collector, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken, and then neither position nor dead letters are noted."""
    collector, sink = case
    advance, crashes = Progress.advance, [True, True, False, True]

    def crashing(self: Progress, *given: Any, **more: Any) -> bool:
        if crashes and crashes.pop():
            raise RuntimeError("crashed")
        return advance(self, *given, **more)

    monkeypatch.setattr(Progress, "advance", crashing)
    house.requests(COUNT, poison=BAD)
    house.start(sink)
    house.caught_up("sink")
    assert not crashes
    assert entries(collector) == house.ids(range(COUNT)) - house.ids([BAD])
    assert house.dead("sink") == [BAD]
    assert house.standing("sink").sent == COUNT - 1
    twice = [one for one in entries(collector) if collector.taken[one] > 1]
    assert bool(twice) != isinstance(sink, ElasticExport)


def test_the_receivers_own_pause_is_kept(house: House, case: tuple[Collector, Sink]) -> None:
    collector, sink = case
    collector.faults = [(429, {"retry-after": "1"})]
    house.requests(3)
    house.start(sink)
    house.caught_up("sink")
    assert collector.asked[1].at - collector.asked[0].at >= 0.95


def test_a_restart_sends_nothing_twice_that_was_acknowledged(
    house: House, case: tuple[Collector, Sink]
) -> None:
    collector, sink = case
    house.requests(20)
    house.start(sink)
    house.caught_up("sink")
    house.stop()
    house.requests(20)
    house.start(sink)
    house.caught_up("sink")
    assert entries(collector) == house.ids(range(40))
    assert {one: collector.taken[one] for one in entries(collector)} == dict.fromkeys(
        house.ids(range(40)), 1
    )
    assert [one.action for one in house.told] == ["added"]


def test_dead_letters_are_sent_again_when_somebody_says_so(
    house: House, case: tuple[Collector, Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, sink = case
    house.requests(9, poison=4)
    house.start(sink)
    house.caught_up("sink")
    monkeypatch.setattr("tests.collectors.POISON", "nothing")
    monkeypatch.setattr("tests.test_export_faults.POISON", "nothing")
    progress = Progress(house.data_dir)
    assert progress.replay("sink") == 1
    progress.close()
    until(lambda: house.standing("sink").dead == 0, PATIENCE_S)
    assert entries(collector) == house.ids(range(9))
    assert house.standing("sink").sent == 9


def test_what_a_configuration_breaks_is_not_given_up(house: House) -> None:
    """A wrong token costs no entry."""
    collector = Hec("t0ken")
    try:
        sink = SplunkExport(name="sink", url=collector.url, token="wrong", **SMALL)
        house.requests(5)
        house.start(sink)
        until(lambda: house.standing("sink").failures >= 2, PATIENCE_S)
        house.stop()
        assert house.standing("sink").position == 0
        assert "Invalid token" in house.standing("sink").error
        house.start(SplunkExport(name="sink", url=collector.url, token="t0ken", **SMALL))
        house.caught_up("sink")
        assert entries(collector) == house.ids(range(5))
        assert house.dead("sink") == []
        assert [one.action for one in house.told] == ["added", "changed"]
    finally:
        collector.close()


def test_a_receiver_that_refuses_everything_is_not_believed(house: House) -> None:
    class Never(Intake):
        right = False

        def answer(self, asked: Asked) -> Answer:
            return super().answer(asked) if self.right else (400, {}, {"error": "never"})

    collector = Never("k")
    try:
        house.requests(130)
        house.start(DatadogExport(name="sink", url=collector.url, token="k", interval_s=0.05))
        until(lambda: house.standing("sink").failures >= 2, PATIENCE_S)
        assert house.standing("sink").position == 0
        assert house.dead("sink") == []
        assert "400" in house.standing("sink").error
        collector.right = True
        house.caught_up("sink")
        assert house.dead("sink") == []
        assert entries(collector) == house.ids(range(130))
    finally:
        collector.close()


def test_a_stall_and_its_end_are_said_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STALL_S", 0.0)
    collector = Intake("k3y")
    try:
        collector.faults = [(500, {})] * 3
        house.requests(3)
        house.start(DatadogExport(name="sink", url=collector.url, token="k3y", **SMALL))
        house.caught_up("sink")
        until(lambda: len(house.told) == 3, PATIENCE_S)
        assert [one.action for one in house.told] == ["added", "stalled", "recovered"]
        assert "500" in house.told[1].why
    finally:
        collector.close()


def test_only_the_wanted_types_go_out_and_positions_move_past_the_others(
    house: House, tmp_path: Path
) -> None:
    from tests.exporting import change

    house.requests(5)
    house.write(change(1))
    house.requests(5)
    path = tmp_path / "out.jsonl"
    house.start(
        FileExport(name="sink", path=str(path), events=("policy",), interval_s=0.05),
        FileExport(name="new", path=str(tmp_path / "new.jsonl"), start="newest", interval_s=0.05),
    )
    house.caught_up("sink", "new")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["index"] for one in found if "entry" in one] == [5]
    assert not (tmp_path / "new.jsonl").exists()


def test_entries_that_are_gone_are_told_of(house: House) -> None:
    collector = Intake("k3y")
    try:
        house.requests(10)
        house.start(DatadogExport(name="sink", url=collector.url, token="k3y", **SMALL))
        house.caught_up("sink")
        house.stop()
        house.scribe.close()
        first = house.data_dir / "audit" / f"{0:020d}.log"
        first.rename(first.with_name(f"{20:020d}.log"))
        house.start(DatadogExport(name="sink", url=collector.url, token="k3y", **SMALL))
        until(lambda: house.told[-1].action == "gap", PATIENCE_S)
        assert house.told[-1][2:4] == (10, 10)
    finally:
        collector.close()


def test_a_file_that_a_crash_tore_is_whole_again(house: House, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for form in ("native", "ecs", "ocsf"):
        path.unlink(missing_ok=True)
        sink = FileExport(name=form, path=str(path), format=form, interval_s=0.05)  # type: ignore[arg-type]
        house.requests(20)
        house.start(sink)
        house.caught_up(form)
        house.stop()
        progress = Progress(house.data_dir)
        progress.reset(form, 5)  # as if the process had died before it noted its position
        progress.close()
        whole = path.read_text().splitlines(keepends=True)
        path.write_text("".join(whole[:12]) + whole[12][:40])
        house.start(sink)
        house.caught_up(form)
        house.stop()
        found = [json.loads(line) for line in path.read_text().splitlines()]
        ids = [_id(one) for one in found]
        entry_ids = [one for one in ids if "/checkpoint/" not in one]
        assert len(entry_ids) == len(set(entry_ids)) == len(house.entries)


def _id(document: dict[str, Any]) -> str:
    if "id" in document:
        return str(document["id"])
    return str((document.get("event") or {}).get("id") or document["metadata"]["uid"])


def test_an_object_is_written_once(house: House) -> None:
    """A lost answer: the object is there (412), so it was taken; its bounds do not move."""

    class Store(Collector):
        def answer(self, asked: Asked) -> Answer:
            assert asked.headers["if-none-match"] == "*"
            if asked.path in self.documents:
                return 412, {}, b""
            self.take([(asked.path, asked.body)])
            return 200, {"etag": '"x"'}, b""

    store = Store()
    try:
        store.faults = [("lost", {}), (503, {})]
        house.requests(25)
        sink = S3Export(
            name="sink", url=store.url, bucket="audit-bucket", access_key="a", token="b", **SMALL
        )
        house.start(sink)
        house.caught_up("sink")
        assert [one.rpartition("/")[2] for one in store.documents] == [
            f"{0:020d}-{9:020d}.jsonl.gz", f"{10:020d}-{19:020d}.jsonl.gz",
            f"{20:020d}-{24:020d}.jsonl.gz",
        ]  # fmt: skip
        assert set(store.taken.values()) == {1}
    finally:
        store.close()
