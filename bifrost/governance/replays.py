"""Creations that happen once: what was answered under an idempotency key, kept for a day.

Written in the transaction of the creation itself, so that there is never one without the other. A
secret is not kept: it is derived from a random number kept here and the master key.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import blake3
import lmdb
import msgspec

from bifrost.errors import Reused
from bifrost.governance.entities import SECRET_PREFIX
from bifrost.governance.environment import Environment

E = TypeVar("E", bound=msgspec.Struct)
KEPT_NS = 24 * 3_600_000_000_000
MOST_REMOVED = 256  # expired records removed in passing by one creation


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What is kept: when it was answered, for which content, with which answer."""

    at: int
    content: bytes
    nonce: bytes
    answer: bytes


class Replayed(Exception):
    """The same was asked for before: ``answer`` is what was answered, ``secret`` its secret."""

    def __init__(self, answer: bytes, secret: str) -> None:
        super().__init__("answered before")
        self.answer = answer
        self.secret = secret


class Once:
    """A creation under a name. ``answer(made)`` makes the answer, without the secret."""

    def __init__(
        self, key: bytes, name: bytes, content: bytes, answer: Callable[[Any], bytes]
    ) -> None:
        """``name`` and ``content`` are digests of what names the request and what it asks for."""
        self.name = name
        self.content = content
        self.answer = answer
        self.nonce = secrets.token_bytes(16)
        self._key = key

    @property
    def secret(self) -> str:
        """A virtual key's secret that only the master key and the nonce lead to."""
        return self.secret_of(self.nonce)

    def secret_of(self, nonce: bytes) -> str:
        """The same for the nonce of an earlier answer."""
        digest = blake3.blake3(nonce + self.name, key=self._key).digest()
        return SECRET_PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Replays:
    """The tree of records: ``k`` name -> record, and ``t`` time name -> nothing, to expire by."""

    def __init__(self, env: Environment) -> None:
        self._db = env.open_db(b"replays")

    def begin(self, txn: lmdb.Transaction, once: Once | None) -> None:
        """Raises Replayed if this was answered before, Reused if something else was."""
        if once is None:
            return
        raw = txn.get(b"k" + once.name, db=self._db)
        if raw is None:
            return
        record = msgspec.msgpack.decode(raw, type=Record)
        if record.at + KEPT_NS <= time.time_ns():
            return
        if record.content != once.content:
            raise Reused("This Idempotency-Key was used for another request; take a new one.")
        raise Replayed(record.answer, once.secret_of(record.nonce))

    def end(self, txn: lmdb.Transaction, once: Once | None, made: E) -> E:
        """Keeps the answer about what was made, and forgets what is older than a day."""
        if once is None:
            return made
        now = time.time_ns()
        self._expire(txn, now)
        record = Record(now, once.content, once.nonce, once.answer(made))
        txn.put(b"k" + once.name, msgspec.msgpack.encode(record), db=self._db)
        txn.put(b"t" + now.to_bytes(8, "big") + once.name, b"", db=self._db)
        return made

    def _expire(self, txn: lmdb.Transaction, now: int) -> None:
        last = b"t" + (now - KEPT_NS).to_bytes(8, "big")
        with txn.cursor(db=self._db) as cursor:
            for _ in range(MOST_REMOVED):
                if not cursor.set_range(b"t") or bytes(cursor.key()) > last:
                    return
                key = bytes(cursor.key())
                cursor.delete()
                raw = txn.get(b"k" + key[9:], db=self._db)
                if raw is not None and _at(raw) == int.from_bytes(key[1:9], "big"):
                    txn.delete(b"k" + key[9:], db=self._db)


def _at(raw: bytes | memoryview) -> int:
    return msgspec.msgpack.decode(raw, type=Record).at
