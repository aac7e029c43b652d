"""A file of JSON lines. What is in it already is not written again, and a torn line is cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bifrost.audit.tiles import sync_folder
from bifrost.config.exports import FileExport
from bifrost.exports.answers import TAKEN, Answer, again
from bifrost.exports.records import CHECKPOINT, Document, Item, Record

SLACK = 1 << 20  # bytes beyond a batch in which a file's last lines are sought


class JsonLines:
    """One file; opened anew for each batch, so that it may be rotated at any time."""

    most_entries = 1000
    most_bytes = 5_000_000
    interval_s = 1.0
    planned = False

    def __init__(self, sink: FileExport, document: Document) -> None:
        self._path = Path(sink.path)
        self._look_back = (sink.max_bytes or self.most_bytes) + SLACK
        self._document = document
        self._size = -1  # of the file behind our last line; other than that: look again
        self._inode = 0

    def body(self, record: Record) -> bytes:
        """A line."""
        return msgspec.json.encode(self._document(record)) + b"\n"

    async def send(self, items: Sequence[Item]) -> Answer:
        """Appends and flushes to the disk."""
        try:
            self._append(items)
        except OSError as error:
            self._size = -1
            return again(f"{error.strerror or error}")
        return TAKEN

    def _append(self, items: Sequence[Item]) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            known: set[str] = set()
            found = os.fstat(fd)
            if (found.st_size, found.st_ino) != (self._size, self._inode):
                known = self._look(fd, found.st_size)
            data = b"".join(
                item.body
                for item in items
                if item.record.kind == CHECKPOINT or _mark(item.body) not in known
            )
            end = os.lseek(fd, 0, os.SEEK_END)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            if not end:
                sync_folder(self._path.parent)
            self._size, self._inode = end + len(data), found.st_ino
        except BaseException:
            self._size = -1
            raise
        finally:
            os.close(fd)

    def _look(self, fd: int, size: int) -> set[str]:
        """Cuts what a crash left half-written; the marks of the last lines."""
        begin = max(0, size - self._look_back)
        tail = os.pread(fd, size - begin, begin)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail) and (whole or begin == 0):
            os.ftruncate(fd, begin + whole)
        return {_mark(line + b"\n") for line in tail[:whole].split(b"\n")}

    async def close(self) -> None:
        """Nothing is kept open."""


def _mark(line: bytes) -> str:
    """What tells a line from others: the id of its record, in any format."""
    try:
        found: Any = msgspec.json.decode(line)
        return str(found.get("id") or found.get("event", found.get("metadata", {})).get("id")
                   or found["metadata"]["uid"])  # fmt: skip
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        return ""
