"""Thresholds of budgets: each is told once per window, whatever is killed, lost or changed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost.alerts.thresholds import Thresholds
from bifrost.audit import events
from bifrost.audit.events import BudgetReached
from bifrost.errors import StoreError
from bifrost.governance import budgets as acts
from bifrost.governance.budgets import budget_window
from bifrost.governance.entities import Budget, VirtualKey, id_number, new_id
from bifrost.steward import Steward
from tests.test_steward import House

USD = 1_000_000_000
HOUR = 3_600 * USD
PERCENTS = (50, 80, 95, 100)

# A steward that dies at one point of its work, or that once cannot do a part of it.
VICTIM = """
import os, signal, sys
from pathlib import Path
from bifrost.alerts.reached import Reached
from bifrost.alerts.thresholds import Thresholds
from bifrost.audit.log import Log
from bifrost.core import open_gate
from bifrost.governance.directory import Directory
from bifrost.steward import Steward

folder, when, what, turn = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
turns = 0


def dying(function):
    def call(*arguments, **more):
        global turns
        turns += 1
        if turns == turn and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if turns == turn and when == "failing":
            raise OSError(28, "No space left on device")
        found = function(*arguments, **more)
        if turns == turn and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return call


directory = Directory(folder)
gate = open_gate(folder, directory)
thresholds = Thresholds(folder, gate, directory, lambda: (50, 80, 95, 100))
steward = Steward(folder, gate, directory, observers=[thresholds])
steward._ready()
owners = {"append": Log, "add": Reached, "_note_observed": Steward}
setattr(owners[what], what, dying(getattr(owners[what], what)))
for _ in range(3):
    try:
        steward.step()
    except (OSError, Exception) as error:
        print(repr(error))
"""


class Treasury(House):
    """A data directory whose spending is booked as a worker would book it."""

    def budget(self, limit: int = 100 * USD, window: str = "1d", **more: Any) -> Budget:
        made = {"created_at": time.time_ns() - 5 * HOUR, **more}
        return Budget(id=new_id("budget"), max_limit=limit, reset_duration=window, **made)

    def key(self, *budgets: Budget, name: str = "alice-dev") -> VirtualKey:
        return self.directory.create_key(name, budgets=budgets)[0]

    def spend(self, key: VirtualKey, cost: int, at: int = 0, **told: Any) -> None:
        """A request of the key: every budget's counter and the event, in one step."""
        at = at or time.time_ns()
        event = events.ModelAccess(at=at, request="r", key=key.id, outcome="ok", cost=cost, **told)
        self.book(key, cost, event)

    def book(self, key: VirtualKey, cost: int, event: Any) -> None:
        now = self.directory.get("virtual_key", key.id)
        accounts = [(id_number(one.id), *budget_window(one, event.at)) for one in now.budgets]
        self.gate.adjust(accounts, cost, events.encode(event), time.time_ns())

    def watching(self, percents: tuple[int, ...] = PERCENTS) -> Steward:
        thresholds = Thresholds(self.folder, self.gate, self.directory, lambda: percents)
        return self.steward(observers=[thresholds])

    def told(self) -> list[BudgetReached]:
        return [event for event in self.logged() if isinstance(event, BudgetReached)]

    def percents(self) -> list[int]:
        return [event.threshold for event in self.told()]


@pytest.fixture
def treasury(tmp_path: Path) -> Iterator[Treasury]:
    built = Treasury(tmp_path)
    yield built
    built.close()


@pytest.fixture
def steward(treasury: Treasury) -> Iterator[Steward]:
    made = treasury.watching()
    yield made
    made.close()


def test_each_threshold_is_told_once_as_spending_grows(
    treasury: Treasury, steward: Steward
) -> None:
    budget = treasury.budget()
    key = treasury.key(budget)
    seen = []
    for _ in range(12):
        treasury.spend(key, 10 * USD)
        steward.drain()
        seen.append(treasury.percents())
    assert seen[3:5] == [[], [50]] and seen[7] == [50, 80]
    assert seen[9] == seen[11] == [50, 80, 95, 100]
    first = treasury.told()[0]
    assert (first.budget, first.level, first.id, first.name) == (
        budget.id, "key", key.id, "alice-dev"
    )  # fmt: skip
    assert (first.limit, first.settled) == (100 * USD, 50 * USD)
    assert (first.window_start, first.window_end) == budget_window(budget, time.time_ns())


def test_a_leap_tells_all_it_passes_in_order(treasury: Treasury, steward: Steward) -> None:
    key = treasury.key(treasury.budget())
    treasury.spend(key, 95 * USD - 1)
    steward.drain()
    assert treasury.percents() == [50, 80]
    treasury.spend(key, 1)
    steward.drain()
    assert treasury.percents() == [50, 80, 95]


