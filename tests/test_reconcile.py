"""Requests of a dead worker, charged in full, get their true cost: once, at every level."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bifrost._fast.gate import Gate, GateError
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.core import stores
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Kind, id_number
from bifrost.identify import budget_window
from bifrost.reconciliation import Reconciliation
from bifrost.steward import Steward
from tests.commands import Office
from tests.running import BIFROST, environment

USD = 1_000_000_000
KINDS: tuple[Kind, ...] = ("customer", "team", "user", "virtual_key")
HOLDER = """
import json, sys, time
from bifrost.embedding import Gateway

gateway = Gateway.open(sys.argv[1], data_dir=sys.argv[2], steward=False)
body = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": []}).encode()
for _ in range(3):
    print(gateway.admit({"x-bf-vk": sys.argv[3]}, body=body).request_id, flush=True)
time.sleep(60)
"""


class Aftermath:
    """A data directory after a worker with three requests under way was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.office = Office(folder)
        for kind, owner in (("customers", ()), ("teams", ("--customer", "acme"))):
            name = {"customers": "acme", "teams": "core"}[kind]
            self.office.json(kind, "create", "--name", name, *owner, "--budget", "50/1M")
        self.office.json("users", "create", "--name", "ann", "--team", "core", "--budget", "9/1d")
        made = self.office.json(
            "keys", "create", "--name", "k", "--user", "ann", "--budget", "5/1M"
        )
        config = folder / "bifrost.json"
        config.write_text('{"providers": {"mock": {"type": "mock"}}}')
        holder = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", HOLDER, config, folder, made["value"]],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        self.requests = [holder.stdout.readline().strip() for _ in range(3)]
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        self.charged = [event.cost for event in self.unsettled()]
        assert min(self.charged) > 0

    def unsettled(self) -> list[events.ModelAccess]:
        listed = self.office.json("reconcile")["unsettled"]
        with stores(self.folder) as (directory, gate):
            books = Reconciliation(self.folder, gate, directory)
            books.read()
            assert [event.request for event in books.open()] == [row["request"] for row in listed]
            return books.open()

    def settled(self) -> set[int]:
        """What the counters of all levels say; one figure if they agree."""
        with stores(self.folder) as (directory, gate):
            return {
                gate.counters([(id_number(budget.id), budget_window(budget, time.time_ns())[0])])[
                    0
                ][0]
                for kind in KINDS
                for entity in directory.all(kind)
                for budget in entity.budgets
            }

    def corrections(self) -> list[events.Reconciled]:
        self.office.json("usage")  # brings the log up to date
        found = [events.decode(raw) for _, raw in Reader(self.folder).read(0, 1000)]
        return [event for event in found if isinstance(event, events.Reconciled)]

    def lines(self, *lines: Any) -> Path:
        path = self.folder / "corrections.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


@pytest.fixture
def after(tmp_path: Path) -> Iterator[Aftermath]:
    yield Aftermath(tmp_path)


def test_the_difference_is_booked_at_every_level_once(after: Aftermath) -> None:
    first, second, third = after.requests
    listed = after.office.json("reconcile")
    assert sorted(row["request"] for row in listed["unsettled"]) == sorted(after.requests)
    assert after.settled() == {sum(after.charged)}
    one = after.charged[0]
    done = after.office.json("reconcile", first, "--cost", "0.0001", "--reason", "invoice 7")
    [told] = done["reconciled"]
    assert told["cost_usd"] == "0.0001" and told["difference_usd"].startswith("-0.0")
    assert after.settled() == {2 * one + 100_000}
    after.office.json("reconcile", second, "--not-billed")
    assert after.settled() == {one + 100_000}
    usage = json.dumps({"input_tokens": 1000, "output_tokens": 10})
    after.office.json(
        "reconcile", third, "--usage", usage, "--config", after.folder / "bifrost.json"
    )
    assert after.settled() == {100_000 + 3_150_000}  # 3 and 15 USD per million tokens
    assert after.office.json("reconcile") == {"unsettled": [], "total_charged_usd": "0.00"}
    corrections = after.corrections()
    assert [event.request for event in corrections] == after.requests
    assert [event.before + event.cost for event in corrections] == [100_000, 0, 3_150_000]
    assert corrections[0].reason == "invoice 7" and corrections[0].actor.startswith("cli:")
    assert all(0 < event.at < event.done_at and event.seq for event in corrections)


def test_a_request_is_reconciled_only_once(after: Aftermath) -> None:
    assert after.office("reconcile", after.requests[0], "--cost", "0.5").code == 0
    before = after.settled()
    for _ in range(2):
        again = after.office("reconcile", after.requests[0], "--cost", "0.4")
        assert again.code == 1 and "reconciled already" in again.err
        after.office.json("usage")  # the second time it is found in the log, not in the outbox
    assert after.settled() == before and len(after.corrections()) == 1
    unknown = after.office("reconcile", "req_unknown", "--not-billed")
    assert unknown.code == 1 and "no unsettled request 'req_unknown'" in unknown.err


def test_many_commands_at_once_book_once(after: Aftermath) -> None:
    def command(_: int) -> int:
        return subprocess.run(
            [*BIFROST, "reconcile", after.requests[0], "--cost", "1", "--data-dir", after.folder],
            env=environment(),
            capture_output=True,
            check=False,
        ).returncode

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(command, range(3))) == [0, 1, 1]
    assert after.settled() == {sum(after.charged[1:]) + USD}


