"""The gate: money decided and closed in one transaction each, equal to the oracle in every step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bifrost import money
from bifrost._fast.gate import (
    CONCURRENCY,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    OVERDRAFT,
    REQUESTS,
    TOKENS,
    Exhausted,
    Gate,
    GateError,
    Plan,
    alive,
)
from bifrost._fast.stations import budget_lines
from tests.oracle import OracleGate

HOUR = 3_600_000_000_000
BUDGETS = [1, 2, 3, 2**64 - 1]


def hourly(_: int, now_ns: int) -> tuple[int, int]:
    """Windows of an hour from the epoch."""
    start = now_ns - now_ns % HOUR
    return start, start + HOUR


def endless(_: int, __: int) -> tuple[int, int]:
    """One window for ever."""
    return 0, 2**62


class GateMachine(RuleBasedStateMachine):
    """Random admissions and settlements under shared budgets, against the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.gate = Gate(self.folder.name)
        self.oracle = OracleGate()
        self.open: list[tuple[Any, list[tuple[int, int]], int]] = []
        self.now = 10 * HOUR
        self.plans: dict[tuple[tuple[int, int], ...], Plan] = {}
        self.number = 0

    def teardown(self) -> None:
        self.gate.close()
        self.folder.cleanup()

    @rule(hours=st.integers(0, 3))
    def time_passes(self, hours: int) -> None:
        self.now += hours * HOUR + 1

    @rule(
        budgets=st.lists(st.sampled_from(BUDGETS), max_size=4, unique=True),
        limit=st.integers(0, 3000),
        amount=st.integers(0, 1000),
    )
    def admit(self, budgets: list[int], limit: int, amount: int) -> None:
        shape = tuple((budget, limit + i) for i, budget in enumerate(budgets))
        plan = self.plans.setdefault(shape, Plan(list(shape), hourly))
        accounts = [(budget, hourly(0, self.now)[0]) for budget in budgets]
        slot, left = self.oracle.admit(accounts, [limit for _, limit in shape], amount)
        if slot is None:
            ticket = self.gate.admit(plan, amount, b"note", self.now)
            assert ticket.remaining == left
            self.open.append((ticket, accounts, amount))
            return
        with pytest.raises(Exhausted) as refused:
            self.gate.admit(plan, amount, b"note", self.now)
        assert refused.value.slot == slot
        assert refused.value.limit == shape[slot][1]
        assert refused.value.settled == self.oracle.settled.get(accounts[slot], 0)
        assert refused.value.reserved == self.oracle.reserved.get(accounts[slot], 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.integers(0, 100))
    def settle(self, data: st.DataObject, share: int) -> None:
        ticket, accounts, amount = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        cost = amount * share // 100
        self.number += 1
        event = b"event %d" % self.number
        self.oracle.settle(accounts, amount, cost, event)
        self.gate.settle(ticket, cost, 3, 4, event, self.now)
        with pytest.raises(ValueError, match="already"):
            self.gate.settle(ticket, cost, 3, 4, event, self.now)

    @invariant()
    def same_books(self) -> None:
        accounts = sorted(set(self.oracle.reserved) | {(budget, 0) for budget in BUDGETS})
        for account, cell in zip(accounts, self.gate.counters(accounts), strict=True):
            assert cell[0] == self.oracle.settled.get(account, 0)
            assert cell[1] == self.oracle.reserved.get(account, 0)
            assert cell[2] == self.oracle.requests.get(account, 0)
        assert [event for _, event in self.gate.outbox(0, 10_000)] == self.oracle.events
        assert len(self.gate.reservations()) == len(self.open)


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    opened = Gate(tmp_path / "state")
    yield opened
    opened.close()


