"""Arrivals: who comes is told once and then counted, so that a flood cannot fill the log."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import astuple, replace

from bifrost.audit.events import Authentication

INTERVAL_S = 60.0
MOST = 64  # of a door, outcome and code that differ in an interval; others are told together
_names = Authentication.__struct_fields__
DOOR = slice(_names.index("door"), _names.index("code") + 1)


class Arrivals:
    """Counts authentications of one process; to be used from one thread at a time.

    In each interval the first of those that are alike is told at once, the rest as one event at its
    end, so per door, outcome and code there are at most ``2 * most + 2`` events in an interval.
    """

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        most: int = MOST,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = interval_s
        self._most = most
        self._now = now
        self._ends: dict[tuple[object, ...], float] = {}  # by what makes them alike
        self._more: dict[tuple[object, ...], Authentication] = {}

    def note(self, event: Authentication) -> Authentication | None:
        """The event as it has to be recorded now, or None when it is counted."""
        alike = astuple(replace(event, at=0, request=None))
        if alike not in self._ends and self._kinds(event) >= self._most:
            event = Authentication(
                at=event.at, door=event.door, outcome=event.outcome, code=event.code, lumped=True
            )
            alike = astuple(replace(event, at=0))
        if alike not in self._ends:
            self._ends[alike] = self._now() + self._interval_s
            return event
        so_far = self._more.get(alike)
        if so_far is None:
            self._more[alike] = replace(event, until=event.at)
        else:
            so_far.count += 1
            so_far.until = event.at
        return None

    def forget(self, event: Authentication) -> None:
        """What ``note`` returned could not be recorded: the next like it is told again."""
        self._ends.pop(astuple(replace(event, at=0, request=None)), None)

    def _kinds(self, event: Authentication) -> int:
        """How many differ among those of the same door, outcome and code: a flood of unknown keys
        must not hide a known one."""
        group = astuple(event)[DOOR]
        return sum(alike[DOOR] == group for alike in self._ends)

    def due(self, *, everything: bool = False) -> list[Authentication]:
        """What was counted in the intervals that are over (or in all of them), once."""
        now = self._now()
        over = [alike for alike, end in self._ends.items() if everything or end <= now]
        for alike in over:
            del self._ends[alike]
        return [self._more.pop(alike) for alike in over if alike in self._more]
