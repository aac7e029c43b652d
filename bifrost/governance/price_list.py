"""The price list: the administrator's own prices in the directory's store, and what held before.

Kept whole in one record, with a revision every process can look at, and for each digest that was
ever in use the set of prices it stands for. What a price means is not known here.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from bifrost.errors import Conflict, NotFound
from bifrost.governance.replays import Once, Replays

if TYPE_CHECKING:
    import lmdb

    Reading = Callable[[], AbstractContextManager[lmdb.Transaction]]
    Writing = Callable[[Once | None], AbstractContextManager[lmdb.Transaction]]

REVISION, STATE, TABLE, PACKAGE = b"prices revision", b"prices", b"prices of ", b"price package "
LEAST_DIGITS = 8  # of a digest that stands for the whole


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One own price: the fields as in the price file, and who set it when and why."""

    pattern: str
    fields: dict[str, Any]
    at: int
    actor: str
    reason: str = ""


class PriceState(msgspec.Struct, frozen=True, kw_only=True):
    """What is in use: own prices in their order, the price file as last read, the package's table.

    ``digest`` names all of it, ``package`` is the digest of the package's table; "" before any.
    """

    entries: tuple[Entry, ...] = ()
    file: dict[str, Any] = {}
    digest: str = ""
    package: str = ""
    source: str = ""
    date: str = ""

    @property
    def stored(self) -> dict[str, Any]:
        """The own prices as a price file has them."""
        return {entry.pattern: entry.fields for entry in self.entries}


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """What a digest stands for: own prices (``store`` before ``file``) over a package's table."""

    digest: str
    at: int
    source: str
    date: str
    package: str
    store: dict[str, Any] = {}
    file: dict[str, Any] = {}


class PriceList:
    """The records of prices in one tree of the directory's store."""

    def __init__(self, read: Reading, write: Writing, tree: object, replays: Replays) -> None:
        """``read`` and ``write`` open transactions of the store that ``tree`` belongs to."""
        self._read, self._write = read, write
        self._tree: Any = tree
        self._replays = replays

    def revision(self) -> int:
        """A number that rises with every change made by any process."""
        with self._read() as txn:
            return self._revision(txn)

    def _revision(self, txn: lmdb.Transaction) -> int:
        return int.from_bytes(txn.get(REVISION, default=b"", db=self._tree), "little")

    def state(self) -> PriceState:
        """What is in use."""
        with self._read() as txn:
            return self._state(txn)

    def _state(self, txn: lmdb.Transaction) -> PriceState:
        raw = txn.get(STATE, db=self._tree)
        return PriceState() if raw is None else msgspec.msgpack.decode(raw, type=PriceState)

    def change(
        self,
        decide: Callable[[PriceState], PriceState],
        package: Callable[[], bytes],
        once: Once | None = None,
    ) -> PriceState:
        """Replaces what is in use by ``decide`` of it, in one transaction; returns it.

        ``package()`` is asked for the package's table where its digest is new. What ``decide``
        raises changes nothing. With ``once`` as ``Directory.create``; its answer is of the state.
        """
        with self._write(once) as txn:
            old = self._state(txn)
            new = decide(old)
            if new != old:
                self._remember(txn, new, package)
                txn.put(STATE, msgspec.msgpack.encode(new), db=self._tree)
                revision = self._revision(txn) + 1
                txn.put(REVISION, revision.to_bytes(8, "little"), db=self._tree)
            return self._replays.end(txn, once, new)

    def remember(self, state: PriceState, package: Callable[[], bytes]) -> None:
        """Keeps what a digest stands for that a process uses, though it is not what all use."""
        with self._read() as txn:
            if txn.get(TABLE + state.digest.encode(), db=self._tree) is not None:
                return
        with self._write(None) as txn:
            self._remember(txn, state, package)

    def _remember(
        self, txn: lmdb.Transaction, state: PriceState, package: Callable[[], bytes]
    ) -> None:
        name = TABLE + state.digest.encode()
        if txn.get(name, db=self._tree) is not None:
            return
        table = PriceTable(
            digest=state.digest, at=time.time_ns(), source=state.source, date=state.date,
            package=state.package, store=state.stored, file=state.file,
        )  # fmt: skip
        txn.put(name, zlib.compress(msgspec.msgpack.encode(table)), db=self._tree)
        key = PACKAGE + state.package.encode()
        if txn.get(key, db=self._tree) is None:
            txn.put(key, zlib.compress(package()), db=self._tree)

    def tables(self) -> list[PriceTable]:
        """Everything that was ever in use, oldest first."""
        with self._read() as txn:
            found = [_table(raw) for _, raw in self._under(txn, TABLE)]
        return sorted(found, key=lambda table: table.at)

    def table(self, digest: str) -> PriceTable:
        """What a digest, or its first 8 digits or more, stands for; raises NotFound, Conflict."""
        wanted = digest.lower()
        found: list[bytes] = []
        if len(wanted) >= LEAST_DIGITS and wanted.isalnum() and wanted.isascii():
            with self._read() as txn:
                found = [raw for _, raw in self._under(txn, TABLE + wanted.encode())]
        if not found:
            raise NotFound(
                f"No price table {digest[:64]!r} is known; `bifrost prices table` lists them."
            )
        if len(found) > 1:
            raise Conflict(f"Several price tables begin with {digest!r}; give more digits.")
        return _table(found[0])

    def package(self, digest: str) -> bytes:
        """A package's table as it was kept; raises NotFound."""
        with self._read() as txn:
            raw = txn.get(PACKAGE + digest.encode(), db=self._tree)
            if raw is None:
                raise NotFound(f"The catalogue {digest[:16]} is not kept in this data directory.")
            return zlib.decompress(raw)

    def _under(self, txn: lmdb.Transaction, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with txn.cursor(db=self._tree) as cursor:
            if cursor.set_range(prefix):
                for key, raw in cursor:
                    if not bytes(key).startswith(prefix):
                        break
                    yield bytes(key), bytes(raw)


def _table(raw: bytes) -> PriceTable:
    return msgspec.msgpack.decode(zlib.decompress(raw), type=PriceTable)
