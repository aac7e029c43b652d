"""Exports to real servers that cannot always be reached, by an exporter that is killed.

Whatever happens on the way, the servers themselves say in the end what they hold: every entry but
the poisoned one, and where one is there more than once, it is the same under the same id.
"""

from __future__ import annotations

import gzip
import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import pytest

from bifrost.config.exports import ElasticExport, OtlpExport, S3Export, Sink, SyslogExport
from bifrost.exports import dispatch, exporter, shipment
from bifrost.exports.exporter import enlist
from tests.bridge import STUCK, Bridge, Fault, Wire
from tests.commands import until
from tests.exporting import PATIENCE_S, House, request
from tests.outpost import ended, sent_out
from tests.reaper import Reaper, Work, reaping
from tests.seaweed import CREDENTIALS, Store, running
from tests.servers import Osmem, Rotel, Rsyslog

COUNT, BAD = 57, 23
FEW = 4  # entries when it is killed for the first time
SMALL: dict[str, Any] = {"name": "sink", "interval_s": 0.05, "max_entries": 10}
FAULTS: list[Fault] = [
    (503, {}), ("lost", {}), (429, {"retry-after": "1"}), ("half", {}), (500, {}), ("lost", {}),
]  # fmt: skip
HUGE = 22 << 20  # bytes; rotel takes 20 MiB at once


class Receiver(Protocol):
    """A real server behind a bridge, and what it holds."""

    sink: Sink
    bridge: Bridge | Wire
    once: bool  # it tells repetitions by itself
    poison: dict[str, Any]  # what a request must be for the server to refuse it for good

    def held(self, origin: str) -> list[tuple[str, Any]]:
        """The id of each entry it holds and the entry, once for every copy."""
        ...


class Search:
    """An index that takes no text as a session: a mapping conflict."""

    once = True
    poison = {"session": "poison"}

    def __init__(self, server: Osmem, name: str) -> None:
        self._server, self._name = server, name
        strict = {"entry": {"properties": {"session": {"type": "long"}}}}
        made = httpx.put(f"{server.url}/{name}", json={"mappings": {"properties": strict}})
        assert made.status_code == 200, made.text
        self.bridge = Bridge(server.url)
        self.sink = ElasticExport(url=self.bridge.url, index=name, format="native", **SMALL)

    def held(self, origin: str) -> list[tuple[str, Any]]:
        found = self._server.hits(self._name)
        assert all(key == one["id"] for key, one in found.items() if "entry" in one)
        return [(one["id"], one["entry"]) for one in found.values() if "entry" in one]


class Bucketful:
    """A bucket. To a store nothing in an object is wrong: there is no poison for it."""

    once = True
    poison: dict[str, Any] = {}

    def __init__(self, server: Store, name: str) -> None:
        self._bucket = server.create(name, locked=True)
        self.bridge = Bridge(server.endpoint)
        self.sink = S3Export(
            url=self.bridge.url, bucket=name, access_key=CREDENTIALS.access_key_id,
            token=CREDENTIALS.secret_access_key, lock="compliance", lock_days=1, **SMALL,
        )  # fmt: skip

    def held(self, origin: str) -> list[tuple[str, Any]]:
        query = (("versions", ""),)  # a bucket with Object Lock keeps every one
        _, _, listed = self._bucket._ask("GET", "", query=query, taken=(200,))
        found = []
        for key in re.findall("<Version>.*?<Key>(.*?)</Key>", listed.decode()):
            one = self._bucket.get(key)
            assert one is not None
            lines = [json.loads(line) for line in gzip.decompress(one.data).splitlines()]
            told = [line for line in lines if "entry" in line]
            first, last = (f"{told[at]['index']:020d}" for at in (0, -1))
            assert key.endswith(f"/{first}-{last}.jsonl.gz")
            found += [(line["id"], line["entry"]) for line in told]
        return found


class Syslogd:
    """rsyslog by TCP. The protocol has no refusals: there is no poison for it."""

    once = False
    poison: dict[str, Any] = {}

    def __init__(self, server: Rsyslog, name: str) -> None:
        self._server = server
        self.bridge = Wire(server.port)
        self.sink = SyslogExport(url=f"tcp://127.0.0.1:{self.bridge.port}", timeout_s=1, **SMALL)

    def held(self, origin: str) -> list[tuple[str, Any]]:
        found = []
        for one in self._server.messages():
            assert one["version"] == "1" and one["app"] == "bifrost", one  # nothing half
            told = json.loads(one["msg"].lstrip("\ufeff"))
            if "entry" in told and told["origin"] == origin:
                assert f' index="{told["index"]}" ' in one["data"]
                found.append((told["id"], told["entry"]))
        return found


