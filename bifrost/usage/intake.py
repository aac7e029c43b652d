"""What each event does to the usage view's tables. One writer: the steward, or a rebuild.

A log may hold types of events that mean nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from bifrost.audit.events import BudgetReached, Event, ModelAccess, PolicyChange, Reconciled
from bifrost.usage.schema import BLOCK, CLASS, DETAIL, HOUR, REQUEST, SPANS

REMEMBERED = 100_000
TAIL = 8_192  # requests that wait for their cells; readers sum up this many one by one

_ADD_REQUEST = f"INSERT INTO requests VALUES ({','.join('?' * (len(REQUEST) + 3))})"
_GROW_CELL = """
ON CONFLICT (hours, start, class) DO UPDATE SET
  requests = requests + excluded.requests, input = input + excluded.input,
  cache_read = cache_read + excluded.cache_read, cache_write = cache_write + excluded.cache_write,
  output = output + excluded.output, cost = cost + excluded.cost,
  dearest = max(dearest, excluded.dearest)
"""
_ADD_CELL = f"INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {_GROW_CELL}"
_TAIL_BY_HOUR = f"""
SELECT at / {HOUR}, class, COUNT(*), SUM(in_fresh + in_tool), SUM(in_cache_read),
  SUM(in_cache_w5m + in_cache_w1h), SUM(out_text + out_think), SUM(cost), MAX(cost)