def test_the_outbox_rises_for_ever(gate: Gate) -> None:
    for number in range(700):
        gate.append(b"%d" % number, 1000 if number % 3 else 5)  # time stands still, or goes back
    rows = gate.outbox(0, 1000)
    assert [event for _, event in rows] == [b"%d" % number for number in range(700)]
    assert [seq for seq, _ in rows] == sorted({seq for seq, _ in rows})
    gate.forget(rows[400][0])
    assert gate.outbox(0, 1000) == rows[401:]
    gate.forget(2**63)
    assert gate.outbox(0, 1000) == []
    gate.append(b"next", 5)
    assert gate.outbox(rows[-1][0], 10) == [(rows[-1][0] + 1, b"next")]


def test_state_outlives_the_process_that_wrote_it(tmp_path: Path) -> None:
    plan = Plan([(7, 1000)], endless)
    first = Gate(tmp_path / "state")
    first.settle(first.admit(plan, 600, b"", 1), 250, 1, 2, b"one", 1)
    first.close()
    with pytest.raises(GateError, match="closed"):
        first.counters([(7, 0)])
    second = Gate(tmp_path / "state")
    assert second.counters([(7, 0)]) == [(250, 0, 1, 1, 2)]
    assert second.outbox(0, 9) == [(1, b"one")]
    second.close()


def test_a_full_map_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    small = Gate(tmp_path / "state", map_size=256 * 1024)
    plan = Plan([(7, 10**12)], endless)
    ticket = small.admit(plan, 10, b"", 1)
    with pytest.raises(GateError, match="MAP_FULL"):
        for _ in range(4000):
            small.append(b"x" * 1000, 1)
    assert small.counters([(7, 0)])[0][:2] == (0, 10)
    small.forget(2**63)
    small.settle(ticket, 10, 0, 0, b"fits again", 1)
    assert small.counters([(7, 0)])[0][:2] == (10, 0)
    small.close()


def test_nonsense_is_refused(gate: Gate) -> None:
    plan = Plan([(7, 10)], endless)
    with pytest.raises(ValueError, match="negative"):
        gate.admit(plan, -1, b"", 1)
    ticket = gate.admit(plan, 1, b"", 1)
    with pytest.raises(ValueError, match="negative"):
        gate.settle(ticket, -1, 0, 0, b"", 1)
    with pytest.raises(ValueError, match="at most"):
        Plan([(n, 1) for n in range(25)], endless)
    assert plan.account(0, 1) == (7, 0, 2**62)
    with pytest.raises(IndexError):
        plan.account(1, 1)


def _spend(folder: str, limit: int, ready: Any, counts: Any) -> None:
    gate = Gate(folder)
    plan = Plan([(1, limit), (2, limit * 2)], endless)
    ready.wait()
    admitted = 0
    for _ in range(1500):
        try:
            ticket = gate.admit(plan, 10, b"", 1)
        except Exhausted:
            continue
        settled, reserved, *_ = gate.counters([(1, 0)])[0]
        assert settled + reserved <= limit
        gate.settle(ticket, 4, 0, 0, b"e", 1)
        admitted += 1
    counts.put(admitted)
    gate.close()


def test_processes_share_one_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    counts, limit = context.Queue(), 4000
    barrier = context.Barrier(3)
    children = [
        context.Process(target=_spend, args=(str(tmp_path), limit, barrier, counts))
        for _ in range(3)
    ]
    for child in children:
        child.start()
    admitted = sum(counts.get(timeout=60) for _ in children)
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    gate = Gate(tmp_path)
    settled, reserved, requests, *_ = gate.counters([(1, 0)])[0]
    gate.close()
    assert (settled, reserved, requests) == (4 * admitted, 0, admitted)
    assert limit - 10 < settled <= limit  # the last dollars were spent, and no more


def _hold(folder: str, pipe: Any) -> None:
    gate = Gate(folder)
    gate.admit(Plan([(1, 100)], endless), 60, b"note of the dead", 77)
    pipe.send(gate.owner)
    signal.pause()