class Otel:
    """An OpenTelemetry collector that takes no request of more than 20 MiB."""

    once = False
    poison = {"agent": "x" * HUGE}

    def __init__(self, server: Rotel, name: str) -> None:
        self._server = server
        self.bridge = Bridge(server.url)
        self.sink = OtlpExport(url=self.bridge.url, max_bytes=2 * HUGE, **SMALL)

    def held(self, origin: str) -> list[tuple[str, Any]]:
        printed = re.sub(r"\x1b\[[0-9;]*m", "", self._server.printed())
        bodies = re.findall(r"^Body: Str\((.*)\)\n", printed, re.MULTILINE)
        told = [one for one in map(json.loads, bodies) if one["origin"] == origin]
        return [(one["id"], one["entry"]) for one in told if "entry" in one]


@pytest.fixture(scope="module")
def search() -> Iterator[Osmem]:
    server = Osmem()
    yield server
    server.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("weed")) as found:
        yield found


@pytest.fixture(scope="module")
def syslog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rsyslog]:
    server = Rsyslog(tmp_path_factory.mktemp("syslog") / "rsyslog")
    yield server
    server.close()


@pytest.fixture(scope="module")
def otel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotel]:
    server = Rotel(tmp_path_factory.mktemp("otel") / "rotel")
    yield server
    server.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """One that no other test has."""
    return f"audit-{sha256(request.node.name.encode()).hexdigest()[:40]}"


RECEIVERS = {"search": Search, "store": Bucketful, "syslog": Syslogd, "otel": Otel}
BY_HTTP = ["search", "store", "otel"]


@pytest.fixture(params=RECEIVERS, ids=str)
def receiver(request: pytest.FixtureRequest, name: str) -> Iterator[Receiver]:
    made: Any = RECEIVERS[request.param]
    found = made(request.getfixturevalue(request.param), name)
    yield found
    found.bridge.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "data")
    yield found
    found.close()


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(shipment, "SHORTEST_S", 0.02)
    monkeypatch.setattr(exporter, "POLL_S", 0.05)
    monkeypatch.setattr(dispatch, "REST_S", 0.05)


def fill(house: House, receiver: Receiver, first: int = 0, end: int = COUNT) -> None:
    """Entries, one of them poisoned where there is poison."""
    poison = {BAD: receiver.poison}
    house.write(*(request(n, **poison.get(n, {})) for n in range(first, end)))


def refused(receiver: Receiver) -> list[int]:
    return [BAD] if receiver.poison else []


def copies(house: House, receiver: Receiver) -> Counter[str]:
    """How often the server holds each entry, once it holds them all; they are the log's own."""
    wanted = house.ids(range(COUNT)) - house.ids(refused(receiver))
    until(lambda: {key for key, _ in receiver.held(house.origin)} >= wanted, PATIENCE_S)
    held = receiver.held(house.origin)
    assert {key for key, _ in held} == wanted
    written = [json.loads(raw) for raw in house.entries]
    for key, entry in held:
        assert entry == written[int(key.rpartition("/")[2])]
    return Counter(key for key, _ in held)


def check_whole(house: House, receiver: Receiver, *, repeated: bool) -> None:
    """Nothing is missing, exactly the poison was refused, and what is there twice is the same."""
    assert house.dead("sink") == refused(receiver)
    assert house.standing("sink").sent == COUNT - len(refused(receiver))
    found = copies(house, receiver)
    if receiver.once:
        assert set(found.values()) == {1}
    else:
        assert (max(found.values()) > 1) == repeated
    told = [(one.first, one.count) for one in house.told if one.action == "dead_letter"]
    assert set(told) == {(index, 1) for index in refused(receiver)}


