"""Thresholds: tells when the spending of a budget reaches a share of its limit, once per window.

An observer of the steward. The log says which budgets were spent from, the gate how much is
settled; a threshold that is told is an event in the log, so (budget, window start, threshold) is
told once whatever is killed when. Costs a request a few additions: a counter is only read when the
spending seen since the last look may have passed the next threshold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bifrost._fast.gate import Gate
from bifrost.alerts.reached import Reached
from bifrost.audit import events
from bifrost.audit.events import BudgetReached, Event, ModelAccess, PolicyChange, Reconciled
from bifrost.audit.log import Reader
from bifrost.governance.budgets import EVER, budget_window, limit_at
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, Entity, Kind, id_number, kind_of
from bifrost.patterns import matches

log = logging.getLogger("bifrost.alerts")
MOST_KNOWN = 200_000  # entities
MOST_LEFT = 10_000  # events that are looked at again
VISIBLE_NS = 60_000_000_000  # a change may be in the log before its transaction has ended
REST_S = 1.0  # after a failure
LEVEL = {"virtual_key": "key", "user": "user", "team": "team", "customer": "customer"}


class Watched:
    """A budget in the window that is known of it.

    ``room``: nano-USD that may be spent before a threshold can be reached; it holds for requests
    after ``begin`` and before ``until``, when the window or its limit ends.
    """

    __slots__ = ("begin", "budget", "end", "owner", "provider", "room", "start", "until")

    def __init__(self, owner: Entity, budget: Budget) -> None:
        self.owner = owner
        self.budget = budget
        self.provider = budget.provider
        self.begin = self.start = self.end = self.until = self.room = 0

    def counts(self, provider: str | None, at_ns: int) -> bool:
        """Whether the budget counted a request to ``provider`` at that time."""
        if self.provider is not None and not matches(provider or "", self.provider):
            return False
        return at_ns >= self.budget.created_at

    def roll(self, now_ns: int) -> None:
        """Goes on to the window of this time; nothing is known of its spending yet."""
        self.start, self.end = budget_window(self.budget, now_ns)
        self.begin = max(self.start, self.budget.created_at)
        self.until = min(self.end, limit_at(self.budget, now_ns)[1])
        self.room = 0


Window = tuple[int, int, Watched]  # start, end and whose


class Thresholds:
    """Tells events ``BudgetReached``; ``percents`` are asked for again and again."""

    def __init__(
        self,
        data_dir: Path,
        gate: Gate,
        directory: Directory,
        percents: Callable[[], Sequence[int]],
    ) -> None:
        self._data_dir = data_dir
        self._gate = gate
        self._directory = directory
        self._ask = percents
        self._percents: list[int] = []
        self._known: dict[str, tuple[Watched, ...]] = {}
        self._reached: Reached | None = None
        self._unsaved: list[tuple[int, BudgetReached]] = []
        self._left: list[Event] = []
        self._rested = 0.0

    # -- what the steward calls ----------------------------------------------------------------

    def resume(self, reader: Reader, since: int) -> bool:
        """Learns what was told before; False while there is more to read. Raises StoreError."""
        if self._reached is None:
            self._reached = Reached(self._data_dir)
        return self._reached.catch_up(reader, since)

    def observe(self, told: list[Event]) -> list[Event]:
        """The thresholds that were reached by what happened."""
        todo = self._left + told
        self._left = []
        try:
            return list(self._judge(todo))
        except BaseException:
            self._left = todo[-MOST_LEFT:]
            self._rested = time.monotonic() + REST_S
            raise

    @property
    def waiting(self) -> bool:
        """Whether something is to be looked at again, although nothing new happened."""
        return bool(self._left) and time.monotonic() >= self._rested

    def keep(self, told: list[tuple[int, Event]]) -> None:
        """These are in the log now, by index; raises StoreError when they cannot be noted."""
        for index, event in told:
            if isinstance(event, BudgetReached):
                self._unsaved.append((index, event))
                log.warning(
                    "a budget reached a threshold",
                    extra={"owner": f"{event.level} {event.name}", "budget": event.budget,
                           "percent": event.threshold},
                )  # fmt: skip
        if self._unsaved:
            assert self._reached is not None
            self._reached.add(self._unsaved, self._unsaved[-1][0] + 1)
            self._unsaved = []

    def close(self) -> None:
        """Closes what ``resume`` opened."""
        if self._reached is not None:
            self._reached.close()
            self._reached = None

    # -- which windows are worth a look ---------------------------------------------------------

    def _judge(self, todo: list[Event]) -> list[BudgetReached]:
        percents = sorted(self._ask())
        if percents != self._percents or len(self._known) > MOST_KNOWN:
            self._percents = percents
            self._known.clear()
        windows: dict[tuple[str, int], Window] = {}
        now = time.time_ns()
        for event in todo:
            if isinstance(event, ModelAccess):
                if event.cost > 0:
                    self._spent(event, event.at + event.took_ns, windows)
            elif isinstance(event, Reconciled):
                if event.cost > 0:
                    self._spent(event, event.at, windows)
            elif isinstance(event, PolicyChange):
                self._changed(event, now, windows)
        return self._look(list(windows.values()), now) if windows else []

    def _spent(
        self, event: ModelAccess | Reconciled, over: int, windows: dict[tuple[str, int], Window]
    ) -> None:
        """Takes what was spent from the room of each budget that counted it."""
        known, at, cost = self._known, event.at, event.cost
        for identifier in (event.key, event.user, event.team, event.customer):
            if not identifier:
                continue
            found = known.get(identifier)
            for one in self._load(identifier) if found is None else found:
                if at < one.begin or over >= one.until or one.provider is not None:
                    if not one.counts(event.provider, at):
                        continue
                    if at < one.begin or over >= one.until:
                        # The edge of a window: it may have been admitted on either side.
                        for moment in (at, over):
                            self._window(one, moment, windows)
                        continue
                one.room -= cost
                if one.room <= 0:
                    windows[one.budget.id, one.start] = (one.start, one.end, one)

    def _load(self, identifier: str) -> tuple[Watched, ...]:
        """The budgets of an entity as they stand; changes of it come as events."""
        kind = kind_of(identifier)
        entity = self._directory.find(kind, identifier) if kind is not None else None
        budgets = entity.budgets if entity is not None and entity.id == identifier else ()
        found = tuple(Watched(entity, budget) for budget in budgets) if entity is not None else ()
        self._known[identifier] = found
        return found

    def _window(self, one: Watched, moment: int, windows: dict[tuple[str, int], Window]) -> None:
        if moment >= one.until:
            one.roll(moment)
        start, end = one.start, one.end
        if start <= moment < end:
            one.room = 0
        else:
            start, end = budget_window(one.budget, moment)
        windows[one.budget.id, start] = (start, end, one)

    def _changed(
        self, event: PolicyChange, now: int, windows: dict[tuple[str, int], Window]
    ) -> None:
        """A limit may be lower now; the change is awaited where it cannot be read yet."""
        kind: Kind | None = kind_of(event.id)
        self._known.pop(event.id, None)
        if event.after is None or kind is None:
            return
        entity = self._directory.find(kind, event.id)
        later = entity is not None and entity.updated_at > event.at
        if not later and events.entity_digest(entity) != event.after:
            if now - event.at < VISIBLE_NS:
                self._left.append(event)
            return
        for one in self._load(event.id):
            self._window(one, now, windows)

    # -- looking -------------------------------------------------------------------------------

    def _look(self, windows: list[Window], now: int) -> list[BudgetReached]:
        cells = self._gate.counters(
            [(id_number(one.budget.id), start) for start, _, one in windows]
        )
        found: list[BudgetReached] = []
        for (start, end, one), cell in zip(windows, cells, strict=True):
            limit, _ = limit_at(one.budget, min(now, end - 1))
            room = EVER
            for percent in self._untold(one.budget.id, start):
                least = max(1, -(-limit * percent // 100))
                if cell[0] < least:
                    room = least - cell[0]
                    break
                found.append(_event(one, (start, end), percent, limit, cell[0], now))
                room = 0  # until it is in the log
            if start == one.start:
                one.room = room
        return found

    def _untold(self, budget: str, start: int) -> list[int]:
        assert self._reached is not None
        told = self._reached.told(budget, start)
        told |= {
            event.threshold
            for _, event in self._unsaved
            if event.budget == budget and event.window_start == start
        }
        return [percent for percent in self._percents if percent not in told]


def _event(
    one: Watched, window: tuple[int, int], percent: int, limit: int, settled: int, now: int
) -> BudgetReached:
    owner: Any = one.owner
    kind = kind_of(owner.id)
    assert kind is not None
    return BudgetReached(
        at=now, budget=one.budget.id, level=LEVEL[kind], id=owner.id, name=owner.name,
        window_start=window[0], window_end=window[1], threshold=percent, limit=limit,
        settled=settled,
    )  # fmt: skip
