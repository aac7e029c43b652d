"""Tiles: the tree's hashes on the disk, so that proofs are cheap and the tree can go on.

As in C2SP tlog-tiles a tile is 256 hashes of a level, and the root of each whole tile is a hash of
the level above; but a thousand tiles share a file, ``tile/<level>/<number of the thousand>``. All
of it can be made again from the entries.
"""

from __future__ import annotations

import os
from pathlib import Path

from bifrost._fast import digest
from bifrost.audit.merkle import EMPTY, HASH, fold, node
from bifrost.errors import StoreError

FOLDER = "tile"
TILE = 256
TILE_BYTES = TILE * HASH
GROUP = 1000 * TILE  # hashes of a file


class Tiles:
    """Reads the hashes beside a log. Raises StoreError when they are not all there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def path_of(self, level: int, start: int) -> Path:
        """The file of the hash with this number."""
        return self.folder / str(level) / f"{start // GROUP:06d}"

    def hashes(self, level: int, start: int, count: int) -> bytes:
        """Hashes of a level from a number on; a hash of level n is over 256 ** n entries."""
        parts = []
        while count > 0:
            path, place = self.path_of(level, start), start % GROUP
            most = min(count, GROUP - place)
            try:
                with path.open("rb") as file:
                    file.seek(place * HASH)
                    part = file.read(most * HASH)
            except OSError:
                part = b""
            if len(part) != most * HASH:
                raise StoreError(f"The tree's hashes in {path} are missing.")
            parts.append(part)
            start, count = start + most, count - most
        return b"".join(parts)

    def span(self, start: int, end: int) -> bytes:
        """The root of entries from ``start`` to ``end``, a part into which RFC 6962 splits."""
        count = end - start
        if count == 0:
            return EMPTY
        height = count.bit_length() - 1
        if count == 1 << height:
            level, rest = divmod(height, 8)
            return fold(self.hashes(level, start >> 8 * level, 1 << rest))
        middle = start + (1 << (count - 1).bit_length() - 1)
        return node(self.span(start, middle), self.span(middle, end))

    def root(self, size: int) -> bytes:
        """The root of the first ``size`` entries."""
        return self.span(0, size)


class Growth(Tiles):
    """The writer of the tiles; ``size`` entries are in. Hashes are kept until ``flush``."""

    def __init__(self, folder: Path, size: int = 0, *, name: str = FOLDER) -> None:
        """Goes on behind ``size`` entries; raises StoreError when their hashes are not there."""
        super().__init__(folder)
        self.folder = folder / name
        self.size = 0
        self._rows: list[bytearray] = []  # of each level the tile that is not whole yet
        self._fresh: list[bytearray] = []  # of each level what is not on the disk
        level = 0
        while size >> 8 * level:
            count = size >> 8 * level
            part = count % TILE
            self._rows.append(bytearray(self.hashes(level, count - part, part)))
            self._fresh.append(bytearray())
            level += 1
        self.size = size

    @property
    def waiting(self) -> int:
        """How many entries' hashes are not on the disk."""
        return len(self._fresh[0]) // HASH if self._fresh else 0

    def add(self, hashed: bytes) -> None:
        """Adds a row of hashes of entries."""
        if hashed:
            self._put(0, hashed)
            self.size += len(hashed) // HASH

    def _put(self, level: int, hashed: bytes) -> None:
        if level == len(self._rows):
            self._rows.append(bytearray())
            self._fresh.append(bytearray())
        row = self._rows[level]
        row += hashed
        self._fresh[level] += hashed
        whole = len(row) // TILE_BYTES * TILE_BYTES
        if whole:
            tiles = bytes(row[:whole])
            del row[:whole]
            self._put(level + 1, tile_roots(tiles))

    def top(self) -> bytes:
        """The root over all that was added."""
        below = b""
        for row in self._rows:
            if row or below:
                below = fold(bytes(row) + below)
        return below or EMPTY

    def flush(self) -> None:
        """Puts all hashes on the disk; raises OSError, after which it may be tried again."""
        for level, fresh in enumerate(self._fresh):
            start = (self.size >> 8 * level) - len(fresh) // HASH
            while fresh:
                most = min(len(fresh), (GROUP - start % GROUP) * HASH)
                self._write(level, start, bytes(fresh[:most]))
                del fresh[:most]
                start += most // HASH

    def _write(self, level: int, start: int, data: bytes) -> None:
        path = self.path_of(level, start)
        fresh = not path.exists()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view, offset = memoryview(data), start % GROUP * HASH
            while view:
                written = os.pwrite(fd, view, offset)
                view, offset = view[written:], offset + written
            os.fdatasync(fd)
        finally:
            os.close(fd)
        if fresh:
            for folder in (path.parent, self.folder, self.folder.parent):
                sync_folder(folder)


def tile_roots(tiles: bytes) -> bytes:
    """The roots of whole tiles, as a row."""
    if digest.BOUND:
        return digest.roots(tiles, TILE)
    return b"".join([fold(tiles[at : at + TILE_BYTES]) for at in range(0, len(tiles), TILE_BYTES)])


def sync_folder(folder: Path) -> None:
    """Makes sure that what was created or renamed in a folder is on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file at once and durably: after a crash it is the old one or the new one."""
    fresh = path.with_name(f".{path.name}.fresh")  # one writer; a crash leaves no others behind
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
