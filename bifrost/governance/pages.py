"""Pages of a kind of entity by name, found by a part of a name; and the name that was meant."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

from bifrost.governance.budget_index import BudgetIndex
from bifrost.governance.entities import Budget, Entity, Kind
from bifrost.governance.index import Index

if TYPE_CHECKING:
    import lmdb

BREATH = 256  # rows between two pauses in which other threads of the process may run
MOST_COMPARED = 20_000


class Pages:
    """Reads the index of names; ``load`` reads an entity by its id."""

    def __init__(
        self,
        index: Index,
        budgets: BudgetIndex,
        read: Callable[[], AbstractContextManager[lmdb.Transaction]],
        load: Callable[[lmdb.Transaction, str], Entity | None],
    ) -> None:
        self._index = index
        self._budgets = budgets
        self._read = read
        self._load = load

    def _all(self, txn: lmdb.Transaction, kind: Kind) -> Iterator[tuple[str, str]]:
        for number, pair in enumerate(self._index.by_name(txn, kind)):
            if number % BREATH == 0:
                time.sleep(0)
            yield pair

    def page(
        self, kind: Kind, *, text: str = "", limit: int, offset: int = 0
    ) -> tuple[list[Entity], int]:
        """The entities of one page of those whose names hold ``text`` in any case, by name; and
        how many these are in all. Raises StoreError."""
        with self._read() as txn:
            if text:
                ids, total = self._holding(txn, kind, text.casefold(), limit, offset)
            else:
                total = self._index.count(txn, kind)
                pairs = self._all(txn, kind) if offset < total else iter(())
                ids = [identifier for _, identifier in islice(pairs, offset, offset + limit)]
            found = [self._load(txn, identifier) for identifier in ids]
        return [entity for entity in found if entity is not None], total

    def _holding(
        self, txn: lmdb.Transaction, kind: Kind, text: str, limit: int, offset: int
    ) -> tuple[list[str], int]:
        ids: list[str] = []
        total = 0
        for name, identifier in self._all(txn, kind):
            if text in name.casefold():
                if offset <= total < offset + limit:
                    ids.append(identifier)
                total += 1
        return ids, total

    def budgets(
        self, kinds: Sequence[Kind], *, text: str = "", limit: int, offset: int = 0
    ) -> tuple[list[tuple[Kind, Entity, Budget]], int]:
        """The budgets of one page, by kind and name of their owners, of those owners whose names
        hold ``text`` in any case; and how many these are in all. Raises StoreError."""
        page: list[tuple[Kind, Entity, Budget]] = []
        total = 0
        with self._read() as txn:
            for kind in kinds:
                count = self._budgets.count(txn, kind)
                if not text and (total + count <= offset or total >= offset + limit):
                    total += count  # none of them is shown, so none is read
                    continue
                wanted = (offset - total, offset + limit - total)
                found, seen = self._owned(txn, kind, text.casefold(), *wanted)
                page += found
                total += seen if text else count
        return page, total

    def _owned(
        self, txn: lmdb.Transaction, kind: Kind, text: str, start: int, end: int
    ) -> tuple[list[tuple[Kind, Entity, Budget]], int]:
        """The budgets number ``start`` to ``end`` of a kind, and how many were looked at."""
        page: list[tuple[Kind, Entity, Budget]] = []
        seen = 0
        for number, (name, identifier) in enumerate(self._budgets.owners(txn, kind)):
            if number % BREATH == 0:
                time.sleep(0)
            if text not in name.casefold():
                continue
            entity = self._load(txn, identifier)
            for budget in entity.budgets if entity is not None else ():
                if start <= seen < end and entity is not None:
                    page.append((kind, entity, budget))
                seen += 1
            if seen >= end and not text:
                break
        return page, seen

    def nearest(self, kind: Kind, name: str) -> str | None:
        """The name most like ``name``, of the first 20,000, or None if none is alike."""
        by_fold: dict[str, str] = {}
        with self._read() as txn:
            for known, _ in self._all(txn, kind):
                if len(by_fold) >= MOST_COMPARED:
                    break
                by_fold[known.casefold()] = known
        near = difflib.get_close_matches(name.casefold(), list(by_fold), n=1)
        return by_fold[near[0]] if near else None
