"""The steward: each event once into the view, orphans charged once, one steward at a time."""

from __future__ import annotations

import io
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost._fast.gate import Gate
from bifrost.audit import events, policy
from bifrost.audit.log import Reader
from bifrost.core import open_gate
from bifrost.errors import StoreError
from bifrost.governance.directory import Directory
from bifrost.governance.entities import id_number
from bifrost.logs import JsonLines
from bifrost.steward import BATCH, Steward, serve_steward
from bifrost.stewardship import Stewardship
from bifrost.usage.view import UsageView
from tests.commands import Office, until

USD = 1_000_000_000
FAR = 1 << 62
HOLDER = """
import json, sys, time
from pathlib import Path
from bifrost.embedding import Gateway

gateway = Gateway.open(sys.argv[1], data_dir=sys.argv[2], steward=False)
body = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": []}).encode()
tickets = [gateway.admit({"x-bf-vk": sys.argv[3]}, body=body) for _ in range(3)]
print(sum(ticket.reserved for ticket in tickets), flush=True)
time.sleep(60)
"""


# A steward that dies at one point of its second batch: before or after one of its steps.
VICTIM = """
import os, signal, sys
from pathlib import Path
from bifrost.audit.log import Log
from bifrost.core import open_gate
from bifrost.governance.directory import Directory
from bifrost.steward import Steward
from bifrost.usage.view import UsageView

folder, point = Path(sys.argv[1]), sys.argv[2]
when, _, what = point.partition(" ")


def dying(function):
    def call(*arguments, **more):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)
        return found

    return call


class Gate:
    def __init__(self, gate):
        self._gate = gate

    def __getattr__(self, name):
        found = getattr(self._gate, name)
        return dying(found) if what == name else found


gate = Gate(open_gate(folder))
steward = Steward(folder, gate, Directory(folder))
for owner, name in ((os, "pwrite"), (os, "fdatasync"), (Log, "_acknowledge"), (UsageView, "apply")):
    if name == what:
        setattr(owner, name, dying(getattr(owner, name)))
steward.step()
"""
POINTS = [
    f"{when} {what}"
    for what in ("outbox", "pwrite", "fdatasync", "_acknowledge", "forget", "apply")
    for when in ("before", "after")
]


