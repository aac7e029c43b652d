"""The whole hierarchy served by a real gateway: the books are the provider's own account.

Hypothesis draws budgets for everybody and crowds of requests; while a crowd is served somebody is
killed, told to end, given another limit, a new window or no key. All the time no counter holds more
than its limit. Whenever all is at rest the counters, the events, the usage view and the mock's own
bills say the same, to the nano-dollar.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from bifrost.audit.events import ModelAccess
from tests.estate import ABOVE, EVERYBODY, KEYS, OWNERS, Estate, Means, drawn
from tests.patrons import BYTES, PIECE, PRICES, UNPRICED, Seen, Wish, crowd, priced
from tests.premises import Premises

EXAMPLES, STEPS = 6, 10
LONG_S = 45  # after which no further crowd is asked in
SMALL, MIDDLE, WIDE = 60_000_000, 250_000_000, 900_000_000_000  # nano-USD
VICTIMS = ("worker", "worker", "steward", "everything", "terminate")
POLICIES = ("limit", "limit", "reset", "key")
FAULTS = (*[""] * 8, "429", "400", "500", "529", "cut", "cut", "error_event", "leave", "leave")

limits = st.sampled_from((SMALL, MIDDLE, MIDDLE, *[WIDE] * 6))
means = st.builds(
    Means, limits, st.sampled_from(("1m", "1m", "1Y")), st.integers(0, 15),
    st.sampled_from(("wait,clamp", "wait", "clamp", "refuse")),
)  # fmt: skip
wishes = st.builds(
    Wish,
    key=st.sampled_from(KEYS),
    model=st.sampled_from((*[*PRICES] * 6, UNPRICED)),
    stream=st.booleans(),
    max_tokens=st.sampled_from((600, 1_500, 4_000, 9_000)),
    pieces=st.integers(1, 100),
    latency_ms=st.integers(0, 300),
    interval_ms=st.integers(0, 6),
    fault=st.sampled_from(FAULTS),
    at=st.floats(0, 1),
    given=st.none() | st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)),
)
anybody, moments = st.sampled_from(EVERYBODY), st.floats(0.1, 0.4)
crowds = st.lists(wishes, min_size=6, max_size=16)


class Watcher(threading.Thread):
    """Looks at all counters while requests are under way."""

    def __init__(self, look: Callable[[], list[str]]) -> None:
        super().__init__(daemon=True)
        self.look = look
        self.found: list[str] = []
        self.looks = 0
        self.error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            while not self.done.is_set():
                self.found += self.look()
                self.looks += 1
                time.sleep(0.001)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


class ServedMachine(RuleBasedStateMachine):
    """One example: an estate of its own on the premises that all share."""

    premises: Premises
    began: float
    estate: Estate
    acts: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    estates = 0
    failure: BaseException | None = None

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Seen] = {}
        self.taken: set[str] = set()  # requests whose key was taken back at the time
        self.moved = False  # since the last look at the books

    @initialize(owned=st.tuples(*[means] * len(EVERYBODY)), asked=crowds, when=moments)
    def settle_down(self, owned: tuple[Means, ...], asked: list[Wish], when: float) -> None:
        """Everybody is new; their first requests meet a death, in turn of each kind."""
        cls = type(self)
        cls.estates += 1
        with self._told():
            self.estate = Estate(self.premises.stores[0], cls.estates, drawn(owned))
        self._die(asked, when, VICTIMS[cls.estates % len(VICTIMS)])

    @property
    def over(self) -> bool:
        """Too late for more, or something failed, which no repetition makes any clearer."""
        return self.failure is not None or time.monotonic() - self.began > LONG_S

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            type(self).failure = error
            raise

    # -- what happens --------------------------------------------------------------------------

    @rule(asked=crowds)
    def a_crowd(self, asked: list[Wish]) -> None:
        """Requests at the same time."""
        self._ask(asked, 0, lambda: None)

    @rule(asked=crowds, when=moments, policy=st.sampled_from(POLICIES), who=anybody, limit=limits)
    def a_change(self, asked: list[Wish], when: float, policy: str, who: str, limit: int) -> None:
        """Requests, while somebody gets another limit, a new window, or no key for a moment."""
        taken = self._ask(asked, when, lambda: self._govern(policy, who, limit))
        if policy == "key":
            self.taken |= {request for request in taken if taken[request].key == who}
        self.acts[policy] += 1

    @rule(asked=crowds, when=moments, victim=st.sampled_from(VICTIMS))
    def a_death(self, asked: list[Wish], when: float, victim: str) -> None:
        """Requests, while a process is killed, or everything is, or told to end."""
        self._die(asked, when, victim)

    def _die(self, asked: list[Wish], when: float, victim: str) -> None:
        family = {} if self.over else self.premises.family()
        self._ask(asked, when, lambda: self._kill(victim, family))
        self.acts[victim] += 1
        if victim in ("everything", "terminate") and family:
            with self._told():
                self.premises.again(family)

    def _ask(self, asked: list[Wish], when: float, act: Callable[[], None]) -> dict[str, Wish]:
        """Sends requests and does something ``when`` (s) they are under way; all counters hold."""
        first = len(self.seen)
        named = {f"r{self.estate.suffix}-{first + n}": wish for n, wish in enumerate(asked)}
        if self.over:
            return {}
        gate = self.premises.stores[1]
        with self._told():
            with Watcher(lambda: self.estate.overdrawn(gate)) as watcher:
                asyncio.run(self._asked(named, act, when))
            assert watcher.error is None, watcher.error
            assert not watcher.found, watcher.found[:3]
        self.moved = True
        return named

    async def _asked(self, named: dict[str, Wish], act: Callable[[], None], when: float) -> None:
        base, secrets = self.premises.gateway.url, self.estate.secrets

        async def meanwhile() -> None:
            await asyncio.sleep(when)
            await asyncio.to_thread(act)

        found, _ = await asyncio.gather(crowd(base, secrets, named), meanwhile())
        self.seen |= found

    def _govern(self, policy: str, who: str, limit: int) -> None:
        directory = self.premises.stores[0]
        if policy == "limit":
            self.estate.limit(directory, who, limit)
        elif policy == "reset":
            self.estate.reset(directory, who)
        elif policy == "key" and who in KEYS:
            self.estate.active(directory, who, False)
            time.sleep(0.1)
            self.estate.active(directory, who, True)

    def _kill(self, victim: str, family: dict[str, list[Any]]) -> None:
        if victim in family:
            family[victim][0].kill()
        elif victim == "everything":
            self.premises.kill_all(family)
        elif victim == "terminate":
            self.premises.terminate()

    @rule()
    def time_passes(self) -> None:
        """Windows of a minute end."""
        if not self.over:
            time.sleep(0.5)

    @rule()
    def reconciled(self) -> None:
        """Who was charged in full gets what the provider billed."""
        if self.over:
            return
        with self._told():
            self.premises.reconcile(self._lost())
            self.moved = True

    def _lost(self) -> dict[str, int]:
        """Requests charged in full that nobody has corrected, with what the provider billed."""
        booked, corrected = self.premises.booked, self.premises.corrected
        return {
            request: self.premises.billed(request, seen.wish.model)
            for request, seen in self.seen.items()
            for event in booked.get(request, [])
            if event.outcome == "unsettled" and request not in corrected
        }

    # -- what holds ----------------------------------------------------------------------------

    @invariant()
    def the_books_are_the_account(self) -> None:
        if not self.moved or self.failure is not None:
            return
        self.moved = False
        with self._told():
            self._books()

    def _books(self) -> None:
        self.premises.rest()
        gate = self.premises.stores[1]
        for request, seen in self.seen.items():
            self._holds(request, seen)
        booked = [
            (event, self.premises.cost(request))
            for request in self.seen
            for event in self.premises.booked.get(request, [])
        ]
        wrong = self.estate.wrong(gate, booked)
        assert not wrong, wrong
        for purse in self.estate.purses.values():
            purse.rest(gate)
        assert self.estate.overdrawn(gate) == []
        self._rows([(self.estate.key_of(event), cost) for event, cost in booked])

    def _rows(self, booked: list[tuple[str, int]]) -> None:
        """The usage view says the same at every level."""
        by_kind: dict[str, dict[str, int]] = {}
        for name in EVERYBODY:
            kind = OWNERS[name][0] if name in OWNERS else "key"
            total = sum(cost for key, cost in booked if name == key or name in ABOVE[key])
            by_kind.setdefault(kind, {})[self.estate.name(name)] = total
        for kind, expected in by_kind.items():
            rows = self.premises.usage(kind)
            assert {name: rows.get(name, 0) for name in expected} == expected

    def _holds(self, request: str, seen: Seen) -> None:
        """One request costs what the provider bills for it, or what its end allows."""
        booked = self.premises.booked.get(request, [])
        bills = self.premises.bills.get(request, [])
        said = f"{request} {seen} {booked} {bills}"
        assert len(booked) <= 1 and len(bills) <= 1, said
        if not booked:  # it came to nobody, so it cannot have been sent on
            assert not bills and seen.status in (0, 403), said
            return
        [event] = booked
        assert seen.status in (0, event.status or 200) or event.outcome == "unsettled", said
        billed, cost = self.premises.billed(request, seen.wish.model), self.premises.cost(request)
        least, most = self._range(request, seen, event, billed)
        assert least <= cost <= most, f"{least} {cost} {most} {said}"
        assert cost <= event.reserved or event.outcome == "refused", said

    def _range(self, request: str, seen: Seen, event: ModelAccess, billed: int) -> tuple[int, int]:
        """The least and the most a request may cost in nano-USD."""
        if request in self.premises.corrected or event.outcome in ("refused", "error"):
            return billed, billed
        if event.outcome == "unsettled":
            return max(billed, event.reserved), event.reserved
        if event.outcome == "ok" and event.source == "reported":
            return billed, billed
        model = seen.wish.model
        [(_, usage)] = self.premises.bills.get(request) or [("", {})]
        if event.outcome == "cut" or request in self.taken:  # the provider had sent on
            if not event.stream or not usage or not seen.text:
                return 0, event.reserved
            return priced(model, {**usage, "output_tokens": seen.text // BYTES}), event.reserved
        assert event.outcome == "broken" and seen.wish.fault in ("cut", "error_event")
        if not event.stream:
            return billed, event.reserved
        # The first event of a stream tells of one token, which no text stands for.
        billed = priced(model, {**usage, "output_tokens": max(usage["output_tokens"], 1)})
        whole = PIECE * seen.wish.pieces <= (event.output_limit or seen.wish.max_tokens)
        return billed, billed + (0 if whole else PRICES[model][3])

    def teardown(self) -> None:
        for request in self.seen:
            self.outcomes.update(one.outcome for one in self.premises.booked.get(request, []))
        if self.failure is None and (lost := self._lost()):
            with self._told():
                self.premises.reconcile(lost)
                self._books()


@pytest.mark.timeout(400)
def test_the_books_are_the_providers_account(tmp_path: Path) -> None:
    number = int(os.environ.get("BOOKS_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"BOOKS_SEED={number}")
    premises = Premises(tmp_path)
    try:
        premises.first()
        ServedMachine.premises, ServedMachine.began = premises, time.monotonic()
        try:
            run_state_machine_as_test(
                seed(number)(ServedMachine),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],  # what real processes do cannot be made smaller
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except BaseException as error:
            raise ServedMachine.failure or error from error
        premises.rest()
        print(dict(ServedMachine.acts), dict(ServedMachine.outcomes))
        _everything(premises)
    finally:
        premises.stop()


def _everything(premises: Premises) -> None:
    """All rows are what the mock counted, but for answers of which nobody saw the end."""
    rows = premises.usage("key")
    open_ended = sum(
        premises.cost(request) - sum(priced(model, usage) for _, usage in bills)
        for request, events in premises.booked.items()
        for bills in [premises.bills.get(request, [])]
        for model in [events[0].model or ""]
        if events[0].outcome in ("cut", "broken")
    )
    assert sum(rows.values()) - open_ended == premises.account() > 0
