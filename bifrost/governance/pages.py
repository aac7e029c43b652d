"""Pages of a kind of entity by name, found by a part of a name; and the name that was meant."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import lmdb

from bifrost.governance.entities import Entity, Kind

BREATH = 256  # rows between two pauses in which other threads of the process may run
MOST_COMPARED = 20_000


class Pages:
    """Reads the tree of ``<kind> NUL <name>`` -> id; ``load`` reads an entity by its id."""

    def __init__(
        self,
        tree: Any,
        read: Callable[[], AbstractContextManager[lmdb.Transaction]],
        load: Callable[[lmdb.Transaction, str], Entity | None],
    ) -> None:
        self._tree = tree
        self._read = read
        self._load = load

    def _all(self, txn: lmdb.Transaction, kind: Kind) -> Iterator[tuple[bytes, bytes]]:
        prefix = f"{kind}\0".encode()
        with txn.cursor(db=self._tree) as cursor:
            if cursor.set_range(prefix):
                for number, (raw, identifier) in enumerate(cursor):
                    key = bytes(raw)
                    if not key.startswith(prefix):
                        return
                    if number % BREATH == 0:
                        time.sleep(0)
                    yield key[len(prefix) :], bytes(identifier)

    def page(
        self, kind: Kind, *, text: str = "", limit: int, offset: int = 0
    ) -> tuple[list[Entity], int]:
        """The entities of one page of those whose names hold ``text`` in any case, by name; and
        how many these are in all. Raises StoreError."""
        ids: list[str] = []
        total = 0
        wanted = text.casefold()
        with self._read() as txn:
            for name, identifier in self._all(txn, kind):
                if wanted and wanted not in name.decode().casefold():
                    continue
                if offset <= total < offset + limit:
                    ids.append(identifier.decode())
                total += 1
            found = [self._load(txn, identifier) for identifier in ids]
        return [entity for entity in found if entity is not None], total

    def nearest(self, kind: Kind, name: str) -> str | None:
        """The name most like ``name``, of the first 20,000, or None if none is alike."""
        by_fold: dict[str, str] = {}
        with self._read() as txn:
            for known, _ in self._all(txn, kind):
                if len(by_fold) >= MOST_COMPARED:
                    break
                by_fold[known.decode().casefold()] = known.decode()
        near = difflib.get_close_matches(name.casefold(), list(by_fold), n=1)
        return by_fold[near[0]] if near else None