class House:
    """A data directory with its stores open and room for stewards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = Directory(folder, lambda *change: policy.record(self.gate, *change))
        self.gate: Gate = open_gate(folder)

    def happened(self, **told: Any) -> None:
        now = time.time_ns()
        event = events.ModelAccess(at=now, request="r", **{"key": "k", "outcome": "ok", **told})
        self.gate.append(events.encode(event), now)

    def steward(self, **more: Any) -> Steward:
        return Steward(self.folder, self.gate, self.directory, **more)

    def logged(self) -> list[events.Event]:
        return [events.decode(raw) for _, raw in Reader(self.folder).read(0, 1_000_000)]

    def drained(self) -> None:
        steward = self.steward()
        steward.drain()
        steward.close()

    def totals(self, *by: str) -> list[Any]:
        view = UsageView(self.folder, read_only=True)
        try:
            return view.totals(by or ("key",), 0, FAR)
        finally:
            view.close()

    def close(self) -> None:
        self.gate.close()
        self.directory.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


def test_every_event_is_counted_once_over_restarts(house: House) -> None:
    for round_ in range(1, 4):
        for _ in range(BATCH + 3):
            house.happened(cost=1)
        house.drained()
        house.drained()
        assert house.totals() == [
            (("k",), (round_ * (BATCH + 3), 0, 0, 0, 0, round_ * (BATCH + 3)))
        ]


def test_a_steward_that_stops_after_each_batch_repeats_nothing(house: House) -> None:
    for _ in range(2 * BATCH + 1):
        house.happened(cost=2)
    moved = []
    for _ in range(4):
        steward = house.steward()
        moved.append(steward.step())
        steward.close()
    assert moved == [BATCH, BATCH, 1, 0]
    assert house.totals()[0][1][5] == 2 * (2 * BATCH + 1)
    assert house.gate.outbox(0, 10) == []


@pytest.mark.parametrize("point", POINTS)
def test_a_steward_killed_at_any_point_loses_and_doubles_nothing(
    tmp_path: Path, point: str
) -> None:
    house = House(tmp_path)
    try:
        house.happened(cost=1)
        house.drained()
        for _ in range(5):
            house.happened(cost=1)
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", VICTIM, tmp_path, point], check=False
        )
        assert run.returncode == -signal.SIGKILL
        house.drained()
        assert house.gate.outbox(0, 10) == []  # though nothing else happened
        house.happened(cost=1)
        house.drained()
        assert house.totals()[0][1] == (7, 0, 0, 0, 0, 7)
        entries = house.logged()
        assert len(entries) == 7 and len({event.seq for event in entries}) == 7
        assert house.gate.outbox(0, 10) == []
    finally:
        house.close()


def test_the_view_is_made_again_from_the_log(house: House) -> None:
    for _ in range(2 * BATCH + 5):
        house.happened(cost=1)
    house.drained()
    before = house.totals()
    for path in house.folder.glob("usage.db*"):
        path.unlink()
    house.happened(cost=1)
    house.drained()
    assert house.totals()[0][1][5] == before[0][1][5] + 1 == 2 * BATCH + 6


def test_a_view_of_another_log_is_set_aside(house: House) -> None:
    house.happened(cost=1)
    house.drained()
    view = UsageView(house.folder)
    view.apply([], 1_700_000_000_000_000_000)  # as made before there was a log
    view.close()
    house.happened(cost=2)
    house.drained()
    assert house.totals()[0][1][5] == 3
    assert (house.folder / "usage-set-aside.db").exists()


class Watcher:
    """An observer that keeps what it sees, speaks up on a cost of 7, and fails when told to."""

    def __init__(self, *, failing: bool = False) -> None:
        self.seen: list[events.Event] = []
        self.kept: list[int] = []
        self.failing = failing

    waiting = False

    def resume(self, reader: Reader, since: int) -> bool:
        return True

    def keep(self, told: list[tuple[int, events.Event]]) -> None:
        self.kept += [index for index, _ in told]

    def close(self) -> None:
        pass

    def observe(self, told: list[events.Event]) -> list[events.Event]:
        self.seen += told
        if self.failing:
            raise RuntimeError("no network")
        return [
            events.BudgetReached(at=1, budget="b", level="team", id="t", name="n", window_start=0,
                                 window_end=9, threshold=80, limit=10, settled=event.cost)
            for event in told
            if isinstance(event, events.ModelAccess) and event.cost == 7
        ]  # fmt: skip


def test_observers_see_each_logged_event_and_their_own_are_logged(house: House) -> None:
    house.happened(cost=1)
    house.drained()
    watcher = Watcher()
    steward = house.steward(observers=[Watcher(failing=True), watcher])
    steward.drain()
    assert watcher.seen == []  # history is not news
    house.happened(cost=7)
    house.happened(cost=2)
    steward.drain()
    steward.close()
    assert [event.cost for event in watcher.seen if isinstance(event, events.ModelAccess)] == [7, 2]
    kinds = [type(event).__name__ for event in house.logged()]
    assert kinds == ["ModelAccess"] * 3 + ["BudgetReached"]
    assert watcher.kept == [3]
    assert house.totals()[0][1][5] == 10
    house.happened(cost=3)
    house.drained()  # by a steward without observers, such as a report's
    later = Watcher()
    steward = house.steward(observers=[later])
    steward.drain()
    steward.close()
    assert [event.cost for event in later.seen if isinstance(event, events.ModelAccess)] == [3]


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b'{"type":"model","v":"x"}', b'{"type":"new"}'])
def test_an_event_nobody_can_read_is_left_out(
    house: House, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    house.happened(cost=5)
    house.gate.append(raw, time.time_ns())
    steward = house.steward(access_log=True)
    steward.drain()
    steward.close()
    assert house.totals()[0][1][5] == 5
    assert [record.message for record in caplog.records].count(
        "an event cannot be read and is left out"
    ) == 1
    again = house.steward()
    assert again.step() == 0  # not read again, though it is still the newest of the outbox
    again.close()
    house.happened(cost=7)
    house.drained()
    assert house.totals()[0][1][5] == 12


def test_only_one_is_steward_and_another_takes_over(tmp_path: Path) -> None:
    first, second = Stewardship(tmp_path), Stewardship(tmp_path)
    assert first.take() and not second.take()
    first.give_up()
    assert second.take() and not first.take()
    second.give_up()


def test_a_standby_takes_over(house: House) -> None:
    lock = Stewardship(house.folder)
    assert lock.take()
    stop = threading.Event()
    standby = threading.Thread(
        target=serve_steward,
        args=(house.folder, house.gate, house.directory, stop),
        kwargs={"access_log": False},
    )
    standby.start()
    try:
        house.happened(cost=3)
        time.sleep(0.1)
        assert not (house.folder / "usage.db").exists()
        lock.give_up()
        until(lambda: (house.folder / "usage.db").exists())
        view = UsageView(house.folder)
        until(lambda: view.totals((), 0, FAR))
        view.close()
    finally:
        stop.set()
        standby.join(10)
    assert not standby.is_alive() and lock.take()
    lock.give_up()
    assert house.totals()[0][1][5] == 3


def test_a_failing_store_stops_nothing_for_ever(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, stop, apply = [True], threading.Event(), UsageView.apply

    def sometimes(view: UsageView, *arguments: Any) -> None:
        if failing.pop() if failing else False:
            raise StoreError("disk full")
        apply(view, *arguments)

    monkeypatch.setattr(UsageView, "apply", sometimes)
    house.happened(cost=3)
    steward = house.steward()
    working = threading.Thread(target=steward.run, args=(stop,))
    working.start()
    until(lambda: house.totals())
    stop.set()
    working.join(10)
    steward.close()
    assert "disk full" in str(caplog.records[0].__dict__)
    assert house.totals()[0][1][5] == 3


def test_orphans_are_charged_in_full_once(tmp_path: Path) -> None:
    office = Office(tmp_path)
    secret = office.json("keys", "create", "--name", "k", "--budget", "10/1M")["value"]
    config = tmp_path / "bifrost.json"
    config.write_text('{"providers": {"mock": {"type": "mock"}}}')
    holder = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOLDER, config, tmp_path, secret],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    held = int(holder.stdout.readline())
    house = House(tmp_path)
    try:
        steward = house.steward()
        assert held > 0 and steward.sweep() == 0  # its owner lives
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        assert (steward.sweep(), steward.sweep()) == (3, 0)
        steward.drain()
        steward.close()
        house.drained()
        key = house.directory.get("virtual_key", "k")
        [row] = house.totals("key", "model")
        assert row[0] == ("k", "claude-sonnet-4-5") and (row[1][0], row[1][5]) == (3, held)
        number = id_number(key.budgets[0].id)
        [cell] = house.gate.counters([(number, key.budgets[0].created_at)])
        assert (cell[0], cell[1]) == (held, 0)
        locks = [path.name for path in (tmp_path / "state").glob("owner-*.lock")]
        assert locks == [f"owner-{house.gate.owner}.lock"]
    finally:
        house.close()


def test_the_access_log_is_the_event(house: House, caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    access = logging.getLogger("bifrost.access")
    access.addHandler(handler)
    try:
        house.happened(cost=3, agent="a\nb")
        steward = house.steward(access_log=True)
        steward.drain()
        steward.close()
    finally:
        access.removeHandler(handler)
    [line] = stream.getvalue().splitlines()
    event = events.decode(line.encode())
    assert isinstance(event, events.ModelAccess) and event.cost == 3


def test_names_follow_the_directory(house: House) -> None:
    key, _ = house.directory.create_key("old name")
    house.happened(key=key.id, cost=1)
    house.happened(key="vk_gone", cost=2)
    house.drained()
    assert [row[0] for row in house.totals()] == [("vk_gone",), ("old name",)]
    house.directory.update("virtual_key", key.id, name="new name")
    house.drained()
    assert house.totals()[1][0] == ("new name",)
    with policy.acting("cli:ann", "left the company"):
        house.directory.delete("virtual_key", key.id)
    house.drained()
    assert house.totals()[1][0] == ("new name",)
    changes = [event for event in house.logged() if isinstance(event, events.PolicyChange)]
    assert [(event.action, event.kind, event.id, event.name) for event in changes] == [
        ("create", "virtual_key", key.id, "old name"),
        ("update", "virtual_key", key.id, "new name"),
        ("delete", "virtual_key", key.id, "new name"),
    ]
    assert (changes[0].actor, changes[2].actor) == ("gateway", "cli:ann")
    assert changes[2].reason == "left the company" and changes[2].after is None
    assert changes[0].before is None and changes[0].after == events.entity_digest(key)
    assert changes[1].before == changes[0].after and changes[2].before == changes[1].after


def test_totals_add_up(house: House) -> None:
    usage = {"in_fresh": 1, "in_tool": 2, "in_cache_read": 4, "in_cache_w5m": 8,
             "in_cache_w1h": 16, "out_text": 32, "out_think": 64}  # fmt: skip
    house.happened(cost=7 * USD, model="a", user="u1", **usage)
    house.happened(cost=1, model="a", user="u2", outcome="cut", **usage)
    house.happened(cost=2, model="b", outcome="error")
    house.happened(model="b", outcome="refused", code="budget_exceeded")
    house.drained()
    assert house.totals("model") == [
        (("a",), (2, 6, 8, 48, 192, 7 * USD + 1)),
        (("b",), (1, 0, 0, 0, 0, 2)),
    ]
    assert [row[0] for row in house.totals("user", "model")] == [
        ("u1", "a"), ("-", "b"), ("u2", "a"),
    ]  # fmt: skip
    view = UsageView(house.folder, read_only=True)
    assert view.totals((), 0, FAR)[0][1][0] == 3
    assert view.totals(("key",), FAR - 1, FAR) == []
    for wrong in (("nothing",), ("key", "key")):
        with pytest.raises(ValueError, match="cannot group by"):
            view.totals(wrong, 0, FAR)
    view.close()


def test_a_stop_may_come_at_any_moment_of_a_wait() -> None:
    script = (
        "from bifrost.child import told_to_stop\n"
        "stop = told_to_stop()\n"
        "print('waits', flush=True)\n"
        "while not stop.is_set(): stop.wait(0)\n"
    )
    waits = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(8)
    ]
    try:
        for process in waits:
            assert process.stdout is not None and process.stdout.readline()
            process.terminate()
        assert [process.wait(60) for process in waits] == [0] * len(waits)
    finally:
        for process in waits:
            process.kill()
            process.communicate()


def test_who_waits_for_the_disk_wakes_the_steward(house: House) -> None:
    assert house.gate.await_urge(0.001) is False
    house.happened()
    woken: list[bool] = []

    def rest() -> None:
        while not house.gate.await_urge(60):
            pass
        woken.append(True)

    steward = threading.Thread(target=rest, daemon=True)
    steward.start()
    assert house.gate.urge(house.gate.newest) is False
    steward.join(30)  # far sooner than a wait ends by itself
    assert woken == [True]
    house.drained()
    assert house.gate.await_urge(0.001) is False
