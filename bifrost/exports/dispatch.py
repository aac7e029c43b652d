"""Dispatch: one sink's way through the log, batch after batch, its position behind it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from bifrost.audit.log import Reader
from bifrost.audit.notes import NoteError
from bifrost.config.exports import Sink
from bifrost.exports import records
from bifrost.exports.answers import Target
from bifrost.exports.progress import DeadLetter, Progress
from bifrost.exports.records import Item, Record
from bifrost.exports.shipment import Shipper

log = logging.getLogger("bifrost.exports")
REST_S = 5.0  # after a failure of our own
STALL_S = 60.0  # of failing, after which it is said in the audit log
STRIDE = 512  # entries read at once
OWN = "export"  # the type of entries about exports
SHOWN = 300  # characters of a reason

# What is said in the audit log: action, sink, first, count, why. Raises StoreError.
Tell = Callable[[str, str, int, int, str], None]


class Load(NamedTuple):
    """What was read for a batch: items, the index behind it, and whether there is more."""

    items: list[Item]
    upto: int
    more: bool


class Dispatch:
    """Serves one sink until it is told to stop; its owner is the only one who does."""

    def __init__(
        self,
        sink: Sink,
        target: Target,
        data_dir: Path,
        progress: Progress,
        origin: str,
        tell: Tell,
    ) -> None:
        self._sink = sink
        self._target = target
        self._reader = Reader(data_dir)
        self._progress = progress
        self._origin = origin
        self._tell = tell
        self._stopping = asyncio.Event()
        self._shipper = Shipper(target, self._failed)
        self._wanted = frozenset(sink.events)
        self._most_entries = sink.max_entries or target.most_entries
        self._most_bytes = sink.max_bytes or target.most_bytes
        self._interval_s = sink.interval_s or target.interval_s
        self._since = 0  # when the oldest entry of the present batch happened
        self._told_at = 0.0
        self._stalled = progress.standing(sink.name).stalled

    def stop(self) -> None:
        """Ends ``run`` as soon as what is under way is answered."""
        self._stopping.set()

    async def run(self) -> None:
        """Works until ``stop``; a failure of our own is logged and tried again."""
        try:
            while not self._stopping.is_set():
                try:
                    if not await self._round():
                        await self._wait(self._interval_s)
                except Exception as error:
                    log.error(
                        "an export cannot be served and is tried again",
                        extra={"sink": self._sink.name, "error": str(error)},
                    )
                    await self._wait(REST_S)
        finally:
            await self._target.close()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _round(self) -> bool:
        """Sends one batch, if there is one; whether there is more to do at once."""
        name = self._sink.name
        if letters := self._progress.dead(name, again=True, limit=self._most_entries):
            return await self._revive(letters)
        position, planned = self._progress.place(name)
        if position < self._reader.oldest():
            return self._skip(position)
        load = await asyncio.to_thread(self._load, position, planned)
        if load.upto == position:
            return load.more
        dead: list[DeadLetter] = []
        if load.items:
            if self._target.planned and planned != load.upto:
                self._progress.plan(name, load.upto)
            refused = await self._ship(load.items)
            if refused is None:
                return False
            dead = self._buried(load.items, refused)
        if self._progress.advance(
            name, position, load.upto, sent=len(load.items) - len(dead),
            since=self._since if load.more else 0, dead=dead,
        ):  # fmt: skip
            self._recovered()
        return load.more

    # -- reading -------------------------------------------------------------------------------

    def _load(self, position: int, planned: int) -> Load:
        """Entries from a position on, as many as a batch holds; runs in a thread."""
        items: list[Item] = []
        size, at = 0, position
        while True:
            found = self._reader.read(at, min(STRIDE, planned - at) if planned > at else STRIDE)
            if found and found[0][0] != at:  # removed meanwhile: the next round says so
                return Load(items, at, True)
            for index, raw in found:
                item = self._item(index, raw)
                if item is not None:
                    size += len(item.body)
                    if not planned and items and size > self._most_bytes:
                        return Load(items, index, True)
                    items.append(item)
                at = index + 1
                if not planned and len(items) >= self._most_entries:
                    return Load(items, at, True)
            if not found or at == planned:
                return Load(items, at, bool(planned))

    def _item(self, index: int, raw: bytes) -> Item | None:
        record = records.entry(self._origin, index, raw)
        if self._wanted and record.kind not in self._wanted:
            return None
        return Item(record, self._target.body(record))

    def _checkpoint(self) -> Item | None:
        """The newest checkpoint; exports go on without one."""
        try:
            found = records.checkpoint(self._reader.folder, time.time_ns())
        except (NoteError, OSError) as error:
            log.error("the checkpoint cannot be read", extra={"error": str(error)})
            return None
        return Item(found, self._target.body(found)) if found is not None else None

    def _skip(self, position: int) -> bool:
        """Goes on at the oldest entry that is still there; that is never silent."""
        oldest = self._reader.oldest()
        why = "they were removed before they were sent"
        log.error(
            "entries were removed before they were exported",
            extra={"sink": self._sink.name, "first": position, "count": oldest - position},
        )
        self._tell("gap", self._sink.name, position, oldest - position, why)
        self._progress.advance(self._sink.name, position, oldest)
        return True

    # -- sending -------------------------------------------------------------------------------

    async def _ship(self, items: list[Item]) -> dict[int, str] | None:
        self._since = items[0].record.at
        refused = await self._shipper.ship(items, self._checkpoint())
        if refused:
            self._bury(items, refused)
        self._since = items[-1].record.at
        return refused

    def _bury(self, items: list[Item], refused: dict[int, str]) -> None:
        """Says, once for a batch, that entries were refused for good.

        Not of entries that say so themselves: they would go on saying it for ever.
        """
        first, why = min(refused.items())
        log.error(
            "a receiver refused entries of the audit log; they are dead letters",
            extra={"sink": self._sink.name, "count": len(refused), "error": why},
        )
        told = [position for position in refused if items[position].record.kind != OWN]
        if told:
            index = items[min(told)].record.index
            self._tell("dead_letter", self._sink.name, index, len(refused), refused[min(told)])

    def _buried(self, items: list[Item], refused: dict[int, str]) -> list[DeadLetter]:
        now = time.time_ns()
        return [
            DeadLetter(
                self._sink.name, one.index, one.id, refused[n][:SHOWN], now, one.raw, False
            )
            for n, one in enumerate(_records(items))
            if n in refused
        ]  # fmt: skip

    async def _revive(self, letters: list[DeadLetter]) -> bool:
        """Sends dead letters again; what is refused again stays one."""
        items = []
        for letter in letters:
            record = records.entry(self._origin, letter.entry, letter.raw)
            items.append(Item(record, self._target.body(record)))
        refused = await self._shipper.ship(items, self._checkpoint())
        if refused is None:
            return False
        taken = [item.record.index for n, item in enumerate(items) if n not in refused]
        self._progress.revived(self._sink.name, taken, self._buried(items, refused))
        self._recovered()
        return True

    async def _failed(self, why: str, pause: float) -> bool:
        """Notes a failed attempt and waits; False when we are to stop."""
        now = time.time_ns()
        why = why[:SHOWN]
        standing = self._progress.failed(self._sink.name, why, self._since, now)
        if standing.failures == 1 or time.monotonic() - self._told_at > STALL_S:
            self._told_at = time.monotonic()
            log.warning(
                "an export failed and is tried again",
                extra={"sink": self._sink.name, "error": why, "failures": standing.failures},
            )
        if not self._stalled and now - standing.failing_since >= STALL_S * 1e9:
            self._tell("stalled", self._sink.name, standing.position, 0, why)
            self._progress.stall(self._sink.name, True)
            self._stalled = True
        await self._wait(pause)
        return not self._stopping.is_set()

    def _recovered(self) -> None:
        if self._stalled:
            position, _ = self._progress.place(self._sink.name)
            self._tell("recovered", self._sink.name, position, 0, "")
            self._progress.stall(self._sink.name, False)
            self._stalled = False


def _records(items: Iterable[Item]) -> Iterable[Record]:
    return (item.record for item in items)
