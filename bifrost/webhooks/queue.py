"""The queue: what each webhook has been told, has still to be told, and when it is tried again.

A SQLite file. A message is there once per webhook, under an id that stays the same at every
attempt. Where a webhook stands in the log moves in the same transaction as its messages come in,
so a process killed at any time neither forgets one nor makes it twice.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from bifrost.audit.log import Reader
from bifrost.config.settings import Webhook
from bifrost.database import Database, asked
from bifrost.errors import NotFound, StoreError
from bifrost.webhooks.messages import Message

log = logging.getLogger("bifrost.webhooks")
FILE = "webhooks.db"
KEPT_NS = 30 * 86_400_000_000_000
REMOVED = "the webhook is no longer configured"
State = Literal["waiting", "delivered", "parked"]
SCHEMA = """
CREATE TABLE webhooks (
  name TEXT PRIMARY KEY, receiver TEXT NOT NULL, address TEXT NOT NULL, position INTEGER NOT NULL,
  gone_at INTEGER NOT NULL DEFAULT 0);
CREATE TABLE deliveries (
  number INTEGER PRIMARY KEY, webhook TEXT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL,
  body BLOB NOT NULL, created_at INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  next_at INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
  status INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
  ended_at INTEGER NOT NULL DEFAULT 0, UNIQUE (webhook, id));