def test_a_file_of_corrections(after: Aftermath) -> None:
    first, second, third = after.requests
    path = after.lines(
        {"request": first, "cost": "0.25", "reason": "invoice"},
        {"request": second, "usage": {"input_tokens": 100, "output_tokens": 0}},
        {"request": third, "not_billed": True},
        {"request": first, "cost": "0.26"},
        {"request": "nobody", "cost": "1"},
    )
    done = after.office("reconcile", "--file", path, "--json")
    told = json.loads(done.out)
    assert done.code == 1 and "2 of 5 lines were not booked" in done.err
    assert [one["request"] for one in told["reconciled"]] == after.requests
    assert [one["line"] for one in told["refused"]] == [4, 5]
    assert after.settled() == {250_000_000 + 300_000}
    assert after.corrections()[0].reason == "invoice"


BAD_LINES: list[tuple[Any, str]] = [
    ({"request": "a"}, "exactly one of cost, usage and not_billed"),
    ({"request": "a", "cost": "1", "not_billed": True}, "exactly one of"),
    ({"request": "a", "cost": "-1"}, "expected an amount in USD"),
    ({"request": "a", "price": "1"}, "unknown field `price`"),
    ([], "Expected `object`"),
]
BAD_OPTIONS = [
    (["R"], 2, "one of --cost, --usage and --not-billed"),
    (["--cost", "1"], 2, "give REQUEST"),
    (["R", "--cost", "1", "--not-billed"], 2, "give REQUEST"),
    (["R", "--cost", "much"], 2, "expected an amount in USD"),
    (["R", "--usage", "[1]"], 2, "not a JSON object"),
    (["R", "--usage", '{"tokens": 5}'], 1, "no tokens that can be read"),
    (["R", "--cost", "1", "--at", "5"], 1, "no unsettled request"),
]


def test_what_cannot_be_booked_is_said_and_nothing_is_booked(after: Aftermath) -> None:
    for line, said in BAD_LINES:
        path = after.lines({"request": after.requests[0], "cost": "0"}, line)
        done = after.office("reconcile", "--file", path)
        assert done.code == 1 and f"{path}, line 2: " in done.err and said in done.err
        assert "nothing was booked" in done.err
    for options, code, said in BAD_OPTIONS:
        given = [after.requests[0] if option == "R" else option for option in options]
        done = after.office("reconcile", *given)
        assert done.code == code and said in " ".join(done.err.split()), done.err
    assert after.settled() == {sum(after.charged)} and after.corrections() == []


def test_requests_of_the_same_id_are_told_apart_by_their_time(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.json("keys", "create", "--name", "k", "--budget", "5/1M")
    now = time.time_ns()
    with stores(tmp_path) as (directory, gate):
        key = directory.get("virtual_key", "k")
        for at in (now, now + 1):
            event = events.ModelAccess(
                at=at, request="same", key=key.id, outcome="unsettled", cost=USD, source="reserved"
            )
            gate.append(events.encode(event), at)
    done = office("reconcile", "same", "--not-billed")
    assert done.code == 1 and f"--at and its time in ns: {now}, {now + 1}" in done.err
    assert office("reconcile", "same", "--not-billed", "--at", str(now + 1)).code == 0
    assert office("reconcile", "same", "--not-billed").code == 0
    assert office("reconcile").out.startswith("REQUEST")


def test_the_window_of_the_request_is_corrected_not_the_present_one(tmp_path: Path) -> None:
    directory, gate = Directory(tmp_path), Gate(tmp_path / "state")
    try:
        now = time.time_ns()
        event = events.Reconciled(at=1, done_at=now, request="r", key="k", cost=-5, actor="a")
        raw = events.encode(event)
        gate.restore([(1, 0, 1000, 50, 1, 0, 0), (1, 1000, 2000, 70, 1, 0, 0)], 7)
        gate.adjust([(1, 0, 1000), (2, 0, 9)], -5, raw, now)
        assert gate.counters([(1, 0), (1, 1000), (2, 0)]) == [
            (45, 0, 1, 0, 0), (70, 0, 1, 0, 0), (-5, 0, 0, 0, 0),
        ]  # fmt: skip
        assert [body for _, body in gate.outbox(0, 10)] == [raw]
        gate.adjust([], 5, raw, now)
        with pytest.raises(ValueError, match="at most 24"):
            gate.adjust([(n, 0, 1) for n in range(25)], 1, raw, now)
        with pytest.raises(GateError):
            gate.adjust([(1, 0, 1000)], 1, bytes(1 << 20), now)  # too long an event: nothing booked
        assert gate.counters([(1, 0)]) == [(45, 0, 1, 0, 0)]
        with pytest.raises(ValueError, match="in use"):
            gate.restore([(9, 0, 9, 1, 1, 1, 1), (1, 0, 1000, 1, 1, 1, 1)], 7)
        with pytest.raises(OverflowError):
            gate.restore([(1 << 70, 0, 9, 1, 1, 1, 1)], 7)
        assert gate.counters([(9, 0)]) == [(0, 0, 0, 0, 0)]
        steward = Steward(tmp_path, gate, directory)
        assert steward.step() == 2
        steward.close()
    finally:
        gate.close()
        directory.close()
