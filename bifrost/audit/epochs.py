"""Key epochs: which key may sign which checkpoints, and how one key hands over to the next.

``keys/0001`` holds the first public key, ``keys/0002`` the note in which the first key names the
second and the size of the log up to which it signs itself, and so on. ``keys/0001.last`` is the
last checkpoint of the first key. A private key is destroyed when it has handed over: who steals the
present one cannot sign anything about the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bifrost.audit.notes import MOST_BYTES, Checkpoint, NoteError, PublicKey, SigningKey, opened

FOLDER = "keys"
CHECKPOINT = "checkpoint"
_TITLE = "bifrost audit log: key hand-over v1"


class Epoch(msgspec.Struct, frozen=True):
    """A key and its time: it signs checkpoints of more than ``after`` entries."""

    number: int
    key: PublicKey
    after: int
    source: str  # the public key's text, or the hand-over note that names it


class Keyring:
    """The keys of a log in their order, each named by the one before it.

    Raises NoteError when a hand-over is not signed by the key that had the right to.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        if not sources:
            raise NoteError("There is no public key.")
        self.epochs = [Epoch(1, PublicKey.parse(sources[0]), 0, sources[0])]
        for source in sources[1:]:
            self.epochs.append(_next(self.epochs[-1], source))

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.epochs[0].key.name

    @property
    def newest(self) -> Epoch:
        """The epoch whose key signs now."""
        return self.epochs[-1]

    def of(self, size: int) -> Epoch:
        """The epoch whose key, and no other, signs a checkpoint of this size."""
        began = [epoch for epoch in self.epochs if size > epoch.after]
        return began[-1] if began else self.epochs[0]

    def checked(self, note: str) -> Checkpoint:
        """The checkpoint of a note, signed by the key of its epoch; raises NoteError."""
        said = Checkpoint.parse(note)
        if said.origin != self.origin:
            raise NoteError(f"The checkpoint is of another log: {said.origin}, not {self.origin}.")
        return Checkpoint.parse(opened(note, self.of(said.size).key))

    def find(self, key: PublicKey) -> Epoch:
        """The epoch of a key that was kept elsewhere; raises NoteError if it is none of these."""
        for epoch in self.epochs:
            if epoch.key == key:
                return epoch
        raise NoteError(
            f"The log is not signed by your key {key.name}+{key.id.hex()}, nor by one it named."
        )


def handover(old: SigningKey, epoch: Epoch, size: int, new: PublicKey) -> str:
    """The note in which a key names the next; it signs no checkpoint beyond ``size`` entries."""
    return old.sign(f"{_TITLE}\n{epoch.key.name}\n{epoch.number + 1}\n{size}\n{new.text}\n")


def _next(epoch: Epoch, source: str) -> Epoch:
    lines = opened(source, epoch.key).split("\n")
    if len(lines) != 6 or lines[:3] != [_TITLE, epoch.key.name, str(epoch.number + 1)]:
        raise NoteError(f"keys/{epoch.number + 1:04d} is no hand-over from key {epoch.number}.")
    key = PublicKey.parse(lines[4])
    if key.name != epoch.key.name or not lines[3].isdigit() or int(lines[3]) <= epoch.after:
        raise NoteError(f"The hand-over in keys/{epoch.number + 1:04d} makes no sense.")
    return Epoch(epoch.number + 1, key, int(lines[3]), source)


def path_of(folder: Path, number: int) -> Path:
    """Where the public key of an epoch is."""
    return folder / FOLDER / f"{number:04d}"


def last_path(folder: Path, number: int) -> Path:
    """Where the last checkpoint of an epoch is."""
    return folder / FOLDER / f"{number:04d}.last"


def sources(folder: Path) -> list[str]:
    """The texts of the epochs there are; raises NoteError or OSError."""
    found: list[str] = []
    while (path := path_of(folder, len(found) + 1)).exists():
        found.append(text(path))
    return found


def text(path: Path) -> str:
    """A note or key of a file; raises NoteError or OSError."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1).decode()
    except UnicodeDecodeError:
        raise NoteError(f"{path} is not text.") from None
