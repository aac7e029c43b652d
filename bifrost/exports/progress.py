"""Progress: how far each sink has got in the log, and the entries its receiver would not take.

A SQLite file. A sink's position moves only past entries that were acknowledged, or are dead
letters, in the same transaction: a process killed at any time skips nothing, parks nothing twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bifrost.config.exports import FileExport, Sink, SyslogExport
from bifrost.database import Database
from bifrost.errors import NotFound, StoreError

FILE = "exports.db"
SCHEMA = """
CREATE TABLE sinks (
  name TEXT PRIMARY KEY, type TEXT NOT NULL, receiver TEXT NOT NULL, digest TEXT NOT NULL,
  position INTEGER NOT NULL, planned INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0,
  batches INTEGER NOT NULL DEFAULT 0, waiting_since INTEGER NOT NULL DEFAULT 0,
  taken_at INTEGER NOT NULL DEFAULT 0, failing_since INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
  stalled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE dead (
  sink TEXT NOT NULL, entry INTEGER NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL,
  refused_at INTEGER NOT NULL, raw BLOB NOT NULL, again INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sink, entry)) WITHOUT ROWID;
CREATE INDEX dead_again ON dead (sink, entry) WHERE again = 1;
CREATE TABLE log (only INTEGER PRIMARY KEY CHECK (only = 1), origin TEXT NOT NULL);
"""


class Standing(msgspec.Struct, frozen=True):
    """How it stands with a sink. Times in ns, 0 for never; ``position`` is the next index.

    ``waiting_since``: when the oldest entry it lacks happened, 0 if it lacks none.
    """

    name: str
    type: str
    receiver: str
    position: int
    sent: int
    batches: int
    waiting_since: int
    taken_at: int
    failing_since: int
    failures: int
    error: str
    stalled: bool
    dead: int


class DeadLetter(msgspec.Struct, frozen=True):
    """An entry a receiver would not take, and why; ``again``: it is to be sent once more."""

    sink: str
    entry: int
    id: str
    reason: str
    refused_at: int
    raw: bytes
    again: bool


class Enrolment(msgspec.Struct, frozen=True):
    """What became different when the configured sinks were noted: action and sink."""

    action: str
    sink: str
    position: int


_COUNT = "(SELECT COUNT(*) FROM dead d WHERE d.sink = s.name)"
_STANDING = (
    "name, type, receiver, position, sent, batches, waiting_since, taken_at, failing_since,"
    f" failures, error, stalled, {_COUNT}"
)
_DEAD = "sink, entry, id, reason, refused_at, raw, again"


class Progress(Database):
    """One connection to the progress of a data directory; every failure is a StoreError."""

    APPLICATION = 0x42464558
    SCHEMA = SCHEMA
    CALLED = "the exports' progress "
    REMEDY = "move it away: exports then begin anew, under the same ids"

    def __init__(self, data_dir: Path, *, read_only: bool = False) -> None:
        super().__init__(data_dir / FILE, read_only=read_only)

    # -- which sinks there are -----------------------------------------------------------------

    def enrol(self, sinks: Sequence[Sink], oldest: int, end: int) -> list[Enrolment]:
        """Notes the configured sinks; returns what became different.

        A new one begins at the log's ``oldest`` entry or its ``end``. One that is gone is
        forgotten, with its dead letters; one of another address goes on where it was.
        """
        changes: list[Enrolment] = []
        with self._writing():
            known = {
                name: (digest, position)
                for name, digest, position in self._db.execute(
                    "SELECT name, digest, position FROM sinks"
                )
            }
            for sink in sinks:
                digest, begin = _digest(sink), oldest if sink.start == "oldest" else end
                if sink.name not in known:
                    changes.append(Enrolment("added", sink.name, begin))
                elif known[sink.name][0] != digest:
                    changes.append(Enrolment("changed", sink.name, known[sink.name][1]))
                self._db.execute(
                    "INSERT INTO sinks (name, type, receiver, digest, position)"
                    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET type = excluded.type,"
                    " receiver = excluded.receiver, digest = excluded.digest",
                    (sink.name, kind(sink), receiver(sink), digest, begin),
                )
            for name in known.keys() - {sink.name for sink in sinks}:
                changes.append(Enrolment("removed", name, known[name][1]))
                self._db.execute("DELETE FROM sinks WHERE name = ?", (name,))
                self._db.execute("DELETE FROM dead WHERE sink = ?", (name,))
        return changes

    def origin(self, signed: str) -> str:
        """The log's name in every id: that of the first time, for ever."""
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO log VALUES (1, ?)", (signed,))
            row = self._db.execute("SELECT origin FROM log").fetchone()
        return str(row[0])

    def named(self) -> str | None:
        """That name, None before the first time."""
        with self._guarded():
            row = self._db.execute("SELECT origin FROM log").fetchone()
        return str(row[0]) if row else None

    # -- sending -------------------------------------------------------------------------------

    def place(self, name: str) -> tuple[int, int]:
        """The next index of a sink, and where the batch that begins there ends (0: not said)."""
        with self._guarded():
            row = self._db.execute(
                "SELECT position, planned FROM sinks WHERE name = ?", (name,)
            ).fetchone()
        if row is None:
            raise StoreError(f"There is no export {name!r} any more.")
        return int(row[0]), int(row[1])

    def plan(self, name: str, end: int) -> None:
        """The batch that begins at the position ends before this index, whatever happens."""
        with self._writing():
            self._db.execute("UPDATE sinks SET planned = ? WHERE name = ?", (end, name))

    def advance(
        self,
        name: str,
        was: int,
        to: int,
        *,
        sent: int = 0,
        since: int = 0,
        dead: Iterable[DeadLetter] = (),
    ) -> bool:
        """Entries before ``to`` are done. False, and nothing is noted, if somebody moved it.

        ``since``: when the oldest entry it lacks happened, as far as is known; 0 if it lacks none.
        """
        now = time.time_ns()
        with self._writing():
            done = self._db.execute(
                "UPDATE sinks SET position = ?, planned = 0, sent = sent + ?,"
                " batches = batches + ?, taken_at = iif(?, ?, taken_at), waiting_since = ?,"
                " failing_since = 0, failures = 0, error = '' WHERE name = ? AND position = ?",
                (to, sent, sent > 0, sent > 0, now, since, name, was),
            )
            if done.rowcount:
                self._park(dead)
        return bool(done.rowcount)

    def _park(self, dead: Iterable[DeadLetter]) -> None:
        self._db.executemany(
            f"INSERT OR REPLACE INTO dead ({_DEAD}) VALUES (?, ?, ?, ?, ?, ?, 0)",
            [(one.sink, one.entry, one.id, one.reason, one.refused_at, one.raw) for one in dead],
        )

    def failed(self, name: str, error: str, since: int, now_ns: int) -> Standing:
        """An attempt failed, for an entry that happened at ``since``; how it stands now."""
        with self._writing():
            self._db.execute(
                "UPDATE sinks SET failures = failures + 1, error = ?, waiting_since = ?,"
                " failing_since = iif(failing_since = 0, ?, failing_since) WHERE name = ?",
                (error, since, now_ns, name),
            )
        return self.standing(name)

    def stall(self, name: str, stalled: bool) -> None:
        """Whether it has been said that a sink does not get on."""
        with self._writing():
            self._db.execute("UPDATE sinks SET stalled = ? WHERE name = ?", (stalled, name))

    # -- dead letters --------------------------------------------------------------------------

    def dead(
        self, name: str | None, *, again: bool = False, limit: int = 1 << 30
    ) -> list[DeadLetter]:
        """Dead letters in the order of the log; with ``again`` only those to be sent again."""
        where, given = ("sink = ?", [name]) if name is not None else ("1", [])
        if again:
            where += " AND again = 1"
        with self._guarded():
            rows = self._db.execute(
                f"SELECT {_DEAD} FROM dead WHERE {where} ORDER BY sink, entry LIMIT ?",
                (*given, limit),
            ).fetchall()
        return [DeadLetter(*row) for row in rows]

    def revived(self, name: str, entries: Iterable[int], dead: Iterable[DeadLetter]) -> None:
        """What came of dead letters that were sent again: these were taken, those were not."""
        with self._writing():
            taken = [(name, entry) for entry in entries]
            self._db.executemany("DELETE FROM dead WHERE sink = ? AND entry = ?", taken)
            self._db.execute(
                "UPDATE sinks SET sent = sent + ?, failing_since = 0, failures = 0, error = ''"
                " WHERE name = ?",
                (len(taken), name),
            )
            self._park(dead)

    # -- what people do ------------------------------------------------------------------------

    def replay(self, name: str) -> int:
        """Has a sink's dead letters sent again; how many there are. Raises NotFound."""
        self.standing(name)
        with self._writing():
            done = self._db.execute("UPDATE dead SET again = 1 WHERE sink = ?", (name,))
        return done.rowcount

    def reset(self, name: str, position: int) -> None:
        """A sink goes on from this index. Raises NotFound."""
        self.standing(name)
        with self._writing():
            self._db.execute(
                "UPDATE sinks SET position = ?, planned = 0 WHERE name = ?", (position, name)
            )

    def standing(self, name: str) -> Standing:
        """One sink. Raises NotFound."""
        for one in self.standings():
            if one.name == name:
                return one
        raise NotFound(f"There is no export {name!r}; `bifrost audit exports` shows them.")

    def standings(self) -> list[Standing]:
        """Every configured sink, by name."""
        with self._guarded():
            rows = self._db.execute(f"SELECT {_STANDING} FROM sinks s ORDER BY name").fetchall()
        return [Standing(*row) for row in rows]


def kind(sink: Sink) -> str:
    """What the configuration calls it."""
    return str(sink.__struct_config__.tag)


def receiver(sink: Sink) -> str:
    """Where entries go, without a path of a webhook, which may hold a token."""
    if isinstance(sink, FileExport):
        return sink.path
    if isinstance(sink, SyslogExport):
        return sink.url
    scheme, _, rest = sink.url.partition("://")
    return f"{scheme}://{rest.split('/')[0].split('?')[0]}"


def _digest(sink: Sink) -> str:
    return hashlib.sha256(msgspec.json.encode(sink)).hexdigest()


def standings(data_dir: Path) -> list[Standing]:
    """Every sink of a data directory; none where nothing is exported. Raises StoreError."""
    if not (data_dir / FILE).exists():
        return []
    progress = Progress(data_dir, read_only=True)
    try:
        return progress.standings()
    finally:
        progress.close()


def unsent(data_dir: Path, sinks: Sequence[Sink]) -> dict[str, int]:
    """The index that each sink has to send next. Raises StoreError.

    A configured one that is not yet noted has to send all, unless it begins at the log's end.
    """
    configured = {sink.name: 0 for sink in sinks if sink.start == "oldest"}
    return configured | {one.name: one.position for one in standings(data_dir)}
