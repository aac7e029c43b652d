"""The index: names, parents and counts of what the directory holds, kept within its transactions.

Pages come in the order of names and only what is shown is decoded; nobody scans all entities.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bifrost.errors import Conflict
from bifrost.governance.entities import Entity, Kind, is_name, kind_of
from bifrost.governance.parents import PARENTS

if TYPE_CHECKING:
    import lmdb

    from bifrost.governance.environment import Environment

FORM = b"1"


def parent_id(kind: Kind, entity: Entity) -> str | None:
    """The id of what an entity belongs to, or None."""
    for parent in PARENTS[kind]:
        identifier: str | None = getattr(entity, f"{parent}_id")
        if identifier:
            return identifier
    return None


def put_sorted(txn: lmdb.Transaction, tree: Any, pairs: list[tuple[bytes, bytes]]) -> None:
    """Puts many pairs into a tree in its own order, which touches each of its pages once."""
    with txn.cursor(db=tree) as cursor:
        cursor.putmulti(sorted(pairs))


class Index:
    """The trees beside the entities: ``names`` (kind NUL name -> id), ``children`` (parent NUL
    child), and how many there are of each kind. Every method works inside the caller's transaction.
    """

    def __init__(self, env: Environment) -> None:
        self._names: Any = env.open_db(b"names")
        self._children: Any = env.open_db(b"children")
        self._counts: Any = env.open_db(b"counts")

    # -- names -----------------------------------------------------------------------------

    @staticmethod
    def _key(kind: Kind, name: str) -> bytes:
        return f"{kind}\0{name}".encode()

    def find(self, txn: lmdb.Transaction, kind: Kind, name: str) -> str | None:
        """The id of the entity with this name, or None."""
        found = txn.get(self._key(kind, name), db=self._names) if is_name(name) else None
        return bytes(found).decode() if found else None

    def take_name(self, txn: lmdb.Transaction, kind: Kind, name: str, identifier: str) -> None:
        """Gives a name to an entity; raises Conflict when it is no name or another's."""
        if not is_name(name):
            raise Conflict("A name needs 1 to 200 printable characters (at most 480 bytes).")
        key = self._key(kind, name)
        if not txn.put(key, identifier.encode(), db=self._names, overwrite=False):
            raise Conflict(f"There is already a {kind.replace('_', ' ')} named {name!r}.")

    def add(self, txn: lmdb.Transaction, kind: Kind, entities: Sequence[Entity]) -> None:
        """Takes up many new entities, whose names are known to be free, in the trees' order."""
        names = [(self._key(kind, one.name), one.id.encode()) for one in entities]
        children = [
            (f"{parent}\0{one.id}".encode(), b"")
            for one in entities
            if (parent := parent_id(kind, one))
        ]
        put_sorted(txn, self._names, names)
        put_sorted(txn, self._children, children)
        self._add(txn, kind, len(entities))

    def free_name(self, txn: lmdb.Transaction, kind: Kind, name: str) -> None:
        """Lets another entity have this name."""
        txn.delete(self._key(kind, name), db=self._names)

    def by_name(
        self, txn: lmdb.Transaction, kind: Kind, after: str | None = None
    ) -> Iterator[tuple[str, str]]:
        """(name, id) of everything of a kind, in the order of names, behind ``after``."""
        prefix = self._key(kind, "")
        with txn.cursor(db=self._names) as cursor:
            # No name holds a NUL, so nothing lies between a name and that name with one behind.
            start = prefix if after is None else self._key(kind, after) + b"\0"
            if not cursor.set_range(start):
                return
            pairs: Iterator[Any] = iter(cursor)
            for key, identifier in pairs:
                if not key.startswith(prefix):
                    return
                yield key[len(prefix) :].decode(), identifier.decode()

    # -- parents and counts ------------------------------------------------------------------

    def move(self, txn: lmdb.Transaction, old: Entity | None, new: Entity | None) -> None:
        """Follows an entity from what it was (None: it is new) to what it is (None: removed)."""
        one = new or old
        kind = kind_of(one.id) if one is not None else None
        if kind is None:
            return
        before = parent_id(kind, old) if old is not None else None
        after = parent_id(kind, new) if new is not None else None
        if old is not None and before != after:
            self._unlink(txn, before, old)
        if new is not None and before != after:
            self._link(txn, after, new)
        if old is None or new is None:
            self._add(txn, kind, 1 if old is None else -1)

    def _link(self, txn: lmdb.Transaction, parent: str | None, entity: Entity) -> None:
        if parent:
            txn.put(f"{parent}\0{entity.id}".encode(), b"", db=self._children)

    def _unlink(self, txn: lmdb.Transaction, parent: str | None, entity: Entity) -> None:
        if parent:
            txn.delete(f"{parent}\0{entity.id}".encode(), db=self._children)

    def children(self, txn: lmdb.Transaction, identifier: str) -> Iterator[tuple[Kind, str]]:
        """(kind, id) of everything that belongs directly to an entity."""
        prefix = f"{identifier}\0".encode()
        with txn.cursor(db=self._children) as cursor:
            if cursor.set_range(prefix):
                keys: Iterator[Any] = cursor.iternext(keys=True, values=False)
                for key in keys:
                    if not key.startswith(prefix):
                        return
                    child = key[len(prefix) :].decode()
                    kind = kind_of(child)
                    if kind is not None:
                        yield kind, child

    def count(self, txn: lmdb.Transaction, kind: Kind) -> int:
        """How many entities of a kind there are."""
        return int.from_bytes(txn.get(kind.encode(), b"", db=self._counts), "big")

    def _add(self, txn: lmdb.Transaction, kind: Kind, more: int) -> None:
        count = self.count(txn, kind) + more
        txn.put(kind.encode(), count.to_bytes(8, "big"), db=self._counts)

    # -- a store from before there was an index ----------------------------------------------

    def is_whole(self, txn: lmdb.Transaction) -> bool:
        """Whether the index covers what is stored."""
        return bool(txn.get(b"form", db=self._counts) == FORM)

    def rebuild(self, txn: lmdb.Transaction, entities: Iterable[Entity]) -> None:
        """Makes children and counts anew from all entities."""
        txn.drop(self._children, delete=False)
        txn.drop(self._counts, delete=False)
        for entity in entities:
            self.move(txn, None, entity)
        txn.put(b"form", FORM, db=self._counts)
