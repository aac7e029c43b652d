"""The whole hierarchy against plain Python: random interleavings, edges, deaths and restarts."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bifrost._fast.gate import Exhausted, Gate, GateError
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, Override, id_number
from bifrost.identify import budget_window, limit_at
from bifrost.steward import Steward
from tests.hierarchy import (
    MINUTE,
    START,
    Account,
    Books,
    Held,
    doomed,
    entities,
    event,
    plan_of,
    replace,
)

SECOND = 1_000_000_000
KEYS, PROVIDERS, MODELS = ("k", "l"), ("anthropic", "bedrock-eu"), ("claude-opus-9", "haiku")
BUDGETS = range(1, 8)
request = st.tuples(
    st.sampled_from(KEYS), st.sampled_from(PROVIDERS), st.sampled_from(MODELS),
    st.one_of(st.integers(0, 200), st.integers(0, 1_200)), st.integers(0, 900), st.integers(0, 900),
)  # fmt: skip
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.hierarchy"])


class BooksMachine(RuleBasedStateMachine):
    """One gate, its steward, workers that die beside it, and the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.directory = Directory(self.folder)
        self.people = entities()
        self.books = Books()
        self.open: list[tuple[Any, Held]] = []
        self.orphans: list[Held] = []
        self.now = START
        self.logged = self.read = 0
        self.known: dict[Account, int] = {}
        self.begin()

    def begin(self) -> None:
        """Opens the state and takes the stewardship."""
        self.gate = Gate(self.folder / "state")
        self.steward = Steward(self.folder, self.gate, self.directory)

    def end(self) -> None:
        """Leaves both without settling anything."""
        self.steward.close()
        self.gate.close()

    def teardown(self) -> None:
        self.end()
        self.directory.close()
        self.temporary.cleanup()

    # -- requests --------------------------------------------------------------------------------

    @rule(asked=request)
    def admit(self, asked: tuple[Any, ...]) -> None:
        key, provider, model, amount, given, made = asked
        plan = plan_of(self.people, key, provider, model)
        one = self.books.held(key, plan.labels, self.now, amount, given, made)
        note = event(self.people[key][1].id, self.now, 0, "unsettled")
        slot = -1
        try:
            ticket = self.gate.admit(
                plan, amount, note, self.now, input_tokens=given, output_tokens=made
            )
        except Exhausted as error:
            slot = error.slot
            assert error.retry_ns == 0 or plan.labels[slot].rate is not None
        self.judge(one, slot)
        if slot < 0:
            self.open.append((ticket, one))

    def judge(self, one: Held, slot: int) -> None:
        """The decision must be the oracle's: the first slot that cannot hold it, or none."""
        for number in range(len(one.labels) if slot < 0 else slot):
            must_refuse, _ = self.books.fits(one, number)
            assert not must_refuse, f"let in past {one.labels[number]}"
        if slot < 0:
            self.books.admit(one)
        else:
            _, must_let_in = self.books.fits(one, slot)
            assert not must_let_in, f"refused by {one.labels[slot]}"

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.integers(0, 100))
    def settle(self, data: st.DataObject, share: int) -> None:
        ticket, one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        cost = one.amount * share // 100
        self.books.settle(one, cost)
        given, made = one.input_tokens * share // 100, one.output_tokens * share // 100
        told = event(self.people[one.key][1].id, one.at, cost, "ok")
        self.gate.settle(ticket, cost, given, made, told, self.now)
        one.input_tokens, one.output_tokens = given, made

    @precondition(lambda self: self.open)
    @rule()
    def release(self) -> None:
        ticket, one = self.open.pop()
        self.books.settle(one, 0)
        one.input_tokens = one.output_tokens = 0
        told = event(self.people[one.key][1].id, one.at, 0, "error")
        self.gate.settle(ticket, 0, 0, 0, told, self.now)

    # -- the clock -------------------------------------------------------------------------------

    @rule(seconds=st.integers(0, 90))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND + 1

    @rule(number=st.sampled_from(BUDGETS), off=st.sampled_from([-1, 0, 1]))
    def a_window_ends(self, number: int, off: int) -> None:
        _, end = budget_window(self.budget(number), self.now)
        if end - self.now < 26 * 60 * MINUTE:
            self.now = max(self.now, end + off)

    # -- the administrator -----------------------------------------------------------------------

    def budget(self, number: int) -> Budget:
        """A budget as it stands."""
        return next(
            budget
            for _, entity in self.people.values()
            for budget in entity.budgets
            if id_number(budget.id) == number
        )

    def change(self, number: int, **fields: Any) -> None:
        """Replaces a budget of whoever has it."""
        for name, (kind, entity) in self.people.items():
            budgets = tuple(
                replace(one, **fields) if id_number(one.id) == number else one
                for one in entity.budgets
            )
            self.people[name] = kind, replace(entity, budgets=budgets)

    @rule(number=st.sampled_from(BUDGETS), limit=st.integers(0, 6_000))
    def another_limit(self, number: int, limit: int) -> None:
        self.change(number, max_limit=limit)

    @rule(number=st.sampled_from(BUDGETS), limit=st.integers(0, 6_000), cycles=st.integers(1, 2))
    def override(self, number: int, limit: int, cycles: int) -> None:
        budget = self.budget(number)
        start, end = budget_window(budget, self.now)
        for _ in range(cycles - 1):
            end = budget_window(budget, end)[1]
        made = Override(max_limit=limit, start_at=start, end_at=end)
        self.change(number, override=made)

    @rule(number=st.sampled_from(BUDGETS))
    def own_limit_again(self, number: int) -> None:
        self.change(number, override=None)

    @rule(number=st.sampled_from(BUDGETS))
    def manual_reset(self, number: int) -> None:
        self.change(number, reset_at=self.now)

    # -- processes -------------------------------------------------------------------------------

    @rule(asked=st.lists(request, min_size=1, max_size=4))
    def a_worker_dies(self, asked: list[tuple[Any, ...]]) -> None:
        here, there = _processes.Pipe()
        arguments = (str(self.folder / "state"), self.people, asked, self.now, there)
        child = _processes.Process(target=doomed, args=arguments)
        child.start()
        assert here.poll(30)
        answers = here.recv()
        child.join(30)
        for (key, provider, model, *figures), slot in zip(asked, answers, strict=True):
            labels = plan_of(self.people, key, provider, model).labels
            one = self.books.held(key, labels, self.now, *figures)
            self.judge(one, slot)
            if slot < 0:
                self.orphans.append(one)

    @rule()
    def restart(self) -> None:
        tickets = [ticket for ticket, _ in self.open]
        self.orphans += [one for _, one in self.open]
        self.open = []
        self.end()
        self.begin()
        for ticket in tickets:
            with pytest.raises(GateError, match="not there any more"):
                self.gate.settle(ticket, 1, 0, 0, b"{}", self.now)

    @rule()
    def the_steward_sweeps(self) -> None:
        assert self.steward.sweep() == len(self.orphans)
        for one in self.orphans:
            self.books.settle(one, one.amount)
        self.orphans = []

    @rule()
    def the_steward_drains(self) -> None:
        while self.steward.step():
            pass
        assert self.gate.outbox(0, 1) == []
        for index, raw in Reader(self.folder).read(self.read, 1_000_000):
            self.read = index + 1
            self.logged += _cost(raw)

    # -- what holds at every moment --------------------------------------------------------------

    @invariant()
    def the_same_books(self) -> None:
        accounts = sorted(self.books.reserved)
        for account, cell in zip(accounts, self.gate.counters(accounts), strict=True):
            assert cell[:3] == self.books.cells(account)
        assert len(self.gate.reservations()) == len(self.open) + len(self.orphans)

    @invariant()
    def never_above_a_limit(self) -> None:
        for number in BUDGETS:
            budget = self.budget(number)
            account = (number, budget_window(budget, self.now)[0])
            settled, held, *_ = self.gate.counters([account])[0]
            limit, _ = limit_at(budget, self.now)
            # A limit may be lowered below what is spent; then nothing may be added.
            if budget.overdraft == "none":
                assert settled + held <= max(limit, self.known.get(account, 0))
            self.known[account] = settled + held

    @invariant()
    def the_events_are_the_money(self) -> None:
        waiting = sum(_cost(raw) for _, raw in self.gate.outbox(0, 100_000))
        assert self.logged + waiting == self.books.total
        settled = dict.fromkeys(BUDGETS, 0)
        for (number, _), amount in self.books.settled.items():
            if number in settled:
                settled[number] += amount
        assert settled[1] == settled[2] == settled[3] == self.books.total
        assert settled[4] == settled[5] == self.books.by_key["k"]
        assert settled[7] == self.books.by_key["l"]


def _cost(raw: bytes) -> int:
    told = events.decode(raw)
    assert isinstance(told, events.ModelAccess)
    return told.cost


TestBooks = BooksMachine.TestCase
TestBooks.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