CREATE INDEX deliveries_due ON deliveries (webhook, state, next_at);
"""


class Delivery(msgspec.Struct, frozen=True):
    """A message on its way to a webhook; times in ns, ``ended_at`` 0 while it waits."""

    webhook: str
    id: str
    type: str
    body: bytes
    created_at: int
    attempts: int
    next_at: int
    state: State
    status: int
    error: str
    ended_at: int

    @property
    def message(self) -> Message:
        """What is sent."""
        return Message(self.id, self.type, self.body)


class Standing(msgspec.Struct, frozen=True):
    """How it stands with a webhook: where it goes, how many messages are in which state."""

    name: str
    receiver: str
    gone_at: int
    waiting: int
    parked: int
    delivered: int


COLUMNS = ", ".join(field.name for field in msgspec.structs.fields(Delivery))


class Queue(Database):
    """One connection to the queue of a data directory; every failure is a StoreError."""

    APPLICATION = 0x42465748
    SCHEMA = SCHEMA
    CALLED = "the webhooks' queue "
    REMEDY = "move it away: a new one begins with what comes then"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / FILE)

    # -- which webhooks there are --------------------------------------------------------------

    def register(self, hooks: Sequence[Webhook], end: int, now_ns: int) -> None:
        """The configured webhooks; a new one is told what comes from index ``end`` of the log on.

        One with another address is no longer gone; messages of one that was removed are parked.
        """
        with self._writing():
            for hook in hooks:
                address = hashlib.sha256(hook.url.encode()).hexdigest()
                self._db.execute(
                    "INSERT INTO webhooks (name, receiver, address, position) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET receiver = excluded.receiver,"
                    " address = excluded.address, position = min(position, excluded.position),"
                    " gone_at = iif(address = excluded.address, gone_at, 0)",
                    (hook.name, _receiver(hook.url), address, end),
                )
            names = [hook.name for hook in hooks]
            others = f"NOT IN ({', '.join('?' * len(names))})"
            self._db.execute(f"DELETE FROM webhooks WHERE name {others}", names)
            self._db.execute(
                "UPDATE deliveries SET state = 'parked', error = ?, ended_at = ?"
                f" WHERE state = 'waiting' AND webhook {others}",
                (REMOVED, now_ns, *names),
            )

    def position(self, name: str) -> int | None:
        """The index of the log from which a webhook is to be told; None if it wants nothing."""
        with self._guarded():
            row = self._db.execute(
                "SELECT position FROM webhooks WHERE name = ? AND gone_at = 0", (name,)
            ).fetchone()
        return int(row[0]) if row else None

    def take(self, name: str, messages: Iterable[Message], position: int, now_ns: int) -> None:
        """Messages a webhook has to be told; it stands at this index of the log then."""
        with self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO deliveries (webhook, id, type, body, created_at, next_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(name, one.id, one.type, one.body, now_ns, now_ns) for one in messages],
            )
            self._db.execute("UPDATE webhooks SET position = ? WHERE name = ?", (position, name))

    # -- trying --------------------------------------------------------------------------------

    def due(self, name: str, now_ns: int) -> Delivery | None:
        """The message that is to be tried now, the oldest first."""
        with self._guarded():
            row = self._db.execute(
                f"SELECT {COLUMNS} FROM deliveries WHERE webhook = ? AND state = 'waiting'"
                " AND next_at <= ? ORDER BY number LIMIT 1",
                (name, now_ns),
            ).fetchone()
        return Delivery(*row) if row else None

    def delivered(self, one: Delivery, status: int, now_ns: int) -> None:
        """The receiver took it."""
        self._end(one, "delivered", status, "", now_ns)

    def park(self, one: Delivery, status: int, error: str, now_ns: int) -> None:
        """It is not tried any more until somebody says so."""
        self._end(one, "parked", status, error, now_ns)

    def _end(self, one: Delivery, state: State, status: int, error: str, now_ns: int) -> None:
        with self._writing():
            self._db.execute(
                "UPDATE deliveries SET state = ?, status = ?, error = ?, ended_at = ?,"
                " attempts = attempts + 1 WHERE webhook = ? AND id = ?",
                (state, status, error, now_ns, one.webhook, one.id),
            )

    def postpone(self, one: Delivery, status: int, error: str, next_at: int) -> None:
        """It failed and is tried again at ``next_at``."""
        with self._writing():
            self._db.execute(
                "UPDATE deliveries SET status = ?, error = ?, next_at = ?, attempts = attempts + 1"
                " WHERE webhook = ? AND id = ?",
                (status, error, next_at, one.webhook, one.id),
            )

    def gone(self, name: str, error: str, now_ns: int) -> None:
        """The receiver wants nothing any more: what waits is parked, nothing new comes in."""
        with self._writing():
            self._db.execute("UPDATE webhooks SET gone_at = ? WHERE name = ?", (now_ns, name))
            self._db.execute(
                "UPDATE deliveries SET state = 'parked', error = ?, ended_at = ?"
                " WHERE webhook = ? AND state = 'waiting'",
                (error, now_ns, name),
            )

    def prune(self, now_ns: int) -> None:
        """Forgets what was delivered or parked long ago."""
        with self._writing():
            self._db.execute(
                "DELETE FROM deliveries WHERE state <> 'waiting' AND ended_at < ?",
                (now_ns - KEPT_NS,),
            )

    # -- what people do ------------------------------------------------------------------------

    def retry(self, name: str | None, message_id: str | None, now_ns: int) -> int:
        """Parked and waiting messages are tried now, from the first attempt on; how many.

        With ``message_id`` also a delivered one. Raises NotFound for a webhook there is none of.
        """
        known = [one.name for one in self.standings()]
        if name is not None and name not in known:
            raise NotFound(f"There is no webhook {name!r}; `bifrost webhooks list` shows them.")
        wanted = [name] if name is not None else known
        marks = ", ".join("?" * len(wanted))
        which = "AND id = ?" if message_id is not None else "AND state <> 'delivered'"
        more = [message_id] if message_id is not None else []
        with self._writing():
            self._db.execute(f"UPDATE webhooks SET gone_at = 0 WHERE name IN ({marks})", wanted)
            done = self._db.execute(
                "UPDATE deliveries SET state = 'waiting', attempts = 0, next_at = ?, ended_at = 0"
                f" WHERE webhook IN ({marks}) {which}",
                [now_ns, *wanted, *more],
            )
        return done.rowcount

    def standings(self) -> list[Standing]:
        """Every configured webhook, by name."""
        counts = ", ".join(
            f"(SELECT COUNT(*) FROM deliveries d WHERE d.webhook = w.name AND d.state = '{state}')"
            for state in ("waiting", "parked", "delivered")
        )
        with self._guarded():
            rows = self._db.execute(
                f"SELECT name, receiver, gone_at, {counts} FROM webhooks w ORDER BY name"
            ).fetchall()
        return [Standing(*row) for row in rows]

    def deliveries(
        self, name: str | None = None, state: State | None = None, limit: int = 100
    ) -> list[Delivery]:
        """Messages, newest first."""
        conditions = {"webhook": name, "state": state}
        given: dict[str, Any] = {k: v for k, v in conditions.items() if v is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "1"
        with self._guarded():
            rows = self._db.execute(
                f"SELECT {COLUMNS} FROM deliveries WHERE {where} ORDER BY number DESC LIMIT ?",
                (*given.values(), limit),
            ).fetchall()
        return [Delivery(*row) for row in rows]


def backlog(data_dir: Path) -> dict[tuple[str, str], int]:
    """How many messages there are by (webhook, state), for any process that only looks.

    StoreError if unreadable; nothing where there are no webhooks.
    """
    rows = asked(
        data_dir / FILE,
        "SELECT w.name, s.column1, (SELECT COUNT(*) FROM deliveries d"
        " WHERE d.webhook = w.name AND d.state = s.column1)"
        " FROM webhooks w, (VALUES ('waiting'), ('parked')) s",
    )
    return {(name, state): count for name, state, count in rows}


def _receiver(url: str) -> str:
    """Where messages go, without a path, which may hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def enrol(data_dir: Path, hooks: Sequence[Webhook]) -> bool:
    """Registers the configured webhooks, so that they are told what happens from now on.

    False, and logged, if the store does not take it.
    """
    if not hooks and not (data_dir / FILE).exists():
        return True
    try:
        queue = Queue(data_dir)
        try:
            queue.register(hooks, Reader(data_dir).end(), time.time_ns())
        finally:
            queue.close()
    except StoreError as error:
        log.error("webhooks cannot be served", extra={"error": str(error)})
        return False
    return True