def test_every_level_and_budget_is_told_by_itself(treasury: Treasury, steward: Steward) -> None:
    directory = treasury.directory
    team = directory.create("team", "core", budgets=(treasury.budget(40 * USD),))
    month, day = treasury.budget(100 * USD, "1M"), treasury.budget(20 * USD)
    key = directory.create_key("bob-dev", team="core", budgets=(month, day))[0]
    treasury.spend(key, 16 * USD)
    treasury.gate.adjust(
        [(id_number(team.budgets[0].id), *budget_window(team.budgets[0], time.time_ns()))],
        20 * USD,
        events.encode(
            events.ModelAccess(at=time.time_ns(), request="r", key=key.id, team=team.id,
                               outcome="ok", cost=20 * USD)
        ),
        time.time_ns(),
    )  # fmt: skip
    steward.drain()
    told = {(event.budget, event.threshold) for event in treasury.told()}
    assert told == {(day.id, 50), (day.id, 80), (team.budgets[0].id, 50)}


def test_a_new_window_is_told_anew_and_a_late_request_belongs_to_its_own(
    treasury: Treasury, steward: Steward
) -> None:
    budget = treasury.budget(window="1h")
    key = treasury.key(budget)
    start, end = budget_window(budget, time.time_ns() - 2 * HOUR)
    treasury.spend(key, 60 * USD, at=start + 1)
    treasury.spend(key, 55 * USD, at=end + 1)
    steward.drain()
    treasury.spend(key, 30 * USD, at=end - 1)  # was under way when its window ended
    treasury.spend(key, 1 * USD, at=end + 2)
    steward.drain()
    assert [(event.window_start, event.threshold) for event in treasury.told()] == [
        (start, 50), (end, 50), (start, 80)
    ]  # fmt: skip


def test_a_request_admitted_at_the_edge_is_found_on_either_side(
    treasury: Treasury, steward: Steward
) -> None:
    budget = treasury.budget(window="1h")
    key = treasury.key(budget)
    _, edge = budget_window(budget, time.time_ns() - 2 * HOUR)
    event = events.ModelAccess(
        at=edge - 5, request="r", key=key.id, outcome="ok", cost=60 * USD, took_ns=10
    )  # it waited in line over the edge, so the new window pays
    _, end = budget_window(budget, edge)
    treasury.gate.adjust(
        [(id_number(budget.id), edge, end)], 60 * USD, events.encode(event), time.time_ns()
    )
    steward.drain()
    assert [(one.window_start, one.threshold) for one in treasury.told()] == [(edge, 50)]


def test_a_manual_reset_begins_anew(treasury: Treasury, steward: Steward) -> None:
    budget = treasury.budget()
    key = treasury.key(budget)
    treasury.spend(key, 60 * USD)
    steward.drain()
    acts.reset(treasury.directory, budget.id, reason="credited")
    treasury.spend(key, 20 * USD)
    steward.drain()
    assert treasury.percents() == [50]
    treasury.spend(key, 40 * USD)
    steward.drain()
    assert treasury.percents() == [50, 50]
    first, second = treasury.told()
    assert first.window_start < second.window_start and first.window_end == second.window_end


def test_a_raised_limit_repeats_nothing(treasury: Treasury, steward: Steward) -> None:
    budget = treasury.budget()
    key = treasury.key(budget)
    treasury.spend(key, 60 * USD)
    steward.drain()
    acts.set_limit(treasury.directory, budget.id, 200 * USD)
    treasury.spend(key, 50 * USD)
    steward.drain()
    assert treasury.percents() == [50]
    treasury.spend(key, 50 * USD)
    steward.drain()
    assert treasury.percents() == [50, 80]
    assert treasury.told()[-1].limit == 200 * USD


@pytest.mark.parametrize("how", ["limit", "override"])
def test_a_lowered_limit_tells_what_it_reaches_without_any_request(
    treasury: Treasury, steward: Steward, how: str
) -> None:
    budget = treasury.budget()
    treasury.spend(treasury.key(budget), 45 * USD)
    steward.drain()
    assert treasury.percents() == []
    if how == "limit":
        acts.set_limit(treasury.directory, budget.id, 50 * USD)
    else:
        acts.override(treasury.directory, budget.id, max_limit=50 * USD, reason="tight")
    steward.drain()
    assert treasury.percents() == [50, 80]


def test_a_change_that_is_not_yet_visible_is_looked_at_again(
    treasury: Treasury, steward: Steward
) -> None:
    budget = treasury.budget()
    key = treasury.key(budget)
    treasury.spend(key, 45 * USD)
    steward.drain()
    lower = acts.replace(budget, max_limit=50 * USD)
    now = time.time_ns()
    after = acts.replace(key, budgets=(lower,))
    change = events.PolicyChange(
        at=now, actor="x", action="update", kind="virtual_key", id=key.id, name=key.name,
        after=events.entity_digest(after),
    )  # fmt: skip
    treasury.gate.append(events.encode(change), now)  # its transaction has not ended
    steward.drain()
    assert treasury.percents() == []
    with treasury.directory._write() as txn:
        treasury.directory._record = None
        treasury.directory._store(txn, after, key)
    steward.step()
    assert treasury.percents() == [50, 80]


