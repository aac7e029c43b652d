"""The survey: hashes the entries of a log again, segment by segment, in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from bifrost.audit.depots import DepotError
from bifrost.audit.merkle import HASH, fold
from bifrost.audit.parts import Parts
from bifrost.audit.segments import HEAD, LENGTH, SIZE, frame, hashed, path_of
from bifrost.audit.tiles import TILE, TILE_BYTES, Tiles, tile_roots
from bifrost.errors import StoreError

MOST_PROCESSES = 8
Progress = Callable[[int], object]


class Job(NamedTuple):
    """A segment to hash: of it the entries from ``start``, of the log those before ``stop``.

    ``after`` is where the next segment begins, None for the last. ``sizes``: see Part.kept.
    ``removed``: the entries are not there any more, the stored tree has to do.
    """

    folder: Path
    first: int
    after: int | None
    start: int
    stop: int
    sizes: tuple[int, ...]
    removed: bool = False


class Part(NamedTuple):
    """What a segment holds: entries ``start`` to before ``end`` as hashes.

    ``head``: the hashes before the first whole tile, ``tiles``: the roots of the whole ones,
    ``tail``: the hashes behind. ``trouble`` says what is wrong with entry ``end``. ``differs`` is
    the first entry whose hash is not the stored one. ``kept`` holds, for each size asked for, the
    hashes of the last tile of a tree of that size, as far as they are here. ``beyond``: whole
    entries behind ``stop``. ``unread`` says why the entries were not read, if they were not: then
    their hashes are the stored ones.
    """

    start: int
    end: int
    trouble: str
    head: bytes
    tiles: bytes
    tail: bytes
    differs: int | None
    kept: dict[int, bytes]
    beyond: int
    unread: str = ""


def _part(job: Job) -> Part:
    if job.removed:
        return _stored(job, "was removed")
    path = path_of(job.folder, job.first)
    try:
        data = Parts(job.folder).segment(job.first)
    except DepotError as error:
        return _stored(job, str(error))
    except (StoreError, OSError) as error:
        return _troubled(job, f"cannot be read: {error}")
    if data is None:
        return _troubled(job, f"is missing with all of {path.name}")
    at = _place(data, job.first, job.start)
    stop = _stop(job)
    row, at, end = hashed(data, at, job.start, stop)
    trouble, beyond = "", 0
    if end < stop:
        trouble = _trouble(data, at, end, path)
    else:
        limit = 1 << 62 if job.after is None else job.after
        _, at, behind = hashed(data, at, end, limit)
        beyond = behind - end
        if job.after is not None and behind < job.after:
            trouble = _trouble(data, at, behind, path)
        elif job.after is not None and at < len(data):
            trouble = f"is there twice, or {path.name} holds more than belongs there"
    differs = _difference(Tiles(job.folder), job.start, row)
    return _arranged(job, end, trouble, row, differs, beyond)


def _arranged(
    job: Job, end: int, trouble: str, row: bytes, differs: int | None, beyond: int, unread: str = ""
) -> Part:
    aligned = min(len(row), -job.start % TILE * HASH)
    whole = aligned + (len(row) - aligned) // TILE_BYTES * TILE_BYTES
    return Part(
        job.start, end, trouble, row[:aligned], tile_roots(row[aligned:whole]), row[whole:],
        differs, _kept(row, job.start, job.sizes), beyond, unread,
    )  # fmt: skip


def _stop(job: Job) -> int:
    return max(job.start, job.stop if job.after is None else min(job.stop, job.after))


def _troubled(job: Job, trouble: str) -> Part:
    return Part(job.start, job.start, trouble, b"", b"", b"", None, {}, 0)


def _stored(job: Job, why: str) -> Part:
    """What the stored tree says of entries that cannot be read; the root tells if it is true."""
    stop = _stop(job)
    try:
        row = Tiles(job.folder).hashes(0, job.start, stop - job.start)
    except StoreError as error:
        return _troubled(job, f"{why}, and its hash is not there: {error}")
    return _arranged(job, stop, "", row, None, 0, why)


def _place(data: bytes, first: int, start: int) -> int:
    """Where an entry begins, by the lengths of those before it."""
    at = 0
    for _ in range(first, start):
        if at + SIZE > len(data):
            break
        at += SIZE + (HEAD.unpack_from(data, at)[0] & LENGTH)
    return at


def _trouble(data: bytes, at: int, index: int, path: Path) -> str:
    found = frame(data, at)
    if found is not None and found.number != index:
        return f"is missing: entry {found.number} stands in its place in {path.name}"
    what = "missing at the end of" if at >= len(data) else "damaged in"
    return f"is {what} {path.name}"


def _difference(tiles: Tiles, start: int, row: bytes) -> int | None:
    """The first entry whose hash is not the one that was stored when it was logged."""
    count = len(row) // HASH
    try:
        stored = tiles.hashes(0, start, count)
    except StoreError:
        return start if count else None
    if stored == row:
        return None
    return start + difference(row, stored)


def difference(row: bytes, stored: bytes) -> int:
    """The first of the hashes that is another one in two rows that are not equal."""
    pairs = range(0, len(stored), HASH)
    return next(at for at in pairs if row[at : at + HASH] != stored[at : at + HASH]) // HASH


def _kept(row: bytes, start: int, sizes: Sequence[int]) -> dict[int, bytes]:
    kept = {}
    for size in sizes:
        low = max(size - size % TILE, start)
        if low < size and low < start + len(row) // HASH:
            kept[size] = row[(low - start) * HASH : max(0, size - start) * HASH]
    return kept


class Survey:
    """What the entries of a log give when they are hashed again.

    ``end``: entries 0 to ``end`` - 1 are whole and in order, or from ``start`` on. ``trouble`` says
    what is wrong with entry ``end``, empty if nothing is before ``stop``. ``differs``: see Part;
    of all the smallest.
    """

    def __init__(
        self, folder: Path, start: int, stop: int, sizes: Sequence[int], minimum: int = 0
    ) -> None:
        """``start`` is a multiple of 256; roots of ``sizes`` can be asked for afterwards. Entries
        before ``minimum`` are not there any more."""
        self.folder, self.start, self.stop = folder, start, stop
        self.minimum = max(minimum, start)
        self.end = start
        self.read = 0
        self.unread: list[tuple[int, int, str]] = []  # from, to before, why
        self.trouble = ""
        self.beyond = 0
        self.differs: int | None = None
        self.tiles = bytearray()  # the roots of whole tiles from ``start`` on
        self._sizes = tuple(sizes)
        self._carry = b""
        self._kept: dict[int, bytes] = {}

    def run(self, progress: Progress | None = None, processes: int = 0) -> None:
        """Hashes; ``progress`` is told how many entries more are done."""
        jobs = self._jobs()
        for part in _parts(jobs, processes or min(MOST_PROCESSES, os.cpu_count() or 1)):
            self._add(part)
            if progress is not None:
                progress(part.end - part.start)
        if not self.trouble and self.end < self.stop:
            self.trouble = "is missing"

    def _jobs(self) -> list[Job]:
        found = Parts(self.folder).starts()
        if not found or found[0] > self.minimum:
            self.trouble = "is missing"
            return []
        jobs = []
        if self.minimum > self.start:
            low, high = self.start, self.minimum
            jobs.append(Job(self.folder, low, high, low, self.stop, self._sizes, removed=True))
        for first, after in zip(found, [*found[1:], None], strict=True):
            if after is None or after > self.minimum:
                start = max(first, self.minimum)
                jobs.append(Job(self.folder, first, after, start, self.stop, self._sizes))
        return jobs

    def _add(self, part: Part) -> None:
        if part.differs is not None:
            self.differs = min(part.differs, part.differs if self.differs is None else self.differs)
        if self.trouble:
            return
        if part.start >= self.stop:
            self.beyond += part.beyond
            self.trouble = part.trouble
            return
        if part.start < self.minimum:
            pass
        elif part.unread:
            self.unread.append((part.start, part.end, part.unread))
        else:
            self.read += part.end - part.start
        carry = self._carry + part.head
        if len(carry) == TILE_BYTES:
            self.tiles += fold(carry)
            carry = b""
        self.tiles += part.tiles
        self._carry = carry + part.tail
        for size, row in part.kept.items():
            self._kept[size] = self._kept.get(size, b"") + row
        self.end, self.trouble, self.beyond = part.end, part.trouble, self.beyond + part.beyond

    def root(self, size: int, before: bytes = b"") -> bytes | None:
        """The root of the first ``size`` entries, if they are all whole.

        ``before``: the roots of the tiles before ``start``.
        """
        if size > self.end or size < self.start:
            return None
        tiles = before + bytes(self.tiles[: ((size - self.start) // TILE) * HASH])
        last = self._kept.get(size, b"") if size % TILE else b""
        return fold(tiles + (fold(last) if last else b""))


def _parts(jobs: Sequence[Job], processes: int) -> Iterator[Part]:
    if len(jobs) < 2 or processes < 2:
        yield from map(_part, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # whatever threads the caller has
    try:
        with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=spawn) as pool:
            yield from pool.map(_part, jobs)
    except BrokenProcessPool as error:
        raise StoreError(
            "A process that read the log was killed, perhaps for want of memory; use --processes 1."
        ) from error
