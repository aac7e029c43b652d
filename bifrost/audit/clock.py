"""The clock: notices that the wall clock was set, by one that nobody can set."""

from __future__ import annotations

import time

STEP_NS = 1_000_000_000  # a smaller difference is the ordinary discipline of a clock
# Where there is one that also counts while the machine sleeps.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Compares wall time with a steady clock from its making on."""

    def __init__(self) -> None:
        self._apart = self._difference()

    def _difference(self) -> int:
        return time.time_ns() - time.clock_gettime_ns(_STEADY)

    def step(self) -> int:
        """By how many ns the wall clock was set since the last ``accept``; 0 if it was not."""
        moved = self._difference() - self._apart
        return moved if abs(moved) > STEP_NS else 0

    def accept(self) -> None:
        """Takes the wall clock as it is from now on."""
        self._apart = self._difference()
