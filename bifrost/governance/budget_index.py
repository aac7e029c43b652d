"""The index of budgets: who has which, how many there are, and owners by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bifrost.governance.entities import Entity, Kind, kind_of
from bifrost.governance.environment import Environment
from bifrost.governance.index import put_sorted

if TYPE_CHECKING:
    import lmdb

FORM = b"2"


class BudgetIndex:
    """Kept in the transactions that store and remove entities.

    ``budgets``: budget -> owner; ``budgeted``: kind NUL name of an owner -> its id, and the number
    of budgets of a kind under NUL kind.
    """

    def __init__(self, env: Environment) -> None:
        self._db: Any = env.open_db(b"budgets")
        self._owners: Any = env.open_db(b"budgeted")

    def owner(self, txn: lmdb.Transaction, budget_id: str) -> str | None:
        """The id of the entity that has this budget, or None."""
        key = budget_id.encode("utf-8", "replace")
        found = txn.get(key, db=self._db) if 0 < len(key) <= 64 else None
        return bytes(found).decode() if found is not None else None

    def count(self, txn: lmdb.Transaction, kind: Kind) -> int:
        """How many budgets the entities of a kind have."""
        return int.from_bytes(txn.get(b"\0" + kind.encode(), b"", db=self._owners), "big")

    def owners(self, txn: lmdb.Transaction, kind: Kind) -> Iterator[tuple[str, str]]:
        """(name, id) of every entity of a kind that has a budget, by name."""
        prefix = f"{kind}\0".encode()
        with txn.cursor(db=self._owners) as cursor:
            if cursor.set_range(prefix):
                pairs: Iterator[Any] = iter(cursor)
                for key, identifier in pairs:
                    if not key.startswith(prefix):
                        return
                    yield key[len(prefix) :].decode(), identifier.decode()

    def move(self, txn: lmdb.Transaction, old: Entity | None, new: Entity | None) -> None:
        """Follows an entity from what it was (None: it is new) to what it is (None: removed)."""
        before = old.budgets if old is not None else ()
        after = new.budgets if new is not None else ()
        for one in before:
            if all(one.id != kept.id for kept in after):
                txn.delete(one.id.encode(), db=self._db)
        for one in after:
            if new is not None and all(one.id != known.id for known in before):
                txn.put(one.id.encode(), new.id.encode(), db=self._db)
        entity = new or old
        kind = kind_of(entity.id) if entity is not None else None
        if kind is None:
            return
        if old is not None and before and (not after or new is None or new.name != old.name):
            txn.delete(f"{kind}\0{old.name}".encode(), db=self._owners)
        if new is not None and after and (not before or old is None or new.name != old.name):
            txn.put(f"{kind}\0{new.name}".encode(), new.id.encode(), db=self._owners)
        self._more(txn, kind, len(after) - len(before))

    def add(self, txn: lmdb.Transaction, kind: Kind, entities: Sequence[Entity]) -> None:
        """Takes up many new entities."""
        budgets = [(one.id.encode(), new.id.encode()) for new in entities for one in new.budgets]
        owners = [(f"{kind}\0{new.name}".encode(), new.id.encode())
                  for new in entities if new.budgets]  # fmt: skip
        put_sorted(txn, self._db, budgets)
        put_sorted(txn, self._owners, owners)
        self._more(txn, kind, len(budgets))

    def _more(self, txn: lmdb.Transaction, kind: Kind, more: int) -> None:
        if more:
            count = (self.count(txn, kind) + more).to_bytes(8, "big")
            txn.put(b"\0" + kind.encode(), count, db=self._owners)

    def build(self, txn: lmdb.Transaction, entities: Iterable[Entity]) -> None:
        """Takes up what an older version stored without it."""
        txn.drop(self._db, delete=False)
        txn.drop(self._owners, delete=False)
        for entity in entities:
            self.move(txn, None, entity)
