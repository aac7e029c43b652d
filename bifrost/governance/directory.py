"""The directory: who there is. Customers, teams, users and virtual keys in a synchronous LMDB.

Every acknowledged change is on disk; several processes may hold it open. A change moves the policy
epoch and tells all processes which entities it touched (``bulletin``), so that what they remember
of these is dropped at once.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blake3
import msgspec

from bifrost.errors import Conflict, StoreError
from bifrost.governance.batch import Batch
from bifrost.governance.budget_index import FORM
from bifrost.governance.bulletin import EVERYBODY, Bulletin
from bifrost.governance.entities import (
    TYPES,
    Budget,
    Credential,
    Entity,
    Kind,
    VirtualKey,
    change_of,
    expected,
    id_number,
    new_id,
    new_secret,
)
from bifrost.governance.index import put_sorted
from bifrost.governance.master_key import lookup_key, replay_key
from bifrost.governance.parents import resolved
from bifrost.governance.price_list import PriceList
from bifrost.governance.replays import Once, Replays
from bifrost.governance.shelves import Shelves

if TYPE_CHECKING:
    import lmdb

Record = Callable[[str, str, Any, Any], None]
Turn = Callable[[], AbstractContextManager[Callable[[], None]]]


@contextmanager
def _unrecorded() -> Iterator[Callable[[], None]]:
    yield lambda: None


class Directory(Shelves):
    """The entity store of one data directory; raises StoreError when it cannot be opened.

    ``record(action, kind, before, after)`` is called inside each transaction that changes an
    entity (action: create, update, delete, rotate, revoke); if it raises, nothing is changed.
    ``turn()`` is entered around each of them; what it gives is called before the commit, and makes
    sure that what was recorded lasts, or raises.
    """

    def __init__(
        self, data_dir: Path, record: Record | None = None, turn: Turn = _unrecorded
    ) -> None:
        super().__init__(data_dir / "config")
        self._record = record
        self._turn = turn
        self._touched: list[int] = []
        try:
            self._replays = Replays(self._env)
            self.prices = PriceList(self._read, self._rewrite, self._meta, self._replays)
            self._hash_key = lookup_key(data_dir / "master.key")
            self._replay_key = replay_key(data_dir / "master.key")
            self._bulletin = Bulletin(self.path / "epoch")
            self._check_key(data_dir / "master.key")
            self._check_index()
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

    def _check_index(self) -> None:
        """A directory of an older version gets what is kept beside its entities, once."""
        if self.meta("budgets_indexed") != FORM:
            with self._write() as txn:
                self._budgets.build(txn, self._everybody(txn))
                txn.put(b"budgets_indexed", FORM, db=self._meta)
        with self._read() as txn:
            whole = self._index.is_whole(txn)
        if not whole:
            with self._write() as txn:
                self._index.rebuild(txn, self._everybody(txn))

    def close(self) -> None:
        """Closes the store; the object is not usable afterwards."""
        self._bulletin.close()
        self._env.close()

    def epoch(self) -> int:
        """A number that moves with every change made by any process (a memory read)."""
        return self._bulletin.epoch()

    @property
    def epoch_page(self) -> mmap.mmap:
        """The bulletin, which begins with the epoch, for readers in compiled code."""
        return self._bulletin.page

    def revision(self) -> int:
        """The store's own transaction number: moves even if a writer died before the epoch did."""
        return self._env.revision()

    def untold(self) -> int:
        """The store's revision if its writer did not tell of the change (it died), else 0."""
        revision = self._env.revision()
        return revision if revision > self._bulletin.revision() else 0

    def digest(self, secret: bytes) -> bytes:
        """The keyed BLAKE3 under which a virtual key is stored."""
        return blake3.blake3(secret, key=self._hash_key).digest()

    @contextmanager
    def _write(self, once: Once | None = None) -> Iterator[lmdb.Transaction]:
        with self._bulletin.turn():
            before = self._env.revision()
            self._touched = []
            with self._turn() as assure, self._env.write() as txn:
                self._replays.begin(txn, once)
                yield txn
                assure()
            self._bulletin.announce(self._touched, before, self._env.revision())

    @contextmanager
    def _rewrite(self, once: Once | None = None) -> Iterator[lmdb.Transaction]:
        """A change that concerns everybody: all that any process remembers is dropped."""
        with self._write(once) as txn:
            self._touched.append(EVERYBODY)
            yield txn

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
        self._index.take_name(txn, kind, name, entity.id)
        self._store(txn, entity)
        return entity

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
                self._index.take_name(txn, kind, name, old.id)
                self._index.free_name(txn, kind, old.name)
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
            some = list(islice(self._index.children(txn, entity.id), 5))
            if some:
                named = ", ".join(sorted(self._named(txn, *child) for child in some))
                raise Conflict(f"{entity.name!r} still has {named}; remove or move them first.")
            txn.delete(entity.id.encode(), db=self._entities)
            self._index.free_name(txn, kind, entity.name)
            if isinstance(entity, VirtualKey) and entity.digest:
                txn.delete(bytes.fromhex(entity.digest), db=self._digests)
            self._follow(txn, entity, None)
        return entity

    def create_key(
        self, name: str, *, secret: str | None = None, once: Once | None = None, **fields: Any
    ) -> tuple[VirtualKey, str]:
        """Stores a new virtual key and returns it with its secret, which is kept nowhere."""
        secret = secret or (once.secret if once else new_secret())
        with self._write(once) as txn:
            key = self._create_key(txn, name, secret, fields)
            return self._replays.end(txn, once, key), secret

    def create_keys(self, wanted: Sequence[tuple[str, str, dict[str, Any]]]) -> list[VirtualKey]:
        """Stores virtual keys given as (name, secret, fields as of ``create_key``), all or none.

        Made for many: each tree is written in its own order. Raises BadRows, which names every one
        that cannot be stored.
        """
        with self._write() as txn:
            batch = Batch(lambda kind, name: self._find(txn, kind, name))
            for name, secret, fields in wanted:
                digest = self.digest(secret.encode())
                known = txn.get(digest, db=self._digests) is not None
                batch.add(name, {**fields, "digest": digest.hex(), "hint": secret[-4:]}, known)
            keys = batch.whole()
            if self._record is not None:
                for key in keys:
                    self._record("create", "virtual_key", None, key)
            put_sorted(txn, self._entities, batch.entities())
            put_sorted(txn, self._digests, batch.digests())
            self._index.add(txn, "virtual_key", keys)
            self._budgets.add(txn, "virtual_key", keys)
        return keys

    def _create_key(
        self, txn: lmdb.Transaction, name: str, secret: str, fields: dict[str, Any]
    ) -> VirtualKey:
        digest = self.digest(secret.encode())
        self._require_new(txn, digest)
        hidden = {"digest": digest.hex(), "hint": secret[-4:]}
        key = self._create(txn, "virtual_key", name, fields | hidden)
        assert isinstance(key, VirtualKey)
        return key

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

    def set_meta(self, name: str, value: bytes, *, overwrite: bool = False) -> bool:
        """Stores such a fact, by default only if it is not there yet; tells whether it did."""
        with self._write() as txn:
            return bool(txn.put(name.encode(), value, db=self._meta, overwrite=overwrite))

    def set_credential(self, name: str, value: bytes, *, overwrite: bool) -> bool:
        """Stores the digest of an administrator's credential and records that; tells whether it
        did: not over one that is there, unless ``overwrite``."""
        with self._write() as txn:
            stored = txn.get(name.encode(), db=self._meta)
            if stored is not None and not overwrite:
                return False
            before = None if stored is None else Credential(id=name, digest=bytes(stored).hex())
            if self._record is not None:
                action = "create" if before is None else "rotate"
                self._record(action, name, before, Credential(id=name, digest=value.hex()))
            txn.put(name.encode(), value, db=self._meta)
            return True

    def _store(self, txn: lmdb.Transaction, entity: Entity, old: Entity | None = None) -> None:
        self._follow(txn, old, entity)
        txn.put(entity.id.encode(), msgspec.msgpack.encode(entity), db=self._entities)
        if isinstance(entity, VirtualKey) and entity.digest:
            txn.put(bytes.fromhex(entity.digest), entity.id.encode(), db=self._digests)

    def _follow(self, txn: lmdb.Transaction, before: Entity | None, after: Entity | None) -> None:
        """Tells the recorder what happened to an entity, and keeps what stands beside it."""
        if self._record is not None:
            self._record(*change_of(before, after), before, after)
        self._budgets.move(txn, before, after)
        self._index.move(txn, before, after)
        if before is not None:  # nobody remembers what is new
            self._touched.append(id_number(before.id))
