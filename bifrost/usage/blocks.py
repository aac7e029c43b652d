"""Blocks of requests in columns: written as requests come, joined as they grow, rolled up.

Blocks follow each other in the order of the log. A batch of the steward becomes a small one; when
eight of a size stand at the end they become one of the next size, so that there are never many.
"""

from __future__ import annotations

import bisect
import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from bifrost._fast import columns

FULL = 4_096  # requests of a block that is not joined with others any more
FAN = 8  # blocks of a size that become one
ROLLED = 131_072  # requests at least that share a roll-up
LAST_NS = (1 << 63) - 1
# (position, class, at, cost, input, cache read, cache write, output)
Told = tuple[int, int, int, int, int, int, int, int]

_ADD = "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_END = "SELECT first, number FROM blocks WHERE first >= ? ORDER BY first"
_BETWEEN = """SELECT first, last, number, oldest, newest, dearest, keys, sums FROM blocks
WHERE first BETWEEN ? AND ? ORDER BY first"""


class Block(NamedTuple):
    """Where a block is and what it may hold: positions, times in ns, cost in nano-USD."""

    first: int
    last: int
    oldest: int
    newest: int
    dearest: int


class RollUp(NamedTuple):
    """Where a roll-up is: the positions of its blocks, and the times in ns of its requests."""

    first: int
    last: int
    oldest: int
    newest: int


