"""The usage view: what reports read. SQLite, fed by the steward from the log, rebuildable.

Numbers of entries are positions in the append-only log. Money is int nano-USD, times are int ns.
Refused requests stand among the requests and are left out of sums.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bifrost.audit.events import BudgetReached, Event
from bifrost.errors import StoreError
from bifrost.pace import Pace
from bifrost.usage import files, requests, schema, sums
from bifrost.usage.blocks import LAST_NS
from bifrost.usage.intake import Intake
from bifrost.usage.requests import Filters, Logged, Page
from bifrost.usage.schema import Unusable
from bifrost.usage.sums import GROUPS, INTERVALS, Bucket, Row

__all__ = [
    "FAR_BEHIND", "GROUPS", "INTERVALS", "Bucket", "Filters", "Logged", "Page", "Row", "Unusable",
    "UsageView",
]  # fmt: skip

log = logging.getLogger("bifrost.usage")
FAR_BEHIND = 20_000  # entries of the log: such a view misleads, and a rebuild is worth its while
REBUILD = "build it anew from the log with `bifrost usage rebuild`"


class UsageView:
    """One connection to the usage view of a data directory; every failure is a StoreError.

    Opened for writing, a view that is damaged, foreign or of an older version is set aside and
    begun anew: ``last`` is 0 and the log, which is the truth, is applied again. Opened for reading
    it raises Unusable. May be used from several threads, one call at a time.
    """

    def __init__(
        self, data_dir: Path, pace: Pace | None = None, *, read_only: bool = False
    ) -> None:
        self._pace = pace
        self._data_dir = data_dir
        self._read_only = read_only
        self._lock = threading.RLock()
        self._damaged = False
        with self._guarded("open"):
            self._open()

    def _open(self) -> None:
        for attempt in range(3):
            self._path = files.current(self._data_dir)
            try:
                self._connect()
                return
            except Unusable as error:
                if self._read_only:
                    raise Unusable(f"{error}; {REBUILD}.") from error
                self._set_aside(str(error))
            except sqlite3.OperationalError:
                # Between reading the link and opening its file another one came into use.
                if attempt == 2 or files.current(self._data_dir) == self._path:
                    raise
        raise StoreError(f"Cannot open the usage view {self._path}; {REBUILD}.")

    def _connect(self) -> None:
        if not self._read_only and not self._path.exists():
            self._path = files.fresh(self._data_dir)
            schema.make(self._path)
            files.use(self._data_dir, self._path)
        try:
            db = schema.connect(self._path, read_only=self._read_only)
        except sqlite3.DatabaseError as error:
            if schema.damaged(error):
                raise Unusable(f"The usage view {self._path} is damaged") from error
            raise
        try:
            schema.check(db, self._path)
            status = os.stat(self._path)
        except BaseException:
            db.close()
            raise
        self._db = db
        self._identity = (status.st_dev, status.st_ino)
        if not self._read_only:
            self._intake = Intake(db, self._pace)
            files.tidy(self._data_dir)

    def begin_anew(self, why: str) -> None:
        """Sets the file aside and goes on with an empty one; for the writer only."""
        with self._guarded("open"):
            self._db.close()
            self._set_aside(why)
            self._open()

    def _set_aside(self, why: str) -> None:
        kept = files.set_aside(self._data_dir)
        log.warning(
            "the usage view is built anew from the log, which is the truth",
            extra={"reason": why, "set_aside": str(kept) if kept else ""},
        )

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError, OverflowError) as error:
                self._damaged = self._damaged or schema.damaged(error)
                remedy = f"; {REBUILD}" if schema.damaged(error) else ""
                raise StoreError(
                    f"Cannot {what} the usage view {self._path}: {error}{remedy}."
                ) from error

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._db.close()

    def last(self) -> int:
        """How many entries of the log have been applied: the position of the next.

        Notices that a rebuild has put another file into use, or that the one in use was found
        damaged, and goes on with the right one: the steward asks before each batch.
        """
        with self._guarded("read"):
            if self._damaged or self._replaced():
                self._reopen()
            return int(self._db.execute("SELECT next FROM progress").fetchone()[0])

    def _replaced(self) -> bool:
        try:
            status = os.stat(self._data_dir / files.LINK)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def _reopen(self) -> None:
        self._db.close()
        if self._damaged and not self._read_only:
            self._set_aside(f"The usage view {self._path} is damaged")
        self._damaged = False
        self._open()

    def apply(self, entries: Iterable[tuple[int, Event]], upto: int) -> None:
        """Adds entries of the log and moves ``last`` to ``upto``, the position of the next.

        Entries that have been applied are not applied again; types that mean nothing here are
        passed over. All or nothing.
        """
        with self._guarded("write"):
            self._intake.take(entries, upto)

    def name(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Records the present names of ids."""
        with self._guarded("write"):
            self._intake.name(pairs)

    def names(self) -> list[tuple[str, str]]:
        """Every id with a name."""
        with self._guarded("read"):
            return [tuple(row) for row in self._db.execute("SELECT id, name FROM names")]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The database at one moment, whatever the steward adds meanwhile."""
        with self._guarded("read"):
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def totals(self, by: Sequence[str], since_ns: int, until_ns: int) -> list[Row]:
        """Sums per group, dearest first: requests, input, cache read, cache write, output, cost.

        Refused requests are left out. Raises ValueError for an unknown or repeated grouping.
        """
        with self._reading() as db:
            return sums.totals(db, by, since_ns, until_ns)

    def series(
        self,
        by: Sequence[str],
        since_ns: int,
        until_ns: int,
        interval: str,
        time_zone: str = "UTC",
    ) -> list[Bucket]:
        """The same sums per ``1h``, ``1d``, ``1w`` or ``1M`` of a time zone's calendar, oldest
        first, from the first to the last interval in which there is anything.

        Raises ValueError also for an unknown interval or time zone, or for too many intervals.
        """
        with self._reading() as db:
            return sums.series(db, by, since_ns, until_ns, interval, time_zone)

    def logs(self, filters: Filters, limit: int = 100, cursor: str | None = None) -> Page:
        """The newest requests that fit, refused ones too; the page's cursor asks for the next.

        Raises ValueError for a limit out of range or a cursor that is none.
        """
        with self._reading() as db:
            return requests.page(db, filters, limit, cursor)

    def after(self, position: int, filters: Filters, limit: int = 100) -> list[Logged]:
        """Requests behind a position of the log, in its order: what came since."""
        with self._reading() as db:
            return requests.after(db, position, filters, limit)

    def request(self, request_id: str) -> Logged | None:
        """The newest request with this id, or None."""
        with self._reading() as db:
            return requests.one(db, request_id)

    def thresholds(
        self,
        since_ns: int = 0,
        until_ns: int = LAST_NS,
        limit: int = 100,
        *,
        budget: str | None = None,
        owner: str | None = None,
    ) -> list[tuple[int, BudgetReached]]:
        """Thresholds that were reached, newest first, each with its position in the log.

        ``budget`` is an id; ``owner`` the id or name of a customer, team, user or key.
        """
        with self._reading() as db:
            rows = db.execute(
                "SELECT pos, event FROM thresholds WHERE at >= ? AND at < ?"
                " AND (? IS NULL OR json_extract(event, '$.budget') = ?)"
                " AND (? IS NULL OR json_extract(event, '$.id') = ?"
                " OR json_extract(event, '$.name') = ?)"
                " ORDER BY at DESC, pos DESC LIMIT ?",
                (max(0, since_ns), min(until_ns, LAST_NS), budget, budget, owner, owner,
                 owner, limit),
            ).fetchall()  # fmt: skip
        return [(pos, msgspec.json.decode(event, type=BudgetReached)) for pos, event in rows]
