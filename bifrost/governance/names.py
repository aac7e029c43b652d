"""The index of names: pages of a kind by name, a part of a name, the name that was meant."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from typing import Any

import lmdb

from bifrost.governance.entities import Kind

BREATH = 256  # rows between two pauses in which other threads of the process may run
MOST_COMPARED = 20_000


class Names:
    """Reads the tree of ``<kind> NUL <name>`` -> id."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree

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
        self, txn: lmdb.Transaction, kind: Kind, text: str, limit: int, offset: int
    ) -> tuple[list[str], int]:
        """The ids of one page of the names that hold ``text`` in any case, and their number."""
        ids: list[str] = []
        total = 0
        wanted = text.casefold()
        for name, identifier in self._all(txn, kind):
            if wanted and wanted not in name.decode().casefold():
                continue
            if offset <= total < offset + limit:
                ids.append(identifier.decode())
            total += 1
        return ids, total

    def nearest(self, txn: lmdb.Transaction, kind: Kind, name: str) -> str | None:
        """The name most like ``name``, of the first 20,000, or None if none is alike."""
        by_fold: dict[str, str] = {}
        for known, _ in self._all(txn, kind):
            if len(by_fold) >= MOST_COMPARED:
                break
            by_fold[known.decode().casefold()] = known.decode()
        near = difflib.get_close_matches(name.casefold(), list(by_fold), n=1)
        return by_fold[near[0]] if near else None