class Writer:
    """Adds to the blocks of one database; its callers begin and commit."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._end: list[tuple[int, int]] | None = None  # first and number, since the last roll-up

    def forget(self) -> None:
        """Forgets what may have been rolled back."""
        self._end = None

    def add(self, rows: list[Told]) -> None:
        """Adds requests that follow all others."""
        first, last = rows[0][0], rows[-1][0]
        keys, sums, oldest, newest, dearest = columns.pack(first, rows)
        self._db.execute(_ADD, (first, last, len(rows), oldest, newest, dearest, keys, sums))
        end = self._known(first)
        end.append((first, len(rows)))
        while self._join(end):
            pass
        full = [first for first, number in end if number >= FULL]
        if full and sum(number for first, number in end if first <= full[-1]) >= ROLLED:
            with suppress(OverflowError):  # absurd amounts: whoever asks for their sum is told
                self._roll_up(end[0][0], full[-1])
            self._end = [block for block in end if block[0] > full[-1]]

    def _known(self, before: int) -> list[tuple[int, int]]:
        if self._end is None:
            rolled = self._db.execute("SELECT COALESCE(MAX(last), -1) FROM rollups").fetchone()[0]
            found = self._db.execute(_END, (rolled + 1,)).fetchall()
            self._end = [(first, number) for first, number in found if first < before]
        return self._end

    def _join(self, end: list[tuple[int, int]]) -> bool:
        """Makes one block of the last ones that are no larger than the newest of them."""
        most, number = FAN, end[-1][1]
        while most <= number:
            most *= FAN
        start = len(end)
        while start and end[start - 1][1] < min(most, FULL):
            start -= 1
        if len(end) - start < FAN:
            return False
        found = self._db.execute(_BETWEEN, (end[start][0], end[-1][0])).fetchall()
        _, lasts, numbers, oldest, newest, dearest, _, _ = zip(*found, strict=True)
        keys, sums = columns.joined([(row[0], row[6], row[7]) for row in found])
        first, number = found[0][0], sum(numbers)
        self._db.execute("DELETE FROM blocks WHERE first BETWEEN ? AND ?", (first, lasts[-1]))
        self._db.execute(
            _ADD,
            (first, lasts[-1], number, min(oldest), max(newest), max(dearest), keys, sums),
        )
        end[start:] = [(first, number)]
        return True

    def _roll_up(self, first: int, upto: int) -> None:
        classes = self._db.execute("SELECT COALESCE(MAX(id), 0) FROM classes").fetchone()[0]
        each = columns.Sums(array("i", range(classes + 1)).tobytes(), _bounds(0, LAST_NS))
        found = self._db.execute(_BETWEEN, (first, upto))
        reach, oldest, newest = first, LAST_NS, 0
        for _, last, _, old, new, _, keys, sums in found:
            each.add(keys, sums)
            reach, oldest, newest = last, min(oldest, old), max(newest, new)
        self._db.execute(
            "INSERT INTO rollups VALUES (?, ?, ?, ?, ?)",
            (first, reach, oldest, newest, each.cells()),
        )

    def correct(self, position: int, kind: int, more: int, cost: int) -> None:
        """Books ``more`` on the request at a position, which then costs ``cost``, in place."""
        first, number = self._db.execute(
            "SELECT first, number FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1",
            (position,),
        ).fetchone()
        with self._db.blobopen("blocks", "keys", first) as keys:
            keys.seek(16 * number)
            positions = array("I", keys.read(4 * number))
            keys.seek(8 * (number + bisect.bisect_left(positions, position - first)))
            keys.write(array("q", [cost]).tobytes())
        self._db.execute(
            "UPDATE blocks SET dearest = max(dearest, ?) WHERE first = ?", (cost, first)
        )
        found = self._db.execute(
            "SELECT first, last FROM rollups WHERE first <= ? ORDER BY first DESC LIMIT 1",
            (position,),
        ).fetchone()
        if found is None or position > found[1]:
            return
        with self._db.blobopen("rollups", "cells", found[0]) as blob:
            cells = memoryview(blob.read()).cast("q")
            place = bisect.bisect_left(cells[:: columns.CELL], kind) * columns.CELL
            sums = array("q", cells[place : place + columns.CELL])
            sums[-2] += more
            sums[-1] = max(sums[-1], cost)
            blob.seek(8 * place)
            blob.write(sums.tobytes())


def _bounds(*moments: int) -> bytes:
    return array("q", moments).tobytes()


def blocks(db: sqlite3.Connection, since: int, until: int) -> list[Block]:
    """Blocks that may hold something of a window, in the order of the log."""
    found = db.execute(
        "SELECT first, last, oldest, newest, dearest FROM blocks WHERE newest >= ? AND oldest < ?"
        " ORDER BY first",
        (since, until),
    )
    return [Block(*row) for row in found]


def rollups(db: sqlite3.Connection, since: int, until: int) -> list[RollUp]:
    """Roll-ups that may hold something of a window, in the order of the log."""
    found = db.execute(
        "SELECT first, last, oldest, newest FROM rollups WHERE newest >= ? AND oldest < ?"
        " ORDER BY first",
        (since, until),
    )
    return [RollUp(*row) for row in found]


def read(db: sqlite3.Connection, column: str, firsts: Iterable[int]) -> Iterator[tuple[Any, ...]]:
    """First position and ``keys``, or ``keys, sums``, of blocks; or ``cells`` of roll-ups."""
    table = "rollups" if column == "cells" else "blocks"
    return db.execute(
        f"SELECT t.first, {column} FROM json_each(?) j CROSS JOIN {table} t ON t.first = j.value",
        (msgspec.json.encode(list(firsts)).decode(),),
    )


def ends(db: sqlite3.Connection) -> tuple[int, int] | None:
    """The times of the oldest and the newest that has a cost; None if there is nothing."""
    loose = "FROM differences WHERE class IS NOT NULL"
    first, last, before, behind = db.execute(
        "SELECT (SELECT MIN(oldest) FROM blocks), (SELECT MAX(newest) FROM blocks),"
        f" (SELECT MIN(at) {loose}), (SELECT MAX(at) {loose})"
    ).fetchone()
    oldest = [at for at in (first, before) if at is not None]
    newest = [at for at in (last, behind) if at is not None]
    return (min(oldest), max(newest)) if oldest else None


def sums(db: sqlite3.Connection, groups: bytes, bounds: list[int]) -> columns.Sums:
    """The sums of groups (int32 of each class, -1 for none) in intervals: interval i lasts from
    bounds[i] to before bounds[i + 1]."""
    since, until = bounds[0], bounds[-1]
    total = columns.Sums(groups, _bounds(*bounds))
    whole: list[RollUp] = []
    for rollup in rollups(db, since, until):
        place = bisect.bisect_right(bounds, rollup.oldest)
        if 0 < place < len(bounds) and rollup.newest < bounds[place]:
            whole.append(rollup)
    oldest = {rollup.first: rollup.oldest for rollup in whole}
    for first, cells in read(db, "cells", oldest):
        total.add_cells(cells, oldest[first])
    starts = [rollup.first for rollup in whole]
    single: list[int] = []
    for block in blocks(db, since, until):
        place = bisect.bisect_right(starts, block.first) - 1
        if place < 0 or block.first > whole[place].last:
            single.append(block.first)
    for _, keys, values in read(db, "keys, sums", single):
        total.add(keys, values)
    for kind, at, cost in db.execute(
        "SELECT class, at, cost FROM differences WHERE at >= ? AND at < ? AND class IS NOT NULL",
        (since, until),
    ):
        total.add_cost(kind, at, cost)
    return total
