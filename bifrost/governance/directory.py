"""The directory: who there is. Customers, teams, users and virtual keys in a synchronous LMDB.

Every acknowledged change is on disk; several processes may hold it open. A change moves the policy
epoch, a number in a page shared by all processes, so that cached grants are dropped at once.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blake3
import lmdb
import msgspec

from bifrost.errors import Conflict, NotFound, StoreError
from bifrost.governance.budget_index import BudgetIndex
from bifrost.governance.entities import (
    PREFIX,
    TYPES,
    Budget,
    Entity,
    Kind,
    VirtualKey,
    change_of,
    expected,
    is_name,
    kind_of,
    new_id,
    new_secret,
)
from bifrost.governance.epoch import shared_page
from bifrost.governance.master_key import lookup_key, replay_key
from bifrost.governance.pages import Pages
from bifrost.governance.parents import PARENTS, resolved
from bifrost.governance.price_list import PriceList
from bifrost.governance.replays import Once, Replays

Record = Callable[[str, Kind, Entity | None, Entity | None], None]


class Directory:
    """The entity store of one data directory; raises StoreError when it cannot be opened.

    ``record(action, kind, before, after)`` is called inside each transaction that changes an
    entity (action: create, update, delete, rotate, revoke); if it raises, nothing is changed.
    """

    def __init__(self, data_dir: Path, record: Record | None = None) -> None:
        self.path = data_dir / "config"
        self._record = record
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(self.path), max_dbs=8, map_size=1 << 30, mode=0o600, max_readers=512
            )
            self._env.reader_check()  # slots of processes that were killed
            self._entities = self._env.open_db(b"entities")
            self._names = self._env.open_db(b"names")
            self._digests = self._env.open_db(b"digests")
            self._meta = self._env.open_db(b"meta")
            self._budgets = BudgetIndex(self._env)
            self._replays = Replays(self._env)
            self.pages = Pages(self._names, self._read, self._load)
            self.prices = PriceList(self._read, self._write, self._meta, self._replays)
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"Cannot open the directory store in {self.path}: {error}") from error
        try:
            self._hash_key = lookup_key(data_dir / "master.key")
            self._replay_key = replay_key(data_dir / "master.key")
            self._epoch_page = shared_page(self.path / "epoch")
            self._epoch = memoryview(self._epoch_page).cast("Q")
            self._check_key(data_dir / "master.key")
            self._index_budgets()
        except BaseException:
            self._env.close()
            raise

    def _check_key(self, path: Path) -> None:
        """Refuses a master key other than the one the stored virtual keys were hashed with."""
        proof = self.digest(b"master key")
        known = self.meta("master_key_proof")
        if known is None:
            self.set_meta("master_key_proof", proof)
        elif known != proof:
            raise StoreError(
                f"{path} is not the key this directory was made with; restore it from a backup."
            )

    def close(self) -> None:
        """Closes the store; the object is not usable afterwards."""
        self._epoch.release()  # the page itself goes with its last reader
        self._env.close()

    def epoch(self) -> int:
        """A number that moves with every change made by any process (a memory read)."""
        return self._epoch[0]

    @property
    def epoch_page(self) -> mmap.mmap:
        """The shared page that begins with the epoch, for readers in compiled code."""
        return self._epoch_page

    def revision(self) -> int:
        """The store's own transaction number: moves even if a writer died before the epoch did."""
        return int(self._env.info()["last_txnid"])

    def digest(self, secret: bytes) -> bytes:
        """The keyed BLAKE3 under which a virtual key is stored."""
        return blake3.blake3(secret, key=self._hash_key).digest()

    @contextmanager
    def _write(self, once: Once | None = None) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin(write=True) as txn:
                self._replays.begin(txn, once)
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"Cannot write the directory store in {self.path}: {error}") from error
        stamp = time.time_ns()
        self._epoch[0] = max(self._epoch[0] + 1, stamp)

    @contextmanager
    def _read(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"Cannot read the directory store in {self.path}: {error}") from error

    # -- reading ---------------------------------------------------------------------------

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
        identifier = None
        if is_name(reference):
            identifier = txn.get(f"{kind}\0{reference}".encode(), db=self._names)
        return self._load(txn, bytes(identifier).decode()) if identifier else None

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

    def _index_budgets(self) -> None:
        """A directory of an older version gets its index of budgets, once."""
        if self.meta("budgets_indexed") is not None:
            return
        with self._write() as txn:
            for kind in TYPES:
                self._budgets.build(txn, self._all(txn, kind))
            txn.put(b"budgets_indexed", b"1", db=self._meta)

    def all(self, kind: Kind) -> list[Entity]:
        """Every entity of a kind, by name."""
        with self._read() as txn:
            return sorted(self._all(txn, kind), key=lambda entity: entity.name)

    def _all(self, txn: lmdb.Transaction, kind: Kind) -> Iterator[Entity]:
        prefix = PREFIX[kind].encode()
        with txn.cursor(db=self._entities) as cursor:
            if cursor.set_range(prefix):
                for key, raw in cursor:
                    if not bytes(key).startswith(prefix):
                        break
                    yield msgspec.msgpack.decode(raw, type=TYPES[kind])

    def chain(self, entity: Entity) -> list[tuple[Kind, Entity]]:
        """The entity and everything above it, in the fixed order key, user, team, customer."""
        levels: list[tuple[Kind, Entity]] = []
        with self._read() as txn:
            current: Entity | None = entity
            while current is not None:
                kind = kind_of(current.id)
                assert kind is not None
                levels.append((kind, current))
                current = self._parent(txn, kind, current)
        return levels

    def _parent(self, txn: lmdb.Transaction, kind: Kind, entity: Entity) -> Entity | None:
        for parent in PARENTS[kind]:
            identifier = getattr(entity, f"{parent}_id")
            if identifier:
                found = self._load(txn, identifier)
                if found is None:
                    raise StoreError(f"{entity.id} refers to {identifier}, which is not stored.")
                return found
        return None

    # -- changing --------------------------------------------------------------------------

    def create(self, kind: Kind, name: str, *, once: Once | None = None, **fields: Any) -> Entity:
        """Stores a new entity; parents, ``customer=``, ``team=``, ``user=``, are ids or names.

        Raises Conflict when the name is taken or the parents contradict, NotFound for a parent;
        Replayed and Reused when ``once`` was asked for before.
        """
        with self._write(once) as txn:
            return self._replays.end(txn, once, self._create(txn, kind, name, fields))

    def once(self, name: bytes, content: bytes, answer: Callable[[Any], bytes]) -> Once:
        """What makes ``create``, ``create_key``, ``rotate`` or a price happen once under a name.

        Raises Replayed and Reused as they do.
        """
        made = Once(self._replay_key, name, content, answer)
        with self._read() as txn:
            self._replays.begin(txn, made)
        return made

    def _create(
        self, txn: lmdb.Transaction, kind: Kind, name: str, fields: dict[str, Any]
    ) -> Entity:
        now = time.time_ns()
        fields = resolved(kind, fields, lambda *one: self._find(txn, *one))
        entity = TYPES[kind](id=new_id(kind), name=name, created_at=now, updated_at=now, **fields)
        self._take_name(txn, kind, name, entity.id)
        self._store(txn, entity)
        return entity

    def _take_name(self, txn: lmdb.Transaction, kind: Kind, name: str, identifier: str) -> None:
        if not is_name(name):
            raise Conflict("A name needs 1 to 200 printable characters (at most 480 bytes).")
        key = f"{kind}\0{name}".encode()
        if not txn.put(key, identifier.encode(), db=self._names, overwrite=False):
            raise Conflict(f"There is already a {kind.replace('_', ' ')} named {name!r}.")

    def update(
        self, kind: Kind, reference: str, *, expect: Entity | None = None, **changes: Any
    ) -> Entity:
        """Changes fields of a stored entity; nothing is written when nothing differs.

        Raises Conflict and NotFound as ``create`` does, Stale if it is not as ``expect`` any more;
        a revoked key cannot be made active again.
        """
        with self._write() as txn:
            old = expected(self._get(txn, kind, reference), expect)
            if isinstance(old, VirtualKey) and changes.get("is_active"):
                self._require_live(old)
            changes = resolved(kind, changes, lambda *one: self._find(txn, *one))
            name = changes.get("name", old.name)
            if name != old.name:
                self._take_name(txn, kind, name, old.id)
                txn.delete(f"{kind}\0{old.name}".encode(), db=self._names)
            new = msgspec.structs.replace(old, **changes)
            if new != old:
                new = msgspec.structs.replace(new, updated_at=time.time_ns())
                self._store(txn, new, old)
        return new

    def change_budget(
        self, budget_id: str, change: Callable[[Budget], Budget]
    ) -> tuple[Kind, Entity]:
        """Replaces a budget by ``change`` of it in one transaction; returns its owner then.

        Raises NotFound, and what ``change`` raises, which changes nothing.
        """
        with self._write() as txn:
            kind, old = self._budget_owner(txn, budget_id)
            budgets = tuple(change(one) if one.id == budget_id else one for one in old.budgets)
            new = msgspec.structs.replace(old, budgets=budgets, updated_at=time.time_ns())
            self._store(txn, new, old)
        return kind, new

    def delete(self, kind: Kind, reference: str, *, expect: Entity | None = None) -> Entity:
        """Removes an entity; raises Conflict while others belong to it, Stale as ``update``."""
        with self._write() as txn:
            entity = expected(self._get(txn, kind, reference), expect)
            children = [
                f"{child_kind.replace('_', ' ')} {child.name!r}"
                for child_kind, parents in PARENTS.items()
                if kind in parents
                for child in self._all(txn, child_kind)
                if getattr(child, f"{kind}_id") == entity.id
            ]
            if children:
                some = ", ".join(sorted(children)[:5])
                raise Conflict(f"{entity.name!r} still has {some}; remove or move them first.")
            txn.delete(entity.id.encode(), db=self._entities)
            self._budgets.move(txn, entity, None)
            txn.delete(f"{kind}\0{entity.name}".encode(), db=self._names)
            if isinstance(entity, VirtualKey) and entity.digest:
                txn.delete(bytes.fromhex(entity.digest), db=self._digests)
            self._changed(entity, None)
        return entity

    def create_key(
        self, name: str, *, secret: str | None = None, once: Once | None = None, **fields: Any
    ) -> tuple[VirtualKey, str]:
        """Stores a new virtual key and returns it with its secret, which is kept nowhere."""
        secret = secret or (once.secret if once else new_secret())
        digest = self.digest(secret.encode())
        with self._write(once) as txn:
            self._require_new(txn, digest)
            fields |= {"digest": digest.hex(), "hint": secret[-4:]}
            key = self._replays.end(txn, once, self._create(txn, "virtual_key", name, fields))
        assert isinstance(key, VirtualKey)
        return key, secret

    def rotate(
        self, reference: str, *, secret: str | None = None, expect: Entity | None = None,
        once: Once | None = None,
    ) -> tuple[VirtualKey, str]:  # fmt: skip
        """Gives a key a new secret; the old one stops working at once. Conflict when revoked."""
        secret = secret or (once.secret if once else new_secret())
        digest = self.digest(secret.encode())
        with self._write(once) as txn:
            old = expected(self._get(txn, "virtual_key", reference), expect)
            assert isinstance(old, VirtualKey)
            self._require_live(old)
            if digest.hex() == old.digest:
                return old, secret
            self._require_new(txn, digest)
            new = self._sealed(txn, old, digest=digest.hex(), hint=secret[-4:])
            self._replays.end(txn, once, new)
        return new, secret

    def revoke(self, reference: str) -> VirtualKey:
        """Makes a key unknown for ever; its row stays for the reports."""
        with self._write() as txn:
            old = self._get(txn, "virtual_key", reference)
            assert isinstance(old, VirtualKey)
            return self._sealed(txn, old, digest="", hint="", is_active=False)

    def _sealed(self, txn: lmdb.Transaction, old: VirtualKey, **changes: Any) -> VirtualKey:
        """The key with another secret or none; the old secret is forgotten."""
        if old.digest:
            txn.delete(bytes.fromhex(old.digest), db=self._digests)
        new = msgspec.structs.replace(old, updated_at=time.time_ns(), **changes)
        self._store(txn, new, old)
        return new

    def _require_new(self, txn: lmdb.Transaction, digest: bytes) -> None:
        other = self._by_digest(txn, digest)
        if other is not None:
            raise Conflict(f"Virtual key {other.name!r} already has this value.")

    @staticmethod
    def _require_live(key: VirtualKey) -> None:
        if not key.digest:
            raise Conflict(f"Virtual key {key.name!r} was revoked for ever; create a new one.")

    def meta(self, name: str) -> bytes | None:
        """A stored fact about the data directory itself."""
        with self._read() as txn:
            value = txn.get(name.encode(), db=self._meta)
        return bytes(value) if value is not None else None

    def set_meta(self, name: str, value: bytes, *, overwrite: bool = False) -> bool:
        """Stores such a fact, by default only if it is not there yet; tells whether it did."""
        with self._write() as txn:
            return bool(txn.put(name.encode(), value, db=self._meta, overwrite=overwrite))

    def _changed(self, before: Entity | None, after: Entity | None) -> None:
        """Tells the recorder what happened to an entity."""
        if self._record is not None:
            self._record(*change_of(before, after), before, after)

    def _store(self, txn: lmdb.Transaction, entity: Entity, old: Entity | None = None) -> None:
        self._changed(old, entity)
        txn.put(entity.id.encode(), msgspec.msgpack.encode(entity), db=self._entities)
        self._budgets.move(txn, old, entity)
        if isinstance(entity, VirtualKey) and entity.digest:
            txn.put(bytes.fromhex(entity.digest), entity.id.encode(), db=self._digests)