FROM requests WHERE pos >= ? GROUP BY 1, 2
"""
FIND_REQUEST = f"""
WITH RECURSIVE blocks (block) AS (
  SELECT MAX({BLOCK}) FROM requests
  UNION ALL
  SELECT (SELECT MAX({BLOCK}) FROM requests WHERE {BLOCK} < blocks.block) FROM blocks
  WHERE blocks.block IS NOT NULL
)
SELECT pos FROM blocks CROSS JOIN requests ON {BLOCK} = blocks.block AND request = ?
"""


class Dictionary:
    """Rows of a small table by their values, kept in memory as long as they are not too many."""

    def __init__(self, db: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> None:
        self._db = db
        self._known: dict[tuple[Any, ...], int] = {}
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        self._insert = f"INSERT INTO {table} ({names}) VALUES ({marks})"
        self._select = f"SELECT id FROM {table} WHERE ({names}) = ({marks})"

    def number(self, values: tuple[Any, ...]) -> int:
        """The id of the row with these values, which is made if there is none."""
        known = self._known.get(values)
        if known is None:
            found = self._db.execute(self._select, values).fetchone()
            known = int(found[0]) if found else self._insert_row(values)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[values] = known
        return known

    def _insert_row(self, values: tuple[Any, ...]) -> int:
        return self._db.execute(self._insert, values).lastrowid or 0

    def forget(self) -> None:
        """Forgets what may have been rolled back."""
        self._known.clear()


class Intake:
    """Turns events into rows of one database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._classes = Dictionary(db, "classes", CLASS)
        self._details = Dictionary(db, "details", DETAIL)
        self._rows: list[tuple[Any, ...]] = []
        self._tail = -1  # its length, -1 when it must be counted

    def take(self, entries: Iterable[tuple[int, Event]], upto: int) -> None:
        """Adds what is not there yet and moves ``next`` to ``upto``, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            after, rolled = self._db.execute("SELECT next, rolled FROM progress").fetchone()
            newest = self._newest()
            for index, event in entries:
                if isinstance(event, ModelAccess):
                    if index >= after and index > newest:
                        self._model(index, event)
                elif index >= after:
                    self._other(index, event)
            self._flush()
            self._db.execute("UPDATE progress SET next = ?", (max(after, upto),))
            self._roll_up(rolled)
            self._db.execute("COMMIT")
        except BaseException:
            self._rows.clear()
            self._tail = -1
            self._classes.forget()
            self._details.forget()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def name(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Records the present names of ids."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", list(pairs))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _other(self, index: int, event: Event) -> None:
        if isinstance(event, Reconciled):
            self._flush()
            self._reconciled(index, event)
        elif isinstance(event, PolicyChange):
            self._db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (event.id, event.name))
        elif isinstance(event, BudgetReached):
            shown = msgspec.json.encode(event).decode()
            self._db.execute(
                "INSERT OR IGNORE INTO thresholds VALUES (?, ?, ?)", (index, event.at, shown)
            )

    def _model(self, index: int, e: ModelAccess) -> None:
        kind = self._classes.number(
            (e.key, e.user or "", e.team or "", e.customer or "", e.model or "", e.provider or "",
             e.outcome, e.status, e.code or "")
        )  # fmt: skip
        detail = self._details.number(
            (e.asked or "", e.stream, e.source or "", e.tier or "", e.speed or "", e.geo or "",
             e.prices or "", e.agent or "", e.provider_key or "")
        )  # fmt: skip
        self._rows.append(
            (index, kind, detail, e.at, e.in_fresh, e.in_cache_read, e.in_cache_w5m,
             e.in_cache_w1h, e.in_tool, e.out_text, e.out_think, e.web_searches, e.cost,
             e.reserved, e.output_limit, e.took_ns, e.first_byte_ns, e.request, e.session,
             e.upstream_request)
        )  # fmt: skip

    def _flush(self) -> None:
        if self._rows:
            self._db.executemany(_ADD_REQUEST, self._rows)
            self._tail += len(self._rows) if self._tail >= 0 else 0
            self._rows.clear()

    def _newest(self) -> int:
        found = self._db.execute("SELECT MAX(pos) FROM requests").fetchone()[0]
        return -1 if found is None else int(found)

    def _roll_up(self, rolled: int) -> None:
        """Makes cells of the tail when it has grown long: many requests then share a cell."""
        if self._tail < 0:
            counted = "SELECT COUNT(*) FROM requests WHERE pos >= ?"
            self._tail = self._db.execute(counted, (rolled,)).fetchone()[0]
        if self._tail < TAIL:
            return
        self._add_cells(self._db.execute(_TAIL_BY_HOUR, (rolled,)).fetchall())
        self._db.execute("UPDATE progress SET rolled = ?", (self._newest() + 1,))
        self._tail = 0

    def _add_cells(self, by_hour: list[tuple[int, ...]]) -> None:
        """Adds sums of hours and classes to the cells of every span that hold these hours."""
        for span in SPANS:
            wide: dict[tuple[int, int], tuple[int, ...]] = {}
            for hour, kind, *sums in by_hour:
                place = (hour - hour % span, kind)
                if (known := wide.get(place)) is not None:
                    dearest = max(known[-1], sums[-1])
                    sums = [a + b for a, b in zip(known, sums, strict=True)]
                    sums[-1] = dearest
                wide[place] = tuple(sums)
            rows = [(span, *place, *wide[place]) for place in sorted(wide)]
            self._db.executemany(_ADD_CELL, rows)

    def _reconciled(self, index: int, e: Reconciled) -> None:
        """Books a difference where the request stands, or at its time if there is no such row."""
        row = self._db.execute(
            f"SELECT f.pos, r.class, r.at, r.cost FROM ({FIND_REQUEST}) f"
            " CROSS JOIN requests r ON r.pos = f.pos JOIN classes k ON k.id = r.class"
            " WHERE k.key = ? AND k.outcome <> 'refused' ORDER BY r.at = ? DESC, f.pos DESC",
            (e.request, e.key, e.at),
        ).fetchone()
        if row:
            pos, kind, at, cost = row
            cost += e.cost
            self._db.execute("UPDATE requests SET cost = ? WHERE pos = ?", (cost, pos))
            rolled = pos < self._db.execute("SELECT rolled FROM progress").fetchone()[0]
        else:
            at, cost, rolled = e.at, 0, True
            kind = self._classes.number(
                (e.key, e.user or "", e.team or "", e.customer or "", e.model or "",
                 e.provider or "", "reconciled", 0, "")
            )  # fmt: skip
        self._db.execute(
            "INSERT OR IGNORE INTO differences VALUES (?, ?, ?, ?, ?)",
            (index, e.at, e.request, e.cost, None if row else kind),
        )
        if rolled:
            self._add_cells([(at // HOUR, kind, 0, 0, 0, 0, 0, e.cost, cost)])
