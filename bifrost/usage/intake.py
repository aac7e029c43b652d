"""What each event does to the usage view's tables. One writer: the steward, or a rebuild.

Events are told apart by their tag, so a log may hold types that mean nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from bifrost.audit.events import ModelAccess
from bifrost.usage.schema import BLOCK, CLASS, DETAIL, HOUR, REQUEST, SPANS

REMEMBERED = 100_000

_ADD_REQUEST = f"INSERT INTO requests VALUES ({','.join('?' * (len(REQUEST) + 3))})"
_ADD_CELL = """
INSERT INTO cells VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT (hours, start, class) DO UPDATE SET
  requests = requests + excluded.requests, input = input + excluded.input,
  cache_read = cache_read + excluded.cache_read, cache_write = cache_write + excluded.cache_write,
  output = output + excluded.output, cost = cost + excluded.cost,
  dearest = max(dearest, excluded.dearest)
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
            known = int(found[0] if found else self._db.execute(self._insert, values).lastrowid)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[values] = known
        return known

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
        self._cells: dict[tuple[int, int], list[int]] = {}
        self._others: dict[str, Callable[[int, Any], None]] = {
            "reconciled": self._reconciled,
            "policy": self._policy,
            "budget": self._threshold,
        }

    def take(self, entries: Iterable[tuple[int, msgspec.Struct]], upto: int) -> None:
        """Adds what is not there yet and moves ``next`` to ``upto``, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            done = self._db.execute("SELECT next FROM progress").fetchone()
            after = done[0] if done else 0
            newest = self._db.execute("SELECT MAX(pos) FROM requests").fetchone()[0]
            newest = -1 if newest is None else newest
            for index, event in entries:
                if isinstance(event, ModelAccess):
                    if index >= after and index > newest:
                        self._model(index, event)
                elif index >= after:
                    other = self._others.get(str(event.__struct_config__.tag))
                    if other is not None:
                        self._flush()
                        other(index, event)
            self._flush()
            self._db.execute("INSERT OR REPLACE INTO progress VALUES (1, ?)", (max(after, upto),))
            self._db.execute("COMMIT")
        except BaseException:
            self._rows.clear()
            self._cells.clear()
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
        place = (e.at // HOUR, kind)
        cell = self._cells.get(place)
        if cell is None:
            cell = self._cells[place] = [0, 0, 0, 0, 0, 0, 0]
        cell[0] += 1
        cell[1] += e.in_fresh + e.in_tool
        cell[2] += e.in_cache_read
        cell[3] += e.in_cache_w5m + e.in_cache_w1h
        cell[4] += e.out_text + e.out_think
        cell[5] += e.cost
        if e.cost > cell[6]:
            cell[6] = e.cost

    def _flush(self) -> None:
        if self._rows:
            self._db.executemany(_ADD_REQUEST, self._rows)
            self._rows.clear()
        if self._cells:
            self._add(self._cells)
            self._cells.clear()

    def _add(self, by_hour: dict[tuple[int, int], list[int]]) -> None:
        """Adds to the cells of every span that hold these hours."""
        for span in SPANS:
            wide: dict[tuple[int, int], list[int]] = {}
            for (hour, kind), cell in by_hour.items():
                place = (hour - hour % span, kind)
                sums = wide.get(place)
                if sums is None:
                    wide[place] = cell
                else:
                    wide[place] = [
                        *(a + b for a, b in zip(sums[:6], cell[:6], strict=True)),
                        max(sums[6], cell[6]),
                    ]
            # In the order of the primary key each page of the table is found once.
            self._db.executemany(
                _ADD_CELL,
                [(span, start, kind, *wide[start, kind]) for start, kind in sorted(wide)],
            )

    def _reconciled(self, index: int, e: Any) -> None:
        """Books a difference where the request stands, or at its own time if there is no row."""
        row = self._db.execute(FIND_REQUEST, (e.request,)).fetchone()
        found = (
            row
            and self._db.execute(
                "SELECT r.class, r.at, r.cost FROM requests r JOIN classes k ON k.id = r.class"
                " WHERE pos = ? AND k.key = ?",
                (row[0], e.key),
            ).fetchone()
        )
        if found:
            kind, at, dearest = found[0], found[1], found[2] + e.cost
            self._db.execute("UPDATE requests SET cost = ? WHERE pos = ?", (dearest, row[0]))
        else:
            at, dearest = e.at, 0
            kind = self._classes.number(
                (e.key, e.user or "", e.team or "", e.customer or "", e.model or "",
                 e.provider or "", "reconciled", 0, "")
            )  # fmt: skip
        self._db.execute(
            "INSERT OR IGNORE INTO differences VALUES (?, ?, ?, ?, ?)",
            (index, e.at, e.request, e.cost, None if found else kind),
        )
        self._add({(at // HOUR, kind): [0, 0, 0, 0, 0, e.cost, dearest]})

    def _policy(self, index: int, e: Any) -> None:
        name, identifier = getattr(e, "name", None), getattr(e, "id", None)
        if name and identifier:
            self._db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (identifier, name))

    def _threshold(self, index: int, e: Any) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO thresholds VALUES (?, ?, ?)",
            (index, e.at, msgspec.json.encode(e).decode()),
        )