def test_the_reservation_of_a_killed_process_is_found_and_charged_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_hold, args=(str(tmp_path), there))
    child.start()
    assert here.poll(30)
    owner = here.recv()
    gate = Gate(tmp_path)
    assert alive(tmp_path, owner) and alive(tmp_path, gate.owner)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert not alive(tmp_path, owner)
    assert gate.reservations() == [(owner, 1, 60, 77, b"note of the dead")]
    assert gate.reclaim(owner, 1, b"charged", 5)
    assert not gate.reclaim(owner, 1, b"charged", 5)
    assert gate.counters([(1, 0)])[0][:3] == (60, 0, 1)
    assert [event for _, event in gate.outbox(0, 9)] == [b"charged"]
    gate.close()


@pytest.mark.parametrize(
    "nano", [0, 1, 10**7, 10**9, 343_000, 9_998_343_750, 123 * 10**9 + 5, 2**62]
)
def test_money_reads_the_same_from_both_writers(nano: int) -> None:
    told = budget_lines(nano, 1_700_000_000_123_456_789).decode().split("\r\n")
    assert told[0] == f"x-bf-budget-remaining-usd: {money.usd(nano)}"
    assert told[1:] == ["x-bf-budget-reset: 2023-11-14T22:13:20Z", ""]
    assert budget_lines(-1, 0) == b""


SECOND = 1_000_000_000


def _passing(gate: Gate, plan: Plan, now: int, **of: int) -> bool:
    try:
        gate.settle(gate.admit(plan, 0, b"", now, **of), 0, 0, 0, b"", now)
    except Exhausted as error:
        assert error.retry_ns != 0
        return False
    gate.forget(2**63)
    return True


