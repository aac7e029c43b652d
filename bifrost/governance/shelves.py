"""The shelves: reading the directory, one entity, one page or one chain at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bifrost.errors import NotFound, StoreError
from bifrost.governance.budget_index import BudgetIndex
from bifrost.governance.entities import PREFIX, TYPES, Entity, Kind, VirtualKey, kind_of
from bifrost.governance.environment import Environment
from bifrost.governance.index import Index, parent_id
from bifrost.governance.pages import Pages

if TYPE_CHECKING:
    import lmdb

CHUNK = 1_000  # entities that ``each`` holds at a time


class Shelves:
    """What a directory can tell; every failure of the store is a StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._env = Environment(path)
        self._entities: Any = self._env.open_db(b"entities")
        self._digests: Any = self._env.open_db(b"digests")
        self._meta: Any = self._env.open_db(b"meta")
        self._budgets = BudgetIndex(self._env)
        self._index = Index(self._env)
        self.pages = Pages(self._index, self._budgets, self._read, self._load)

    def _read(self) -> AbstractContextManager[lmdb.Transaction]:
        return self._env.read()

    def _load(self, txn: lmdb.Transaction, identifier: str) -> Entity | None:
        raw = txn.get(identifier.encode(), db=self._entities)
        kind = kind_of(identifier)
        if raw is None or kind is None:
            return None
        return msgspec.msgpack.decode(raw, type=TYPES[kind])

    def find(self, kind: Kind, reference: str) -> Entity | None:
        """The entity with this id or name, or None."""
        with self._read() as txn:
            return self._find(txn, kind, reference)

    def _find(self, txn: lmdb.Transaction, kind: Kind, reference: str) -> Entity | None:
        if kind_of(reference) == kind:
            found = self._load(txn, reference)
            if found is not None:
                return found
        identifier = self._index.find(txn, kind, reference)
        return self._load(txn, identifier) if identifier else None

    def get(self, kind: Kind, reference: str) -> Entity:
        """The entity with this id or name; raises NotFound."""
        with self._read() as txn:
            return self._get(txn, kind, reference)

    def _get(self, txn: lmdb.Transaction, kind: Kind, reference: str) -> Entity:
        found = self._find(txn, kind, reference)
        if found is None:
            raise NotFound(f"There is no {kind.replace('_', ' ')} {reference!r}.")
        return found

    def by_digest(self, digest: bytes) -> VirtualKey | None:
        """The virtual key stored under this digest, or None."""
        with self._read() as txn:
            return self._by_digest(txn, digest)

    def _by_digest(self, txn: lmdb.Transaction, digest: bytes) -> VirtualKey | None:
        identifier = txn.get(digest, db=self._digests)
        found = self._load(txn, bytes(identifier).decode()) if identifier else None
        return found if isinstance(found, VirtualKey) else None

    def budget_owner(self, budget_id: str) -> tuple[Kind, Entity]:
        """Who has the budget with this id; raises NotFound."""
        with self._read() as txn:
            return self._budget_owner(txn, budget_id)

    def _budget_owner(self, txn: lmdb.Transaction, budget_id: str) -> tuple[Kind, Entity]:
        identifier = self._budgets.owner(txn, budget_id)
        entity = self._load(txn, identifier) if identifier is not None else None
        kind = kind_of(entity.id) if entity is not None else None
        if entity is None or kind is None:
            raise NotFound(f"There is no budget {budget_id[:64]!r}.")
        return kind, entity

    def all(self, kind: Kind) -> list[Entity]:
        """Every entity of a kind, by name; ``each`` and ``pages`` where there may be many."""
        return list(self.each(kind))

    def each(self, kind: Kind) -> Iterator[Entity]:
        """Every entity of a kind, by name, a thousand at a time: a change meanwhile may be seen."""
        after = None
        while True:
            with self._read() as txn:
                pairs = list(islice(self._index.by_name(txn, kind, after), CHUNK))
                chunk = [self._load(txn, identifier) for _, identifier in pairs]
            yield from (entity for entity in chunk if entity is not None)
            if len(pairs) < CHUNK:
                return
            after = pairs[-1][0]

    def count(self, kind: Kind) -> int:
        """How many entities of a kind there are; reads one number."""
        with self._read() as txn:
            return self._index.count(txn, kind)

    def children(self, identifier: str, limit: int) -> list[Entity]:
        """Up to ``limit`` of the entities that belong directly to the one with this id."""
        with self._read() as txn:
            some = islice(self._index.children(txn, identifier), limit)
            found = (self._load(txn, child) for _, child in some)
            return [entity for entity in found if entity is not None]

    def _named(self, txn: lmdb.Transaction, kind: Kind, identifier: str) -> str:
        entity = self._load(txn, identifier)
        return f"{kind.replace('_', ' ')} {(entity.name if entity else identifier)!r}"

    def _everybody(self, txn: lmdb.Transaction) -> Iterator[Entity]:
        """Every entity, by id, without the index."""
        for kind, form in TYPES.items():
            prefix = PREFIX[kind].encode()
            with txn.cursor(db=self._entities) as cursor:
                if cursor.set_range(prefix):
                    for key, raw in cursor:
                        if not bytes(key).startswith(prefix):
                            break
                        yield msgspec.msgpack.decode(raw, type=form)

    def chain(self, entity: Entity) -> list[tuple[Kind, Entity]]:
        """The entity and everything above it, in the fixed order key, user, team, customer."""
        with self._read() as txn:
            return self._chain(txn, entity, {})

    def lineage(self, digest: bytes, known: dict[str, Entity]) -> list[tuple[Kind, Entity]]:
        """The virtual key with this digest and everything above it; empty if there is none.

        Who is in ``known``, by id, is taken from there; who is read is put there.
        """
        with self._read() as txn:
            key = self._by_digest(txn, digest)
            return self._chain(txn, key, known) if key is not None else []

    def _chain(
        self, txn: lmdb.Transaction, entity: Entity, known: dict[str, Entity]
    ) -> list[tuple[Kind, Entity]]:
        levels: list[tuple[Kind, Entity]] = []
        current: Entity | None = entity
        while current is not None:
            kind = kind_of(current.id)
            assert kind is not None
            levels.append((kind, current))
            identifier = parent_id(kind, current)
            current = known.get(identifier) if identifier else None
            if identifier and current is None:
                current = known[identifier] = self._stored(txn, identifier, levels[-1][1])
        return levels

    def _stored(self, txn: lmdb.Transaction, identifier: str, child: Entity) -> Entity:
        found = self._load(txn, identifier)
        if found is None:
            raise StoreError(f"{child.id} refers to {identifier}, which is not stored.")
        return found

    def meta(self, name: str) -> bytes | None:
        """A stored fact about the data directory itself."""
        with self._read() as txn:
            value = txn.get(name.encode(), db=self._meta)
        return bytes(value) if value is not None else None
