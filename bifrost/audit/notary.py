"""The notary: grows the tree behind the log and signs checkpoints. The steward employs it.

It signs only what is on the disk, and nothing that contradicts what was signed before. What goes
wrong here keeps no event from the log; entries are then not covered until it works again.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bifrost.audit import epochs, events, merkle
from bifrost.audit.epochs import CHECKPOINT, Keyring
from bifrost.audit.log import Reader
from bifrost.audit.notes import Checkpoint, NoteError, SigningKey
from bifrost.audit.parts import Parts, minimum_note
from bifrost.audit.tiles import FOLDER as TILES
from bifrost.audit.tiles import Growth, sync_folder, write_whole
from bifrost.errors import StoreError

log = logging.getLogger("bifrost.audit")
KEY_FILE = "audit-signing.key"
ANEW = "tile.anew"
EVERY_S = 1.0  # a checkpoint is signed after so long,
EVERY = 5_000  # or after so many entries
STRIDE = 8_192  # entries hashed at once when the tree is behind the log
MOST_WAITING = 1 << 16
EPOCH_S = 7 * 86_400.0


def key_path(data_dir: Path) -> Path:
    """Where the private key is: BIFROST_AUDIT_KEY, or a file in the data directory."""
    given = os.environ.get("BIFROST_AUDIT_KEY")
    return Path(given) if given else data_dir / KEY_FILE


class Notary:
    """Signs one log; whoever has it is the steward of the data directory."""

    def __init__(self, data_dir: Path, *, epoch_s: float = EPOCH_S) -> None:
        """``epoch_s``: how old a key gets before it hands over to a new one, in seconds."""
        self._reader = Reader(data_dir)
        self._folder = self._reader.folder
        self._key_file = key_path(data_dir)
        self._epoch_s = epoch_s
        self._tree: Growth | None = None
        self._signed = Checkpoint("", 0, merkle.EMPTY)
        self._signed_at = 0.0
        self._damage: StoreError | None = None
        self._key: SigningKey
        self._ring: Keyring

    def feed(self, first: int, entries: Sequence[bytes]) -> None:
        """Takes new entries of the log, already on the disk; what it cannot take it reads later."""
        tree = self._tree
        if tree is not None and first == tree.size and tree.waiting < MOST_WAITING:
            tree.add(merkle.leaves(entries))

    def work(self, end: int, append: Callable[[list[bytes]], int], *, now: bool = False) -> int:
        """Does what is due for a log of ``end`` entries; returns how many it caught up with.

        ``append`` adds entries to the log and feeds them. Raises StoreError, NoteError or OSError.
        """
        if self._damage is not None:
            raise self._damage
        try:
            if self._tree is None:
                self._open()
            tree = self._tree
            assert tree is not None
            read = self._catch_up(tree, end)
            if tree.size < end:
                return read
            new = tree.size - self._signed.size
            late = time.monotonic() - self._signed_at >= EVERY_S
            if new and (now or late or new >= EVERY):
                self._sign(tree)
                if self._is_old():
                    self._hand_over(tree, append)
            return read
        except BaseException:
            self._tree = None  # what is on the disk is not known any more
            raise

    def finish(self, end: int, append: Callable[[list[bytes]], int]) -> int:
        """Covers everything, for a clean stop, unless that would take long; raises as ``work``.

        Returns 0.
        """
        while self.work(end, append, now=True):
            if self._tree is None or end - self._tree.size > MOST_WAITING:
                break
        return 0

    @property
    def covered(self) -> int:
        """How many entries the newest checkpoint covers; 0 while nothing can be signed."""
        return self._signed.size if self._tree is not None else 0

    @property
    def origin(self) -> str:
        """The log's name; there is one as soon as anything is covered."""
        return self._ring.origin

    def minimum(self, index: int) -> str | None:
        """The note that lets entries before an index be gone; None while the key cannot sign it:
        it vouches for no checkpoint of the key before it."""
        if self.covered < max(index, self._ring.newest.after + 1):
            return None
        return minimum_note(self._key, index, self._signed)

    # -- opening -------------------------------------------------------------------------------

    def _open(self) -> None:
        self._open_key()
        path = self._folder / CHECKPOINT
        if not path.exists():
            if len(self._ring.epochs) > 1:
                raise StoreError(f"DAMAGED audit log: {path} is missing; restore it from a backup.")
            self._signed = Checkpoint(self._ring.origin, 0, merkle.EMPTY)
            self._tree = Growth(self._folder)
            return
        self._signed = self._ring.checked(epochs.text(path))
        try:
            tree = Growth(self._folder, self._signed.size)
            if tree.top() != self._signed.root:
                raise StoreError("The tree's hashes do not give the signed root.")
            self._tree = tree
        except StoreError as error:
            if Parts(self._folder).minimum():
                raise StoreError(
                    f"DAMAGED audit log: {error} Entries it was made of were removed when their "
                    "time was over, so it cannot be made anew: restore audit/tile from a backup."
                ) from error
            log.warning("the audit log's tree is made anew", extra={"reason": str(error)})
            shutil.rmtree(self._folder / ANEW, ignore_errors=True)
            self._tree = Growth(self._folder, name=ANEW)

    def _open_key(self) -> None:
        """Loads the keys, makes the first one, and ends a hand-over that was interrupted."""
        found = epochs.sources(self._folder)
        if not found:
            self._first_key()
            found = epochs.sources(self._folder)
        if (source := self._interrupted(len(found))) is not None:
            write_whole(epochs.path_of(self._folder, len(found) + 1), source.encode(), 0o644)
            found.append(source)
        self._ring = Keyring(found)
        key = _load(self._key_file)
        if key is None or key.public != self._ring.newest.key:
            waiting = _load(self._next_file)
            if waiting is not None and waiting.public == self._ring.newest.key:
                self._replace_key()
                key = waiting
        if key is None or key.public != self._ring.newest.key:
            raise StoreError(
                f"{self._key_file} is not the key that signs this audit log; put it back. Events "
                "are recorded meanwhile but not signed."
            )
        self._key = key

    def _first_key(self) -> None:
        if (self._folder / CHECKPOINT).exists():
            raise StoreError(
                f"DAMAGED audit log: {epochs.path_of(self._folder, 1)} is missing; restore it."
            )
        key = _load(self._key_file)
        if key is None:
            origin = os.environ.get("BIFROST_AUDIT_ORIGIN")
            key = SigningKey(origin or f"bifrost/audit/{secrets.token_hex(8)}", os.urandom(32))
            try:
                SigningKey.parse(key.text)
            except NoteError:
                raise StoreError(
                    f"BIFROST_AUDIT_ORIGIN is {origin!r}: a name without spaces and + is expected, "
                    "such as gw.example/audit/1."
                ) from None
            write_whole(self._key_file, f"{key.text}\n".encode())
        (self._folder / epochs.FOLDER).mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._folder)
        write_whole(epochs.path_of(self._folder, 1), f"{key.public.text}\n".encode(), 0o644)
        log.info("the audit log is signed", extra={"public_key": key.public.text})

    def _interrupted(self, number: int) -> str | None:
        """The hand-over of an epoch whose last checkpoint is signed but whose successor is not in
        its place: the last entry that checkpoint covers holds it."""
        path = epochs.last_path(self._folder, number)
        if not path.exists():
            return None
        last = Checkpoint.parse(epochs.text(path))
        for _, entry in self._reader.read(last.size - 1, 1):
            event = events.decode(entry)
            if isinstance(event, events.KeyHandover):
                return event.note
        raise StoreError(f"DAMAGED audit log: the hand-over before {path} is missing.")

    # -- the tree ------------------------------------------------------------------------------

    def _catch_up(self, tree: Growth, end: int) -> int:
        """Adds the next entries that were not fed; returns how many."""
        if tree.size >= end:
            return 0
        most = min(STRIDE, end - tree.size)
        if tree.size < self._signed.size:
            most = min(most, self._signed.size - tree.size)
        batch = self._reader.read(tree.size, most)
        tree.add(merkle.leaves(entry for _, entry in batch))
        if tree.size == self._signed.size:
            self._compare(tree)
        if tree.waiting >= MOST_WAITING:
            tree.flush()
        return len(batch)

    def _compare(self, tree: Growth) -> None:
        """Takes up a tree that was made anew, if it gives the root that was signed."""
        if tree.top() != self._signed.root:
            shutil.rmtree(tree.folder, ignore_errors=True)  # the old one may show what was changed
            self._damage = StoreError(
                "DAMAGED audit log: its entries do not give the root that was signed; nothing more "
                "is signed. `bifrost audit verify` says which entry was changed."
            )
            raise self._damage
        tree.flush()
        shutil.rmtree(self._folder / TILES, ignore_errors=True)
        tree.folder = tree.folder.rename(self._folder / TILES)
        sync_folder(self._folder)

    def _sign(self, tree: Growth) -> str:
        """Signs all that is in the tree; the hashes are on the disk before the checkpoint."""
        tree.flush()
        signed = Checkpoint(self._ring.origin, tree.size, tree.top())
        note = self._key.sign(signed.text)
        write_whole(self._folder / CHECKPOINT, note.encode(), 0o644)
        self._signed, self._signed_at = signed, time.monotonic()
        return note

    # -- key epochs ----------------------------------------------------------------------------

    @property
    def _next_file(self) -> Path:
        return self._key_file.with_name(f"{self._key_file.name}.next")

    def _is_old(self) -> bool:
        old = time.time() - self._key_file.stat().st_mtime >= self._epoch_s
        return old and os.access(self._key_file.parent, os.W_OK)  # a mounted secret stays

    def _hand_over(self, tree: Growth, append: Callable[[list[bytes]], int]) -> None:
        """Lets the key name a new one, sign for the last time, and be destroyed."""
        epoch = self._ring.newest
        new = _load(self._next_file) or SigningKey(self._ring.origin, os.urandom(32))
        write_whole(self._next_file, f"{new.text}\n".encode())
        note = epochs.handover(self._key, epoch, tree.size + 1, new.public)
        event = events.KeyHandover(at=time.time_ns(), epoch=epoch.number + 1, note=note)
        size = tree.size
        if append([events.encode(event)]) != size or tree.size != size + 1:
            raise StoreError("The hand-over of the audit log's key was disturbed; tried again.")
        last = self._sign(tree)
        write_whole(epochs.last_path(self._folder, epoch.number), last.encode(), 0o644)
        write_whole(epochs.path_of(self._folder, epoch.number + 1), note.encode(), 0o644)
        self._replace_key()
        self._key, self._ring = new, Keyring([*(one.source for one in self._ring.epochs), note])
        log.info("a new key signs the audit log", extra={"public_key": new.public.text})

    def _replace_key(self) -> None:
        """Puts the next key in the place of the present one, whose bytes are overwritten."""
        try:
            old = os.open(self._key_file, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            old = -1
        self._next_file.replace(self._key_file)
        sync_folder(self._key_file.parent)
        if old >= 0:
            try:
                os.pwrite(old, bytes(os.fstat(old).st_size), 0)
                os.fsync(old)
            finally:
                os.close(old)


def _load(path: Path) -> SigningKey | None:
    try:
        return SigningKey.parse(epochs.text(path))
    except FileNotFoundError:
        return None
    except NoteError as error:
        raise StoreError(f"{path} cannot be used: {error}") from error


class Signed(msgspec.Struct, frozen=True):
    """The newest checkpoint of a log as it stands beside it, with the keys; nothing is checked."""

    checkpoint: Checkpoint
    note: str
    keys: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> Signed | None:
        """What is there, None if nothing is signed; raises NoteError or OSError."""
        keys: list[str] | None = None
        while True:  # a hand-over may happen meanwhile
            try:
                note = epochs.text(folder / CHECKPOINT)
            except FileNotFoundError:
                return None
            before, keys = keys, epochs.sources(folder)
            if keys == before:
                return cls(Checkpoint.parse(note), note, tuple(keys))
