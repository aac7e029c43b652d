"""Pace: work in small pieces, between which whoever waits for the processor gets it.

What gathers in forty milliseconds takes some milliseconds to work off; done at a stretch, it would
keep a request that shares the core waiting for all of them. A leaf.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
PIECE = 32  # events
NAP_S = 20e-6  # long enough to be taken off the core, and to let another thread run Python


class Pace:
    """How hard one worker of a backlog works; ``hurried``: it is behind, and rests no more."""

    def __init__(self, *, hurried: bool = False) -> None:
        self.hurried = hurried

    def rest(self) -> None:
        """Lets others have the processor for a moment."""
        if not self.hurried:
            time.sleep(NAP_S)

    def pieces(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The items in small pieces, with a rest behind each."""
        for start in range(0, len(items), PIECE):
            yield items[start : start + PIECE]
            self.rest()
