"""What each event does to the usage view's tables. One writer: the steward, or a rebuild.

A log may hold types of events that mean nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from bifrost.audit.events import BudgetReached, Event, ModelAccess, PolicyChange, Reconciled
from bifrost.pace import Pace
from bifrost.usage.blocks import Writer
from bifrost.usage.schema import CLASS, DETAIL, PARTIES, REQUEST, STRETCH, TARGETS

REMEMBERED = 100_000

_ADD_REQUEST = f"INSERT INTO requests VALUES ({','.join('?' * (len(REQUEST) + 3))})"
FIND_REQUEST = f"""
WITH RECURSIVE stretches (stretch) AS (
  SELECT MAX({STRETCH}) FROM requests
  UNION ALL
  SELECT (SELECT MAX({STRETCH}) FROM requests WHERE {STRETCH} < stretches.stretch) FROM stretches
  WHERE stretches.stretch IS NOT NULL
)
SELECT pos FROM stretches CROSS JOIN requests ON {STRETCH} = stretches.stretch AND request = ?
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

    def __init__(self, db: sqlite3.Connection, pace: Pace | None = None) -> None:
        """``pace``: rests between pieces of what is taken; None: never."""
        self._db = db
        self._pace = pace or Pace(hurried=True)
        self._parties = Dictionary(db, "parties", PARTIES)
        self._targets = Dictionary(db, "targets", TARGETS)
        self._classes = Dictionary(db, "classes", CLASS)
        self._details = Dictionary(db, "details", DETAIL)
        self._blocks = Writer(db)
        self._rows: list[tuple[Any, ...]] = []
        self._told: list[tuple[int, int, int, int, int, int, int, int]] = []

    def take(self, entries: Iterable[tuple[int, Event]], upto: int) -> None:
        """Adds what is not there yet and moves ``next`` to ``upto``, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            after = self._db.execute("SELECT next FROM progress").fetchone()[0]
            newest = self._newest()
            for piece in self._pace.pieces(list(entries)):
                for index, event in piece:
                    if isinstance(event, ModelAccess):
                        if index >= after and index > newest:
                            self._model(index, event)
                    elif index >= after:
                        self._other(index, event)
                self._insert()
            self._flush()
            self._db.execute("UPDATE progress SET next = ?", (max(after, upto),))
            self._db.execute("COMMIT")
        except BaseException:
            self._rows.clear()
            self._told.clear()
            for known in (self._parties, self._targets, self._classes, self._details, self._blocks):
                known.forget()
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

    def _class(self, e: ModelAccess | Reconciled, outcome: str, status: int, code: str) -> int:
        party = self._parties.number((e.key, e.user or "", e.team or "", e.customer or ""))
        target = self._targets.number((e.model or "", e.provider or ""))
        return self._classes.number((party, target, outcome, status, code))

    def _model(self, index: int, e: ModelAccess) -> None:
        kind = self._class(e, e.outcome, e.status, e.code or "")
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
        self._told.append(
            (index, kind, e.at, e.cost, e.in_fresh + e.in_tool, e.in_cache_read,
             e.in_cache_w5m + e.in_cache_w1h, e.out_text + e.out_think)
        )  # fmt: skip

    def _insert(self) -> None:
        if self._rows:
            self._db.executemany(_ADD_REQUEST, self._rows)
            self._rows.clear()

    def _flush(self) -> None:
        self._insert()
        if self._told:
            self._blocks.add(self._told)
            self._told.clear()

    def _newest(self) -> int:
        found = self._db.execute("SELECT MAX(pos) FROM requests").fetchone()[0]
        return -1 if found is None else int(found)

    def _reconciled(self, index: int, e: Reconciled) -> None:
        """Books a difference where the request stands, or at its time if there is no such row."""
        row = self._db.execute(
            f"SELECT f.pos, r.class, r.cost FROM ({FIND_REQUEST}) f"
            " CROSS JOIN requests r ON r.pos = f.pos JOIN classes k ON k.id = r.class"
            " JOIN parties p ON p.id = k.party WHERE p.key = ? AND k.outcome <> 'refused'"
            " ORDER BY r.at = ? DESC, f.pos DESC",
            (e.request, e.key, e.at),
        ).fetchone()
        booked = self._db.execute(
            "INSERT OR IGNORE INTO differences VALUES (?, ?, ?, ?, ?)",
            (
                index,
                e.at,
                e.request,
                e.cost,
                None if row else self._class(e, "reconciled", 0, ""),
            ),
        )
        if row and booked.rowcount:
            position, kind, cost = row
            cost += e.cost
            self._db.execute("UPDATE requests SET cost = ? WHERE pos = ?", (cost, position))
            self._blocks.correct(position, kind, e.cost, cost)
