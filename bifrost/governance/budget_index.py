"""The index of budgets: from a budget's id to the entity that has it, beside the directory."""

from __future__ import annotations

from collections.abc import Iterable

import lmdb

from bifrost.governance.entities import Entity
from bifrost.governance.environment import Environment


class BudgetIndex:
    """Kept in the transactions that store and remove entities."""

    def __init__(self, env: Environment) -> None:
        self._db = env.open_db(b"budgets")

    def owner(self, txn: lmdb.Transaction, budget_id: str) -> str | None:
        """The id of the entity that has this budget, or None."""
        key = budget_id.encode("utf-8", "replace")
        found = txn.get(key, db=self._db) if 0 < len(key) <= 64 else None
        return bytes(found).decode() if found is not None else None

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

    def build(self, txn: lmdb.Transaction, entities: Iterable[Entity]) -> None:
        """Takes up what an older version stored without it."""
        for entity in entities:
            self.move(txn, None, entity)
