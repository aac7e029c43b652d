"""Segments: the files of the audit log. Append-only, each named by the index of its first entry.

An entry is a frame, little-endian:  length u32 | crc32 u32 | index u64 | payload

The highest bit of the length marks the first entry of a batch: a batch is on the disk before the
next one is written, so such an entry proves that everything before it was acknowledged. The CRC
covers length, index and payload; it is there for torn writes, not against forgery.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from bifrost._fast import digest

HEAD = struct.Struct("<IIQ")
MARKED = struct.Struct("<IQ")
SIZE = HEAD.size
BEGINS = 1 << 31
LENGTH = BEGINS - 1
OPENS = b'{"'  # every payload is a JSON object with a member
SUFFIX = ".log"


class Frame(NamedTuple):
    """A whole frame: where the next begins, its entry's index, if it began a batch, its payload."""

    end: int
    number: int
    begins: bool
    payload: bytes


def path_of(folder: Path, first: int) -> Path:
    """The segment whose first entry has this index."""
    return folder / f"{first:020d}{SUFFIX}"


def segments(folder: Path) -> list[int]:
    """The first indexes of the segments there are, rising; none without a folder."""
    if not folder.is_dir():
        return []
    names = (name.removesuffix(SUFFIX) for name in os.listdir(folder) if name.endswith(SUFFIX))
    return sorted(int(name) for name in names if name.isdigit())


def frames(first: int, payloads: Sequence[bytes]) -> bytes:
    """A batch as it stands in a segment; raises ValueError for what is no JSON object."""
    parts: list[bytes] = []
    flag = BEGINS
    for index, payload in enumerate(payloads, first):
        if payload[:2] != OPENS:
            raise ValueError(f"a log entry is a JSON object, not {payload[:16]!r}")
        length = len(payload) | flag
        flag = 0
        checked = crc32(payload, crc32(MARKED.pack(length, index)))
        parts += (HEAD.pack(length, checked, index), payload)
    return b"".join(parts)


def frame(data: bytes, at: int) -> Frame | None:
    """The frame that begins at this place, or None if there is no whole one."""
    if at + SIZE > len(data):
        return None
    length, checked, index = HEAD.unpack_from(data, at)
    end = at + SIZE + (length & LENGTH)
    payload = data[at + SIZE : end]
    if end > len(data) or payload[:2] != OPENS:
        return None
    if crc32(payload, crc32(MARKED.pack(length, index))) != checked:
        return None
    return Frame(end, index, length >= BEGINS, payload)


def entries(data: bytes, at: int, index: int) -> Iterator[Frame]:
    """The whole frames from a place on, as long as their indexes follow one another."""
    while (found := frame(data, at)) is not None and found.number == index:
        yield found
        at, index = found.end, index + 1


def later(data: bytes, at: int) -> Iterator[Frame]:
    """Whole frames anywhere behind a damaged place."""
    at = data.find(OPENS, at + SIZE + 1)
    while at >= 0:
        found = frame(data, at - SIZE)
        if found is not None:
            yield found
        at = data.find(OPENS, found.end + SIZE if found is not None else at + 1)


def hashed(data: bytes, at: int, index: int, end: int) -> tuple[bytes, int, int]:
    """Tree hashes of the whole frames from a place on, to before index ``end``.

    Returns them as a row, the place behind the last one and its index plus one.
    """
    if digest.BOUND:
        return digest.leaf_hashes(data, at, index, end)
    row: list[bytes] = []
    size = len(data)
    head, mark = HEAD.unpack_from, MARKED.pack
    while index < end and at + SIZE <= size:
        length, checked, number = head(data, at)
        behind = at + SIZE + (length & LENGTH)
        payload = data[at + SIZE : behind]
        if (
            number != index
            or behind > size
            or crc32(payload, crc32(mark(length, index))) != checked
        ):
            break
        row.append(sha256(b"\0" + payload).digest())
        at, index = behind, index + 1
    return b"".join(row), at, index
