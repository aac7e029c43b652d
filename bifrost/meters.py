"""Meters: what the processes of a data directory count, each in a file of its own. A leaf.

A process takes the first file of ``metrics/`` that nobody holds and counts on in it, so that sums
over all files never go back, whoever ends or begins. Files are mapped: counting is an addition in
memory, and what a killed process counted is kept. How it is *now* (gauges) is told once a second,
and only of processes that live.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

import msgspec

from bifrost._fast.meters import ROW, Meter
from bifrost._fast.timing import SIZE, Timing

log = logging.getLogger("bifrost.meters")
FOLDER = "metrics"
MAGIC = 0x33_4D_46_42  # of this layout; files of another are begun anew
TIMINGS = ("gate", "admit", "settle", "governance")
# How many rows of a kind there may be; what comes later is counted as "other".
MOST = {
    "model": 192,
    "refusal": 48,
    "upstream": 32,
    "worker": 1,
    "overhead": 1,
    "fault": 96,
    "resting": 48,
    "credential": 32,
    "hedge": 8,
}
OTHER = "other"
ROWS = sum(MOST.values()) + len(MOST)
NAME = 256  # bytes of a row's name
HEAD = Struct("<qqq")  # magic, process, when it lived last in ns (0: it ended)
HEAD_SIZE = 64
NAMES = HEAD_SIZE
VALUES = NAMES + ROWS * NAME
SPANS = VALUES + ROWS * ROW * 8
WHOLE = SPANS + len(TIMINGS) * SIZE
MOST_FILES = 1_024
STALE_NS = 60_000_000_000  # without a sign of life
GAUGES = {
    "worker": range(1),
    "upstream": range(3),
    "resting": range(1),
    "credential": range(2),
}  # numbers of a row that say how it is now

Name = tuple[str, ...]


class Meters:
    """One process's meters; ``close`` ends them. Open after any fork.

    Without a folder, or where none can be written, they are this process's own: nobody is refused
    for the lack of figures.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self.path: Path | None = None
        self._fd = -1
        self._map = self._take(data_dir / FOLDER) if data_dir is not None else None
        if self._map is None:
            self._map = mmap.mmap(-1, WHOLE)
        self._meters: dict[Name, Meter] = {}
        self._used = dict.fromkeys(MOST, 0)
        self._next = 0
        for number, name in _names(self._map):
            self._meters[name] = self._meter(number)
            self._used[name[0]] += 1
            self._next = number + 1
            for place in GAUGES.get(name[0], ()):
                self._meters[name].set(place, 0)
        self.live()

    def _take(self, folder: Path) -> mmap.mmap | None:
        """The first file nobody holds, whole and of this layout; None where there can be none."""
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(MOST_FILES):
                self.path = folder / f"{number}.meters"
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return _whole(self._fd)
                except BlockingIOError:
                    os.close(self._fd)
                except BaseException:
                    os.close(self._fd)
                    raise
        except OSError as error:
            log.error("figures are kept in memory only", extra={"error": str(error)})
        self.path, self._fd = None, -1
        return None

    def _meter(self, number: int) -> Meter:
        return Meter(self._map, VALUES + number * ROW * 8)

    def meter(self, kind: str, *labels: str) -> Meter:
        """The row of this kind and these labels; that of all others when there are too many."""
        name = (kind, *labels)
        found = self._meters.get(name)
        if found is not None:
            return found
        raw = msgspec.json.encode(name)
        rest = (kind, *(OTHER for _ in labels))
        if name != rest and (len(raw) > NAME or self._used[kind] >= MOST[kind]):
            return self.meter(*rest)
        assert self._map is not None
        number, self._next = self._next, self._next + 1
        self._used[kind] += 1
        at = NAMES + number * NAME
        self._map[at : at + len(raw)] = raw
        found = self._meters[name] = self._meter(number)
        return found

    def refused(self, code: str) -> None:
        """A client was told this code."""
        self.meter("refusal", code).add(0, 1)

    def time(self, **timings: Timing) -> None:
        """Lets these timings, by the names of ``TIMINGS``, count where others can read them."""
        for name, timing in timings.items():
            timing.lay(self._map, SPANS + TIMINGS.index(name) * SIZE)

    def live(self) -> None:
        """A sign of life, due once a second."""
        assert self._map is not None
        HEAD.pack_into(self._map, 0, MAGIC, os.getpid(), time.time_ns())

    def page(self) -> Page:
        """What this process has counted so far."""
        assert self._map is not None
        return Page(self._map[:])

    def close(self) -> None:
        """Ends; the next process goes on in this file."""
        if self._map is not None:
            HEAD.pack_into(self._map, 0, MAGIC, 0, 0)
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # the map holds on to the file
            os.close(self._fd)
            self._fd = -1


class Page:
    """The meters of one process as they were read."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        _, self.process, self._lived = HEAD.unpack_from(raw)

    def lives(self) -> bool:
        """Whether its process is there, so that its gauges mean something."""
        if not self.process or time.time_ns() - self._lived > STALE_NS:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def rows(self) -> Iterator[tuple[Name, list[int]]]:
        """Every row: its kind and labels, and its numbers."""
        shape = Struct(f"<{ROW}q")
        for number, name in _names(self._raw):
            yield name, list(shape.unpack_from(self._raw, VALUES + number * shape.size))

    def timing(self, name: str) -> bytes:
        """The bytes of a timing, for ``Timing.merge``."""
        at = SPANS + TIMINGS.index(name) * SIZE
        return self._raw[at : at + SIZE]


def pages(data_dir: Path) -> list[Page]:
    """What all processes of a data directory counted, also those that are no more."""
    found = []
    for path in sorted((data_dir / FOLDER).glob("*.meters")):
        try:
            raw = path.read_bytes()
        except OSError:
            continue
        if len(raw) >= WHOLE and HEAD.unpack_from(raw)[0] == MAGIC:
            found.append(Page(raw))
    return found


def _names(raw: bytes | mmap.mmap) -> Iterator[tuple[int, Name]]:
    for number in range(ROWS):
        at = NAMES + number * NAME
        text = raw[at : at + NAME].rstrip(b"\0")
        if not text:
            return
        try:
            yield number, msgspec.json.decode(text, type=Name)
        except msgspec.DecodeError:  # it is being written
            return


def _whole(fd: int) -> mmap.mmap:
    """The file with a place on the disk for all of it, so that no page of it can be missing."""
    head = os.pread(fd, HEAD.size, 0)
    size = os.fstat(fd).st_size
    if size < WHOLE or HEAD.unpack(head)[0] != MAGIC:
        os.ftruncate(fd, 0)
        if os.pwrite(fd, bytes(WHOLE), 0) < WHOLE:
            raise OSError("No space left on device")
    return mmap.mmap(fd, WHOLE)
