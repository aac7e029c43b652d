"""Which thresholds have been told: a small SQLite beside the audit log, made from it.

The event in the log is the fact; here it can be found by budget and window, and in the log's
order. One writer, the steward. What is lost here is read from the log again.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from bifrost.audit import events
from bifrost.audit.events import BudgetReached
from bifrost.audit.log import Reader
from bifrost.database import Database, asked

log = logging.getLogger("bifrost.alerts")
FILE = "reached.db"
BATCH = 4096
MOST = 16  # batches of one call, so that a long log keeps the steward from nothing else
KEPT_NS = 40 * 86_400_000_000_000  # after the end of a window
MARK = b'"type":"budget"'
SCHEMA = """
CREATE TABLE reached (
  position INTEGER PRIMARY KEY, budget TEXT NOT NULL, window_start INTEGER NOT NULL,
  window_end INTEGER NOT NULL, threshold INTEGER NOT NULL, event BLOB NOT NULL,
  UNIQUE (budget, window_start, threshold));
CREATE INDEX reached_end ON reached (window_end);
CREATE TABLE progress (
  only INTEGER PRIMARY KEY CHECK (only = 1), next INTEGER NOT NULL, complete INTEGER NOT NULL);
INSERT INTO progress VALUES (1, 0, 0);
"""


class Reached(Database):
    """The writer's side; every failure is a StoreError. A damaged file is made anew."""

    APPLICATION = 0x42465265
    SCHEMA = SCHEMA
    CALLED = ""
    PATIENCE_S = 5
    ONE_THREAD = False

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / FILE)

    def _open(self) -> sqlite3.Connection:
        try:
            return super()._open()
        except sqlite3.DatabaseError as error:
            if _code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            log.error("what is known of thresholds is damaged and read from the log again")
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return super()._open()

    def catch_up(self, reader: Reader, since: int) -> bool:
        """Takes up what the log tells from index ``since`` on; False: call again, there is more.

        Below ``since`` everything is known here, unless the file was lost or is of another log.
        """
        end = reader.end()
        with self._writing():
            newest = self._db.execute("SELECT MAX(position) FROM reached").fetchone()[0]
            if newest is not None and newest >= end:
                log.warning("what is known of thresholds was made from another log")
                self._db.execute("DELETE FROM reached")
                self._db.execute("UPDATE progress SET next = 0, complete = 0")
        following, complete = self._db.execute("SELECT next, complete FROM progress").fetchone()
        at = since if complete else max(following, reader.oldest())
        for _ in range(MOST):
            batch = reader.read(at, BATCH)
            if not batch:
                break
            found = list(_told(batch))
            at = batch[-1][0] + 1
            self.add(found, at)
        if at < end:
            return False
        with self._writing():
            self._db.execute("UPDATE progress SET complete = 1")
            self._db.execute(
                "DELETE FROM reached WHERE window_end < ?", (time.time_ns() - KEPT_NS,)
            )
        return True

    def add(self, told: Iterable[tuple[int, BudgetReached]], upto: int) -> None:
        """Remembers events by their index in the log, which is known up to ``upto``; each once."""
        rows = [
            (index, one.budget, one.window_start, one.window_end, one.threshold, events.encode(one))
            for index, one in told
        ]
        with self._writing():
            self._db.executemany("INSERT OR IGNORE INTO reached VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("UPDATE progress SET next = max(next, ?)", (upto,))

    def told(self, budget: str, window_start: int) -> set[int]:
        """The thresholds, percent, that were told of a budget's window."""
        with self._guarded():
            rows = self._db.execute(
                "SELECT threshold FROM reached WHERE budget = ? AND window_start = ?",
                (budget, window_start),
            ).fetchall()
        return {threshold for (threshold,) in rows}


def _told(batch: list[tuple[int, bytes]]) -> Iterator[tuple[int, BudgetReached]]:
    for index, raw in batch:
        if MARK in raw:
            try:
                event = events.decode(raw)
            except msgspec.DecodeError:
                continue
            if isinstance(event, BudgetReached):
                yield index, event


def following(data_dir: Path, position: int, most: int) -> list[tuple[int, BudgetReached]]:
    """Events from an index of the log on, in its order, for any process; StoreError if unreadable.

    Nothing while the steward has not made the file yet.
    """
    rows = asked(
        data_dir / FILE,
        "SELECT position, event FROM reached WHERE position >= ? ORDER BY position LIMIT ?",
        position, most,
    )  # fmt: skip
    decoder = msgspec.json.Decoder(BudgetReached)
    return [(index, decoder.decode(raw)) for index, raw in rows]


def standing(data_dir: Path, now_ns: int) -> dict[tuple[str, int], int]:
    """How many budgets reached a threshold in a window that still runs, by (level, percent).

    For any process; StoreError if unreadable, nothing while the steward has not made the file yet.
    """
    rows = asked(
        data_dir / FILE,
        "SELECT json_extract(event, '$.level'), threshold, COUNT(DISTINCT budget)"
        " FROM reached WHERE window_end > ? GROUP BY 1, 2",
        now_ns,
    )
    return {(level, threshold): count for level, threshold, count in rows}


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
