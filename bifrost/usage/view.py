"""The usage view: what reports read. SQLite, fed by the steward from the events, rebuildable.

One row per request that reached a model or was refused; ids as they stand in the events, names
beside them as last seen. Money is int nano-USD.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bifrost.audit.events import Event, ModelAccess
from bifrost.errors import StoreError

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
  seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, request TEXT, outcome TEXT NOT NULL, code TEXT,
  status INTEGER, key TEXT, user TEXT, team TEXT, customer TEXT, asked TEXT, model TEXT,
  provider TEXT, stream INTEGER, in_fresh INTEGER, in_cache_read INTEGER, in_cache_write INTEGER,
  out INTEGER, cost INTEGER NOT NULL, source TEXT, session TEXT, took_ns INTEGER
);
CREATE INDEX IF NOT EXISTS requests_at ON requests (at);
CREATE TABLE IF NOT EXISTS names (id TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS progress (only INTEGER PRIMARY KEY CHECK (only = 1), seq INTEGER);
"""
GROUPS = ("team", "user", "key", "model", "customer", "provider")
NAMED = {"team", "user", "key", "customer"}


class UsageView:
    """One connection to ``usage.db`` of a data directory; every failure is a StoreError."""

    def __init__(self, data_dir: Path, *, read_only: bool = False) -> None:
        self._path = data_dir / "usage.db"
        with self._guarded("open"):
            if read_only:
                uri = f"{self._path.absolute().as_uri()}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True, timeout=10)
            else:
                self._path.touch(mode=0o600)
                self._db = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(SCHEMA)

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"Cannot {what} the usage view {self._path}: {error}.") from error

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def last(self) -> int:
        """How many entries of the log have been applied, 0 in an empty view."""
        with self._guarded("read"):
            found = self._db.execute("SELECT seq FROM progress").fetchone()
            return int(found[0]) if found else 0

    def apply(self, events: Iterable[tuple[int, Event]], upto: int) -> None:
        """Adds events and moves ``last`` to ``upto``; an event already there is not added twice."""
        rows = [
            (
                seq, e.at, e.request, e.outcome, e.code, e.status, e.key, e.user, e.team,
                e.customer, e.asked, e.model, e.provider, e.stream, e.in_fresh + e.in_tool,
                e.in_cache_read, e.in_cache_w5m + e.in_cache_w1h, e.out_text + e.out_think,
                e.cost, e.source, e.session, e.took_ns,
            )
            for seq, e in events
            if isinstance(e, ModelAccess)
        ]  # fmt: skip
        with self._guarded("write"), self._db:
            marks = ",".join("?" * 22)
            self._db.executemany(f"INSERT OR IGNORE INTO requests VALUES ({marks})", rows)
            self._db.execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", (upto,))

    def name(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Records the present names of ids."""
        with self._guarded("write"), self._db:
            self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", list(pairs))

    def totals(
        self, by: Sequence[str], since_ns: int, until_ns: int
    ) -> list[tuple[tuple[str, ...], tuple[int, int, int, int, int, int]]]:
        """Sums per group, dearest first: requests, input, cache read, cache write, output, cost.

        Refused requests are left out. Raises ValueError for an unknown or repeated grouping.
        """
        columns: list[str] = []
        joins: list[str] = []
        for group in by:
            if group not in GROUPS or by.count(group) > 1:
                raise ValueError(f"cannot group by {group!r}; valid, once: {', '.join(GROUPS)}")
            if group in NAMED:
                joins.append(f"LEFT JOIN names n_{group} ON n_{group}.id = r.{group}")
                columns.append(f"COALESCE(n_{group}.name, r.{group}, '-')")
            else:
                columns.append(f"COALESCE(r.{group}, '-')")
        keys = ", ".join(columns) or "'all'"
        query = (
            f"SELECT {keys}, COUNT(*), SUM(in_fresh), SUM(in_cache_read), SUM(in_cache_write),"
            f" SUM(out), SUM(cost) FROM requests r {' '.join(joins)}"
            " WHERE at >= ? AND at < ? AND outcome != 'refused'"
            f" GROUP BY {keys} ORDER BY SUM(cost) DESC, 1"
        )
        width = max(1, len(columns))
        with self._guarded("read"):
            rows: list[Any] = self._db.execute(query, (since_ns, until_ns)).fetchall()
        return [(tuple(row[:width]), tuple(row[width:])) for row in rows]
