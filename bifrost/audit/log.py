"""The audit log: one writer appends, any process reads; everything else is derived from it.

It lives in ``<data>/audit/``: segments (``segments.py``) and ``acknowledged``, the index up to
which all is on the disk. Readers go no further than that, and below it nothing may ever be missing:
what is missing there is no torn write but damage, and damage is told and never cut away.
"""

from __future__ import annotations

import bisect
import errno
import logging
import os
import struct
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from bifrost.audit import events
from bifrost.audit.parts import FOLDER as ARCHIVED
from bifrost.audit.parts import LAST, Parts
from bifrost.audit.segments import entries, frame, frames, later, path_of, segments
from bifrost.errors import StoreError

log = logging.getLogger("bifrost.audit")
FOLDER = "audit"
SEGMENT_BYTES = 64 << 20
CHUNK = 1 << 20
PLACE_EVERY = 1 << 18  # bytes of a segment between two places a reader remembers
MARK = struct.Struct("<QI")


class Log:
    """The writer; whoever opens it holds the stewardship of the data directory.

    ``next`` is the index of the next entry (how many there are); ``last_seq`` the outbox number of
    the newest entry that came from the outbox, 0 if none did; ``began`` when the last segment's
    first entry was written (ns), 0 while it has none. Opening cuts off what a crash left
    half-written and was never acknowledged. Raises StoreError, beginning with DAMAGED when an
    acknowledged entry is missing or unreadable.
    """

    def __init__(self, data_dir: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = data_dir / FOLDER
        self.next = 0
        self.last_seq = 0
        self.began = 0
        self._limit = segment_bytes
        self._first = self._size = 0
        self._fd = -1
        try:
            self._make_folder(data_dir)
            self._known = _acknowledged(self.folder)
            self._floor = max(self._known or 0, _signed(self.folder))
            self._recover()
            self._acknowledge(flush=True)
        except OSError as error:
            self.close()
            raise _failed(self.folder, error) from error
        except StoreError:
            self.close()
            raise

    def _make_folder(self, data_dir: Path) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(data_dir)

    def close(self) -> None:
        """Closes the segment; appending opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def is_current(self) -> bool:
        """Whether the log is as this writer left it; else another one was at work meanwhile."""
        return _acknowledged(self.folder) == self.next and self._first in segments(self.folder)

    # -- opening -----------------------------------------------------------------------------

    def _recover(self) -> None:
        """Reads the last segment, cuts its torn tail, and learns where to go on."""
        found = segments(self.folder)
        self._first = found[-1] if found else 0
        self._size, self.next, self.last_seq = self._learn(self._first, torn=True)
        behind = self._first
        for sealed in reversed(found[:-1]):
            if self.last_seq:
                break
            _, index, self.last_seq = self._learn(sealed, torn=False)
            if index != behind:
                raise _damaged(path_of(self.folder, sealed), index, "is missing")
            behind = sealed
        if self.next < self._floor:
            raise _damaged(path_of(self.folder, self._first), self.next, "is missing")
        self.last_seq = max(self.last_seq, _archived_seq(self.folder))
        self._open_segment()
        if self._size:
            self.began = self._first_time()

    def _first_time(self) -> int:
        """When the first entry of the last segment was written, by its own word or the file's."""
        head = os.pread(self._fd, CHUNK, 0)
        told = frame(head, 0)
        at = events.time_of(told.payload) if told is not None else 0
        return at or os.fstat(self._fd).st_mtime_ns

    def _learn(self, first: int, *, torn: bool) -> tuple[int, int, int]:
        """Reads a segment: bytes that are whole, the index behind them, the last outbox number."""
        path = path_of(self.folder, first)
        data = path.read_bytes() if path.exists() else b""
        size, index, sequence = 0, first, 0
        for entry in entries(data, 0, first):
            size, index = entry.end, entry.number + 1
            sequence = events.sequence(entry.payload) or sequence
        if size < len(data):
            self._judge(path, data, size, index, torn)
        return size, index, sequence

    def _judge(self, path: Path, data: bytes, at: int, index: int, torn: bool) -> None:
        """Refuses what is behind the whole entries, unless a crash of the writer explains it."""
        if frame(data, at) is not None:
            raise _damaged(path, index, "is missing (the indexes have a gap)")
        if not torn or index < self._floor:
            raise _damaged(path, index, "cannot be read")
        for entry in later(data, at):
            if entry.begins or self._known is None:
                raise _damaged(path, index, f"cannot be read, but entry {entry.number} behind it")
        log.warning(
            "cut a half-written tail off the audit log",
            extra={"file": str(path), "entry": index, "bytes": len(data) - at},
        )

    def _open_segment(self) -> None:
        """Opens the last segment anew, exactly as long as its acknowledged entries."""
        path = path_of(self.folder, self._first)
        fresh = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size != self._size:
                os.ftruncate(fd, self._size)
            os.fdatasync(fd)
            if fresh:
                _sync_folder(self.folder)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    # -- writing -----------------------------------------------------------------------------

    def append(self, batch: Sequence[bytes]) -> int:
        """Adds entries; they are on the disk when it returns. Returns the index of the first.

        All or nothing. Raises StoreError when the disk does not take them (full, read-only,
        failing); every further call then begins by reading the file again.
        """
        first = self.next
        if not batch:
            return first
        data = frames(first, batch)
        try:
            if self._fd < 0:
                self._reopen()
            if self._size >= self._limit:
                self._seal()
            _write(self._fd, data, self._size)
            os.fdatasync(self._fd)
        except OSError as error:
            self.close()  # after a failed write or flush nobody knows what the disk holds
            raise _failed(self.folder, error) from error
        self.began = self.began or time.time_ns()
        self._size += len(data)
        self.next += len(batch)
        for payload in reversed(batch):
            if sequence := events.sequence(payload):
                self.last_seq = sequence
                break
        self._acknowledge()
        return first

    def _reopen(self) -> None:
        """Makes sure that the acknowledged entries are there, and nothing else."""
        path = path_of(self.folder, self._first)
        data = path.read_bytes() if path.exists() else b""
        size, index = 0, self._first
        for entry in entries(data, 0, self._first):
            if entry.end > self._size:
                break
            size, index = entry.end, entry.number + 1
        if size != self._size or index != self.next:
            raise _damaged(path, index, "cannot be read")
        self._open_segment()

    def _seal(self) -> None:
        """Begins a new segment; the last one is never written again."""
        self.close()
        self._first, self._size, self.began = self.next, 0, 0
        self._open_segment()

    def seal(self) -> None:
        """Begins a new segment now, unless the last one is empty; raises StoreError."""
        try:
            if self._fd < 0:
                self._reopen()
            if self._size:
                self._seal()
        except OSError as error:
            self.close()
            raise _failed(self.folder, error) from error

    def _acknowledge(self, *, flush: bool = False) -> None:
        """Tells readers, and the next writer, how far all is on the disk."""
        try:
            fd = os.open(
                self.folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                number = struct.pack("<Q", self.next)
                os.pwrite(fd, MARK.pack(self.next, crc32(number)), 0)
                if flush:  # so that a power cut leaves an old mark, never none
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:  # the entries are safe: readers only see them later
            log.error("the audit log's mark cannot be written", extra={"error": str(error)})


class Reader:
    """Reads the log of a data directory, in any process, while it is written; never writes."""

    def __init__(self, data_dir: Path, *, folder: Path | None = None) -> None:
        """``folder``: where the log is, if it is a copy outside of a data directory."""
        self.folder = folder or data_dir / FOLDER
        self._parts = Parts(self.folder)
        self._segments: list[int] = []  # and the parts in the archive
        self._places: dict[int, list[tuple[int, int]]] = {}  # segment -> (index, offset) rising

    def end(self) -> int:
        """The index behind the newest acknowledged entry (how many there are)."""
        known = _acknowledged(self.folder)
        if known is not None:
            return known
        last = segments(self.folder)[-1:]  # a copy without its mark: count what is whole
        for first in last:
            data = path_of(self.folder, first).read_bytes()
            return first + sum(1 for _ in entries(data, 0, first))
        return 0

    def oldest(self) -> int:
        """The index of the oldest entry that is still there (or ``end`` of an empty log)."""
        return max(next(iter(self._parts.starts()), 0), self._parts.minimum())

    def starts(self) -> list[int]:
        """The index of the first entry of every segment, here or in the archive, rising."""
        return self._parts.starts()

    def read(self, start: int, most: int) -> list[tuple[int, bytes]]:
        """Up to ``most`` (index, payload) from index ``start`` on; empty at the log's end.

        Entries that were removed when their time was over are passed over. Raises StoreError,
        beginning with DAMAGED when an acknowledged entry cannot be read, DepotError when it is in
        an archive that cannot be asked.
        """
        found: list[tuple[int, bytes]] = []
        if not self._segments or start < self._segments[0]:
            start = max(start, self._parts.minimum())
        end = min(self.end(), start + most)
        moved = False
        while start < end:
            try:
                first = self._segment(start)
                start = self._collect(first, start, end, found)
            except FileNotFoundError as error:
                if moved:
                    raise self._failed(error) from error
                self._segments, moved = [], True  # it was archived or removed at this moment
            except OSError as error:
                raise self._failed(error) from error
        return found

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"Cannot read the audit log in {self.folder}: {error}.")

    def _segment(self, index: int) -> int:
        """The segment that holds an entry."""
        if not self._segments or index >= self._segments[-1]:
            self._segments = self._parts.starts()
        at = bisect.bisect_right(self._segments, index) - 1
        if at < 0:
            raise _damaged(self.folder, index, "is missing")
        return self._segments[at]

    def _file(self, first: int) -> BinaryIO:
        """A segment, wherever it is."""
        try:
            return path_of(self.folder, first).open("rb")
        except FileNotFoundError:
            data = self._parts.part(first)
            if data is not None:
                return BytesIO(data)
            if self._parts.manifest(first) is not None:
                raise _damaged(self.folder, first, "is missing from the archive") from None
            raise

    def _collect(self, first: int, start: int, end: int, found: list[tuple[int, bytes]]) -> int:
        """Adds entries of one segment up to ``end``; returns the index to go on from."""
        places = self._places.setdefault(first, [(first, 0)])
        index, offset = places[bisect.bisect_right(places, (start, 1 << 62)) - 1]
        path = path_of(self.folder, first)
        with self._file(first) as file:
            data, at, more = b"", 0, True
            while index < end:
                entry = frame(data, at)
                if entry is None and more:
                    file.seek(offset + at)
                    fresh = file.read(max(CHUNK, 2 * (len(data) - at)))
                    more = len(fresh) > len(data) - at
                    data, offset, at = fresh, offset + at, 0
                    continue
                if entry is None or entry.number != index:
                    return self._next_segment(path, index, start, entry is None and at == len(data))
                if index >= start:
                    found.append((index, entry.payload))
                index, at = index + 1, entry.end
                if offset + at - places[-1][1] >= PLACE_EVERY:
                    places.append((index, offset + at))
        return index

    def _next_segment(self, path: Path, index: int, start: int, over: bool) -> int:
        """Goes on behind a segment that is over; raises when entries are missing there."""
        self._segments = self._parts.starts()
        if over and index in self._segments and index >= start:
            return index
        raise _damaged(path, index, "is missing" if over else "cannot be read")


def _acknowledged(folder: Path) -> int | None:
    """The index up to which all is on the disk, None where no mark tells it."""
    try:
        raw = (folder / "acknowledged").read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"Cannot read the audit log in {folder}: {error}.") from error
    if len(raw) != MARK.size:
        return None
    number, checked = MARK.unpack(raw)
    return int(number) if crc32(raw[:8]) == checked else None