@given(st.lists(st.integers(0, 20 * SECOND), max_size=400), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_no_window_anywhere_holds_more_than_its_limit(gaps: list[int], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(folder)
        plan = Plan([(7, limit, REQUESTS, 60 * SECOND)], endless)
        now, passed = 10**18, []
        for gap in gaps:
            now += gap // (limit + 1)
            if _passing(gate, plan, now):
                passed.append(now)
        for first, last in zip(passed, passed[limit:], strict=False):
            assert last - first >= 60 * SECOND
        gate.close()


def test_a_pushed_limit_is_used_up_and_never_passed(gate: Gate) -> None:
    plan = Plan([(7, 600, REQUESTS, 60 * SECOND)], endless)
    start = 10**18 + 123_456_789
    passed = [
        start + step * SECOND // 50
        for step in range(50 * 180)
        if _passing(gate, plan, start + step * SECOND // 50)
    ]
    assert len(passed) >= 3 * 590
    for first, last in zip(passed, passed[600:], strict=False):
        assert last - first >= 60 * SECOND


@given(st.lists(st.tuples(st.integers(0, 9 * SECOND), st.integers(1, 40)), max_size=80))
@settings(max_examples=80, deadline=None)
def test_who_waits_as_long_as_told_gets_in(steps: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(folder)
        plan = Plan([(7, 40, TOKENS, 30 * SECOND)], endless)
        now = 10**18
        for gap, tokens in steps:
            now += gap
            try:
                ticket = gate.admit(plan, 0, b"", now, input_tokens=tokens)
            except Exhausted as error:
                assert 0 < error.retry_ns <= 31 * SECOND
                now += error.retry_ns
                ticket = gate.admit(plan, 0, b"", now, input_tokens=tokens)
            gate.settle(ticket, 0, tokens, 0, b"", now)
        gate.close()


def test_the_wait_is_told_for_all_limits_together(gate: Gate) -> None:
    now = 10**18
    plan = Plan(
        [(1, 2, REQUESTS, SECOND), (2, 3, REQUESTS, 60 * SECOND), (3, 50, TOKENS, 9 * SECOND)],
        endless,
    )
    for at in (now, now, now + 2 * SECOND):
        assert _passing(gate, plan, at)
    assert not _passing(gate, plan, now + 2 * SECOND)
    assert _passing(gate, Plan([(1, 2, REQUESTS, SECOND)], endless), now + 2 * SECOND)
    now += 2 * SECOND
    with pytest.raises(Exhausted) as refused:  # by both; the first is named
        gate.admit(plan, 0, b"", now)
    assert (refused.value.slot, refused.value.limit) == (0, 2)
    assert 57 * SECOND < refused.value.retry_ns < 60 * SECOND
    assert _passing(gate, plan, now + refused.value.retry_ns)
    with pytest.raises(Exhausted) as never:  # no wait helps, so that is what must be told
        gate.admit(plan, 0, b"", now, input_tokens=60)
    assert (never.value.slot, never.value.kind, never.value.retry_ns) == (2, TOKENS, -1)
    assert (never.value.limit, never.value.reserved) == (50, 60)


def test_tokens_are_reserved_then_corrected(gate: Gate) -> None:
    plan = Plan(
        [
            (1, 100, INPUT_TOKENS, SECOND),
            (2, 50, OUTPUT_TOKENS, SECOND),
            (3, 10**6, TOKENS, SECOND),
        ],
        endless,
    )
    now = 10**18
    ticket = gate.admit(plan, 0, b"", now, input_tokens=60, output_tokens=50)
    with pytest.raises(Exhausted) as refused:
        gate.admit(plan, 0, b"", now, input_tokens=10, output_tokens=1)
    assert (refused.value.slot, refused.value.kind) == (1, OUTPUT_TOKENS)
    assert (refused.value.settled, refused.value.reserved) == (50, 1)
    gate.settle(ticket, 0, 90, 5, b"", now)  # denser than thought, and shorter
    gate.settle(
        gate.admit(plan, 0, b"", now, input_tokens=10, output_tokens=45), 0, 10, 45, b"", now
    )
    assert not _passing(gate, plan, now, input_tokens=1)
    with pytest.raises(Exhausted) as never:
        gate.admit(plan, 0, b"", now + 9 * SECOND, input_tokens=101)
    assert never.value.retry_ns == -1
    assert _passing(gate, plan, now + 2 * SECOND, input_tokens=100, output_tokens=50)


def test_concurrency_counts_what_is_under_way(gate: Gate) -> None:
    plan = Plan([(9, 2, CONCURRENCY), (1, 100)], endless)
    first, second = (gate.admit(plan, 1, b"", 1) for _ in range(2))
    with pytest.raises(Exhausted) as refused:
        gate.admit(plan, 1, b"", 1)
    assert (refused.value.slot, refused.value.kind, refused.value.waits) == (0, CONCURRENCY, False)
    gate.settle(first, 1, 0, 0, b"", 1)
    third = gate.admit(plan, 1, b"", 1)
    gate.settle(second, 1, 0, 0, b"", 1)
    gate.settle(third, 1, 0, 0, b"", 1)
    assert gate.counters([(1, 0)])[0][:2] == (3, 0)


def test_only_the_last_request_may_pass_an_overdraft(gate: Gate) -> None:
    plan = Plan([(1, 100, OVERDRAFT)], endless)
    gate.settle(gate.admit(plan, 60, b"", 1), 60, 0, 0, b"", 1)
    last = gate.admit(plan, 60, b"", 1)
    assert last.remaining == 0
    with pytest.raises(Exhausted) as refused:
        gate.admit(plan, 1, b"", 1)
    assert refused.value.waits
    gate.settle(last, 50, 0, 0, b"", 1)
    with pytest.raises(Exhausted) as refused:
        gate.admit(plan, 1, b"", 1)
    assert not refused.value.waits


def test_the_line_is_first_come_first_served(gate: Gate) -> None:
    plan, other = Plan([(1, 100)], endless), Plan([(2, 100), (3, 10**6)], endless)
    held = gate.admit(plan, 90, b"", 1)
    with pytest.raises(Exhausted) as refused:
        gate.admit(plan, 50, b"", 1)
    assert refused.value.waits
    first = gate.wait(plan, 0, 1)
    second = gate.wait(plan, 0, 1)
    with pytest.raises(Exhausted) as late:  # it would fit, but others were first
        gate.admit(plan, 1, b"", 1)
    assert late.value.waits
    gate.settle(gate.admit(other, 1, b"", 1), 1, 0, 0, b"", 1)  # another budget's matter
    freed = gate.freed
    gate.settle(held, 10, 0, 0, b"", 1)
    assert gate.freed != freed
    with pytest.raises(Exhausted):
        gate.admit(plan, 50, b"", 1, place=second)
    ticket = gate.admit(plan, 50, b"", 1, place=first)
    gate.settle(gate.admit(plan, 40, b"", 1, place=second), 0, 0, 0, b"", 1)
    gate.quit(first)
    gate.quit(second)
    gate.settle(gate.admit(plan, 40, b"", 1), 0, 0, 0, b"", 1)
    gate.settle(ticket, 50, 0, 0, b"", 1)
    assert gate.reservations() == []
    with pytest.raises(IndexError):
        gate.wait(Plan([(9, 2, CONCURRENCY)], endless), 0, 1)


def test_who_leaves_or_dies_in_the_line_holds_nobody_up(gate: Gate) -> None:
    plan = Plan([(1, 100)], endless)
    gate.settle(gate.admit(plan, 1, b"", 1), 0, 0, 0, b"", 1)
    place = gate.wait(plan, 0, 1)
    with pytest.raises(Exhausted):
        gate.admit(plan, 1, b"", 1)
    gate.quit(place)
    gate.settle(gate.admit(plan, 1, b"", 1), 0, 0, 0, b"", 1)
    place = gate.wait(plan, 0, 1)
    gate.settle(gate.admit(plan, 1, b"", 3 * SECOND), 0, 0, 0, b"", 1)  # silent for too long
    assert gate.wait(plan, 0, 3 * SECOND, place) != 0
    assert len(gate.reservations()) == 0


def test_another_limit_can_hold_for_a_time(gate: Gate) -> None:
    def window(_: int, now_ns: int) -> tuple[int, ...]:
        return (0, 2**62, 100, 50) if now_ns < 50 else (0, 2**62, 10, 2**62)

    plan = Plan([(1, 10)], window)
    gate.settle(gate.admit(plan, 80, b"", 1), 80, 0, 0, b"", 1)
    assert gate.remaining(plan, 49) == (20, 2**62)
    with pytest.raises(Exhausted):
        gate.admit(plan, 1, b"", 50)
    assert gate.remaining(plan, 50) == (0, 2**62)
    assert gate.remaining(Plan([], window), 1) == (-1, 0)


def test_idle_meters_are_given_back(gate: Gate) -> None:
    now = 10**18
    plans = [Plan([(n, 5, REQUESTS, SECOND)], endless) for n in range(1, 300)]
    held = gate.admit(plans[0], 0, b"", now)
    assert all(_passing(gate, plan, now) for plan in plans)
    gate.retire(0, now + 3 * SECOND)
    for n, plan in enumerate(plans):
        passed = [_passing(gate, plan, now + 3 * SECOND) for _ in range(6)]
        assert passed == [True] * 5 + [False], n
    gate.settle(held, 0, 0, 0, b"", now)


def test_timings_are_kept_where_they_happen(gate: Gate) -> None:
    plan = Plan([(7, 10**9)], endless)
    for _ in range(50):
        gate.settle(gate.admit(plan, 5, b"", 1), 1, 0, 0, b"", 1)
    for timing in (gate.gating, gate.admitting, gate.settling, gate.governing):
        assert timing.count == 50
        assert 0 < timing.quantile(0.5) <= timing.quantile(0.99) <= 2 * timing.total_ns
        timing.clear()
        assert (timing.count, timing.quantile(0.5)) == (0, 0)