def test_corrections_tell_what_they_reach_and_repeat_nothing(
    treasury: Treasury, steward: Steward
) -> None:
    key = treasury.key(treasury.budget())
    treasury.spend(key, 55 * USD)
    steward.drain()
    for cost in (-20, 20, 40):
        told = events.Reconciled(
            at=time.time_ns(), done_at=time.time_ns(), request="r", key=key.id, cost=cost * USD,
            actor="x",
        )  # fmt: skip
        treasury.book(key, cost * USD, told)
        steward.drain()
    assert treasury.percents() == [50, 80, 95]


def test_a_budget_of_one_provider_looks_at_that_provider_only(
    treasury: Treasury, steward: Steward
) -> None:
    key = treasury.key(treasury.budget(provider="anthropic"))
    event = events.ModelAccess(
        at=time.time_ns(), request="r", key=key.id, outcome="ok", cost=90 * USD, provider="mock"
    )
    treasury.gate.append(events.encode(event), event.at)
    steward.drain()
    treasury.spend(key, 50 * USD, provider="anthropic")
    steward.drain()
    assert treasury.percents() == [50]


def test_nothing_is_told_of_a_budget_of_nothing_until_something_is_spent(
    treasury: Treasury, steward: Steward
) -> None:
    key = treasury.key(treasury.budget(0))
    treasury.spend(key, 0)
    steward.drain()
    assert treasury.percents() == []
    treasury.spend(key, 1)
    steward.drain()
    assert treasury.percents() == [50, 80, 95, 100]


def test_other_thresholds_come_into_force_at_once(treasury: Treasury) -> None:
    percents = [(90,)]
    thresholds = Thresholds(
        treasury.folder, treasury.gate, treasury.directory, lambda: percents[-1]
    )
    steward = treasury.steward(observers=[thresholds])
    key = treasury.key(treasury.budget())
    treasury.spend(key, 60 * USD)
    steward.drain()
    percents.append((25, 90))
    treasury.spend(key, 1 * USD)
    steward.drain()
    steward.close()
    assert treasury.percents() == [25]


POINTS = [
    (when, what, turn)
    for when in ("before", "after", "failing")
    # append: the requests, then the events; add and _note_observed follow it
    for what, turn in (("append", 1), ("append", 2), ("add", 1), ("_note_observed", 1))
]


@pytest.mark.parametrize(("when", "what", "turn"), POINTS)
def test_a_steward_that_dies_or_fails_anywhere_tells_each_once(
    tmp_path: Path, when: str, what: str, turn: int
) -> None:
    treasury = Treasury(tmp_path)
    try:
        key = treasury.key(treasury.budget())
        before = treasury.watching()
        before.drain()
        before.close()
        for _ in range(9):
            treasury.spend(key, 10 * USD)
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", VICTIM, tmp_path, when, what, str(turn)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == (0 if when == "failing" else -signal.SIGKILL), run.stderr
        assert ("No space" in run.stdout) == (when == "failing"), run.stdout
        after = treasury.watching()
        after.drain()
        treasury.spend(key, 1)
        after.drain()
        after.close()
        assert treasury.percents() == [50, 80]
    finally:
        treasury.close()


@pytest.mark.parametrize("how", ["lost", "damaged", "of another log"])
def test_what_was_told_is_learned_from_the_log_again(treasury: Treasury, how: str) -> None:
    key = treasury.key(treasury.budget())
    treasury.spend(key, 85 * USD)
    steward = treasury.watching()
    steward.drain()
    if how == "of another log":  # it knows more than this log holds
        steward._observers[0]._reached.add(  # type: ignore[attr-defined]
            [(10**6, acts.replace(treasury.told()[0], threshold=95))], 10**6 + 1
        )
    steward.close()
    path = treasury.folder / "reached.db"
    if how == "damaged":
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    elif how == "lost":
        path.unlink()
    treasury.spend(key, 10 * USD)
    steward = treasury.watching()
    steward.drain()
    steward.close()
    assert treasury.percents() == [50, 80, 95]


def test_a_store_that_cannot_be_opened_keeps_the_log_from_nothing(
    treasury: Treasury, caplog: pytest.LogCaptureFixture
) -> None:
    (treasury.folder / "reached.db").mkdir()
    steward = treasury.watching()
    key = treasury.key(treasury.budget())
    treasury.spend(key, 60 * USD)
    steward._try(steward._record)
    with pytest.raises(StoreError, match=r"Cannot use .*reached\.db"):
        steward._observe()
    assert len(treasury.logged()) == 2
    (treasury.folder / "reached.db").rmdir()
    steward.drain()
    steward.close()
    assert treasury.percents() == [50]