def _archived_seq(folder: Path) -> int:
    """The newest outbox number among the entries that are not beside us any more, or 0."""
    try:
        text = (folder / ARCHIVED / LAST).read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return 0
    return int(text) if text.isdigit() else 0


def _signed(folder: Path) -> int:
    """How many entries the newest checkpoint covers, 0 without one: so many must be there."""
    try:
        lines = (folder / "checkpoint").read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return int(lines[1]) if len(lines) > 3 and lines[1].isdigit() else 0


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _damaged(path: Path, index: int, what: str) -> StoreError:
    return StoreError(
        f"DAMAGED audit log: entry {index} {what} in {path}; nothing was changed, "
        "restore that file from a backup or a replica."
    )


def _failed(folder: Path, error: OSError) -> StoreError:
    wait = "events wait in the outbox until then"
    why = {
        errno.ENOSPC: f"the disk is full; free some space, {wait}",
        errno.EDQUOT: f"the disk quota is used up; raise it, {wait}",
        errno.EFBIG: f"a file may not grow further; raise the file size limit, {wait}",
        errno.EROFS: f"the file system is read-only; make it writable, {wait}",
        errno.EACCES: f"permission denied; give this user the folder, {wait}",
    }.get(error.errno or 0, f"{error.strerror or error}; check the disk, {wait}")
    return StoreError(f"Cannot write the audit log in {folder}: {why}.")
