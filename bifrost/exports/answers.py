"""Answers: what came of sending a batch to a receiver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from bifrost.exports.records import Item, Record

Verdict = Literal["taken", "again", "smaller"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver made of a batch.

    ``taken``: it has all but the items at the positions in ``refused``, which it will never take
    (with why), and in ``again``, which are to be sent again. ``again``: nothing was taken, try
    later. ``smaller``: too large, or something in it is wrong and it does not say what.
    """

    verdict: Verdict
    error: str = ""
    retry_after_s: int = 0
    refused: dict[int, str] = {}
    again: tuple[int, ...] = ()


TAKEN = Answer(verdict="taken")


class Target(Protocol):
    """A receiver as the exporter sees it."""

    most_entries: int
    most_bytes: int
    interval_s: float
    planned: bool  # batches keep their bounds over a crash

    def body(self, record: Record) -> bytes:
        """How a record is written for it."""
        ...

    async def send(self, items: Sequence[Item]) -> Answer:
        """Sends a batch once; never raises for what the network or the receiver does."""
        ...

    async def close(self) -> None:
        """Closes connections."""
        ...


def again(error: str, retry_after_s: int = 0) -> Answer:
    """Nothing was taken; it may be later."""
    return Answer(verdict="again", error=error, retry_after_s=retry_after_s)


def smaller(error: str) -> Answer:
    """Nothing was taken; parts of it may be."""
    return Answer(verdict="smaller", error=error)