def test_refusals_and_cuts_on_the_way_lose_nothing(house: House, receiver: Receiver) -> None:
    bridge = receiver.bridge
    if isinstance(bridge, Bridge):
        bridge.faults = list(FAULTS)
    else:
        bridge.faults = [0, 3_000, STUCK, 1, 4_000]  # bytes; a batch of ten has more
    fill(house, receiver)
    house.start(receiver.sink)
    house.caught_up("sink")
    assert not bridge.faults
    check_whole(house, receiver, repeated=True)
    assert house.standing("sink").failures == 0
    if isinstance(bridge, Bridge):
        gaps = [after - at for at, after in zip(bridge.asked, bridge.asked[1:], strict=False)]
        assert max(gaps) >= 0.95  # the pause that 429 asked for


def test_a_kill_before_the_position_moves_repeats_under_equal_ids(
    house: House, receiver: Receiver, tmp_path: Path
) -> None:
    """The server has taken a batch, the exporter knows it, and is killed before it notes it."""
    fill(house, receiver, 0, FEW)
    told = tmp_path / "told"
    assert enlist(house.data_dir, (receiver.sink,), house._tell)
    moved = []
    for lives in (1, 2, 2):
        process = sent_out(house.data_dir, (receiver.sink,), told, lives)
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL
        process.close()
        moved.append(house.standing("sink").position)
        if len(moved) == 1:
            fill(house, receiver, FEW)  # what was sent may not be sent in another batch
    assert moved[0] == 0 < moved[1] < moved[2] < COUNT
    process = sent_out(house.data_dir, (receiver.sink,), told)
    house.caught_up("sink")
    ended(process, signal.SIGTERM)
    check_killed(house, receiver, told)


@pytest.mark.parametrize("receiver", BY_HTTP, indirect=True)
def test_a_kill_before_the_answer_repeats_under_equal_ids(
    house: House, receiver: Receiver, tmp_path: Path
) -> None:
    """The server has taken a batch, its answer is on the way, and the exporter is killed."""
    bridge = receiver.bridge
    assert isinstance(bridge, Bridge)
    fill(house, receiver, 0, FEW)
    told = tmp_path / "told"
    assert enlist(house.data_dir, (receiver.sink,), house._tell)
    for number in range(3):
        bridge.faults = [("held", {})]
        process = sent_out(house.data_dir, (receiver.sink,), told)
        assert bridge.answered.wait(PATIENCE_S)
        assert 200 <= bridge.statuses[-1] < 300 or number and receiver.once
        ended(process, signal.SIGKILL)
        bridge.release.set()
        assert house.standing("sink").position == 0
        if not number:
            fill(house, receiver, FEW)
        bridge.answered.clear()
        bridge.release.clear()
    process = sent_out(house.data_dir, (receiver.sink,), told)
    house.caught_up("sink")
    ended(process, signal.SIGTERM)
    check_killed(house, receiver, told)


def check_killed(house: House, receiver: Receiver, told: Path) -> None:
    """The same, of what killed exporters said."""
    lines = told.read_bytes().splitlines() if told.exists() else []
    for line in lines:
        house._tell(*json.loads(line))
    check_whole(house, receiver, repeated=True)


@pytest.fixture(scope="module")
def reaper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reaper]:
    with reaping(tmp_path_factory.mktemp("reaper")) as found:
        yield found


@pytest.mark.parametrize("torn", [False, True], ids=["steps", "writes"])
@pytest.mark.parametrize("receiver", ["search", "store"], indirect=True)
def test_an_exporter_killed_at_any_step_leaves_everything_once(
    house: House, receiver: Receiver, torn: bool, reaper: Reaper
) -> None:
    """Two batches each time, and it dies a step later than the time before."""
    sink = msgspec.structs.replace(receiver.sink, max_entries=2, interval_s=0.01)
    assert enlist(house.data_dir, (sink,), house._tell)
    for fatal in count(1):
        house.write(*(request(n) for n in range(4 * fatal - 4, 4 * fatal)))
        work = Work(data_dir=str(house.data_dir), sinks=(sink,), fatal=fatal, torn=torn)
        reaped = reaper.do(work)
        if not reaped.killed:
            break
    assert fatal > (5 if torn else 30)
    house.start(sink)
    house.caught_up("sink")
    written = {f"{house.origin}/{n}": json.loads(raw) for n, raw in enumerate(house.entries)}
    held = receiver.held(house.origin)
    assert len(held) == len(written) and dict(held) == written
    assert house.dead("sink") == []
    assert house.standing("sink").sent == len(written)
