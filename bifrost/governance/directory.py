"""The directory: who there is. Customers, teams, users and virtual keys in a synchronous LMDB.

Every acknowledged change is on disk; several processes may hold it open. A change moves the policy
epoch, a number in a page shared by all processes, so that cached grants are dropped at once.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blake3
import lmdb
import msgspec

from bifrost.errors import Conflict, NotFound, StoreError
from bifrost.governance.entities import (
    PREFIX,
    Customer,
    Entity,
    Kind,
    Team,
    User,
    VirtualKey,
    new_id,
)
from bifrost.governance.master_key import lookup_key

TYPES: dict[Kind, type[Entity]] = {
    "customer": Customer,
    "team": Team,
    "user": User,
    "virtual_key": VirtualKey,
}
PARENTS: dict[Kind, tuple[Kind, ...]] = {
    "customer": (),
    "team": ("customer",),
    "user": ("team", "customer"),
    "virtual_key": ("user", "team", "customer"),
}
SECRET_PREFIX = "sk-bf-"
Record = Callable[[str, Kind, Entity | None, Entity | None], None]


def kind_of(identifier: str) -> Kind | None:
    """The kind an id belongs to by its prefix, or None if it is not an id."""
    for kind in TYPES:
        prefix = PREFIX[kind]
        if identifier.startswith(prefix) and len(identifier) == len(prefix) + 16:
            return kind
    return None


def is_name(text: str) -> bool:
    """Whether an entity can have this name (LMDB keys hold 511 bytes with the kind in front)."""
    if not text.isprintable() or text != text.strip():
        return False
    return 1 <= len(text) <= 200 and len(text.encode()) <= 480


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
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"Cannot open the directory store in {self.path}: {error}") from error
        try:
            self._hash_key = lookup_key(data_dir / "master.key")
            self._epoch_page = self._shared_page(self.path / "epoch")
            self._epoch = memoryview(self._epoch_page).cast("Q")
            self._check_key(data_dir / "master.key")
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

    @staticmethod
    def _shared_page(path: Path) -> mmap.mmap:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if os.fstat(descriptor).st_size < 8:
                os.ftruncate(descriptor, 8)
            return mmap.mmap(descriptor, 8)
        finally:
            os.close(descriptor)

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
    def _write(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin(write=True) as txn:
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

    def create(self, kind: Kind, name: str, **fields: Any) -> Entity:
        """Stores a new entity; parents, ``customer=``, ``team=``, ``user=``, are ids or names.

        Raises Conflict when the name is taken or the parents contradict, NotFound for a parent.
        """
        with self._write() as txn:
            return self._create(txn, kind, name, fields)

    def _create(
        self, txn: lmdb.Transaction, kind: Kind, name: str, fields: dict[str, Any]
    ) -> Entity:
        now = time.time_ns()
        fields = self._resolve_parents(txn, kind, fields)
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

    def update(self, kind: Kind, reference: str, **changes: Any) -> Entity:
        """Changes fields of a stored entity; nothing is written when nothing differs.

        Raises Conflict and NotFound as ``create`` does; a revoked key cannot be made active again.
        """
        with self._write() as txn:
            old = self._get(txn, kind, reference)
            if isinstance(old, VirtualKey) and changes.get("is_active"):
                self._require_live(old)
            changes = self._resolve_parents(txn, kind, changes)
            name = changes.get("name", old.name)
            if name != old.name:
                self._take_name(txn, kind, name, old.id)
                txn.delete(f"{kind}\0{old.name}".encode(), db=self._names)
            new = msgspec.structs.replace(old, **changes)
            if new != old:
                new = msgspec.structs.replace(new, updated_at=time.time_ns())
                self._store(txn, new)
        return new

    def delete(self, kind: Kind, reference: str) -> Entity:
        """Removes an entity; raises Conflict while others belong to it."""
        with self._write() as txn:
            entity = self._get(txn, kind, reference)
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
            txn.delete(f"{kind}\0{entity.name}".encode(), db=self._names)
            if isinstance(entity, VirtualKey) and entity.digest:
                txn.delete(bytes.fromhex(entity.digest), db=self._digests)
            self._changed(entity, None)
        return entity

    def create_key(
        self, name: str, *, secret: str | None = None, **fields: Any
    ) -> tuple[VirtualKey, str]:
        """Stores a new virtual key and returns it with its secret, which is kept nowhere."""
        secret = secret or SECRET_PREFIX + secrets.token_urlsafe(32)
        digest = self.digest(secret.encode())
        with self._write() as txn:
            self._require_new(txn, digest)
            fields |= {"digest": digest.hex(), "hint": secret[-4:]}
            key = self._create(txn, "virtual_key", name, fields)
        assert isinstance(key, VirtualKey)
        return key, secret

    def rotate(self, reference: str, *, secret: str | None = None) -> tuple[VirtualKey, str]:
        """Gives a key a new secret; the old one stops working at once. Conflict when revoked."""
        secret = secret or SECRET_PREFIX + secrets.token_urlsafe(32)
        digest = self.digest(secret.encode())
        with self._write() as txn:
            old = self._get(txn, "virtual_key", reference)
            assert isinstance(old, VirtualKey)
            self._require_live(old)
            if digest.hex() == old.digest:
                return old, secret
            self._require_new(txn, digest)
            new = self._sealed(txn, old, digest=digest.hex(), hint=secret[-4:])
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
        self._store(txn, new)
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

    def set_meta(self, name: str, value: bytes) -> bool:
        """Stores such a fact if it is not there yet; tells whether it did."""
        with self._write() as txn:
            return bool(txn.put(name.encode(), value, db=self._meta, overwrite=False))

    def _changed(self, before: Entity | None, after: Entity | None) -> None:
        """Tells the recorder what happened to an entity."""
        entity = after or before
        if self._record is None or entity is None:
            return
        kind = kind_of(entity.id)
        assert kind is not None
        action = "create" if before is None else "delete" if after is None else "update"
        if isinstance(before, VirtualKey) and isinstance(after, VirtualKey):
            if before.digest != after.digest:
                action = "rotate" if after.digest else "revoke"
        self._record(action, kind, before, after)

    def _store(self, txn: lmdb.Transaction, entity: Entity) -> None:
        if self._record is not None:
            self._changed(self._load(txn, entity.id), entity)
        txn.put(entity.id.encode(), msgspec.msgpack.encode(entity), db=self._entities)
        if isinstance(entity, VirtualKey) and entity.digest:
            txn.put(bytes.fromhex(entity.digest), entity.id.encode(), db=self._digests)

    def _resolve_parents(
        self, txn: lmdb.Transaction, kind: Kind, fields: dict[str, Any]
    ) -> dict[str, Any]:
        fields = dict(fields)
        named = [parent for parent in PARENTS[kind] if fields.get(parent)]
        if len(named) > 1:
            raise Conflict(f"A {kind.replace('_', ' ')} belongs to one of {' or '.join(named)}.")
        touched = False
        for parent in ("customer", "team", "user"):
            if parent in fields:
                reference = fields.pop(parent)
                if parent not in PARENTS[kind]:
                    raise Conflict(f"A {kind.replace('_', ' ')} cannot belong to a {parent}.")
                touched = True
                if reference:
                    found = self._find(txn, parent, reference)
                    if found is None:
                        raise NotFound(f"There is no {parent} {reference!r}.")
                    fields[f"{parent}_id"] = found.id
        if touched:  # a new owner replaces every old one
            for parent in PARENTS[kind]:
                fields.setdefault(f"{parent}_id", None)
        return fields
