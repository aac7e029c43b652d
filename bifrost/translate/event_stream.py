"""Frames of application/vnd.amazon.eventstream, read and written. Pure: bytes in, bytes out.

A frame: length of all, length of the headers and the CRC-32 of these two; headers; payload; the
CRC-32 of everything before it. Numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

MOST_FRAME = 24 << 20  # bytes, as AWS limits a payload
MOST_HEADERS = 128 << 10  # bytes of a frame's headers together
MOST_VALUE = 32_767  # bytes of one header's text or bytes
_LEAST = 16  # bytes of a frame without headers and payload
_REMEMBERED = 256  # bytes: shorter header blocks come again with every event

Value = bool | int | bytes | str


class Kind(IntEnum):
    """What a header's value is on the wire."""

    TRUE = 0
    FALSE = 1
    BYTE = 2
    SHORT = 3
    INTEGER = 4
    LONG = 5
    BYTES = 6
    STRING = 7
    TIMESTAMP = 8  # milliseconds since 1970
    UUID = 9  # 16 bytes


class Frame(NamedTuple):
    """One message: its headers by name and its payload."""

    headers: Mapping[str, Value]
    payload: bytes
    block: bytes = b""  # the headers as they came


_PRELUDE = struct.Struct("!III")
_SIZES = struct.Struct("!II")
_CRC = struct.Struct("!I")
_SIZE = struct.Struct("!H")
_NUMBERS = {
    Kind.BYTE: struct.Struct("!b"),
    Kind.SHORT: struct.Struct("!h"),
    Kind.INTEGER: struct.Struct("!i"),
    Kind.LONG: struct.Struct("!q"),
    Kind.TIMESTAMP: struct.Struct("!q"),
}
_KINDS: dict[type, Kind] = {int: Kind.LONG, bytes: Kind.BYTES, str: Kind.STRING}


class FrameReader:
    """Reads a stream of frames that is cut anywhere.

    Frames before a broken one are handed out; what is wrong with it is raised by the call after,
    and by every other. So what is read does not depend on where the stream was cut.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._broken: ValueError | None = None

    @property
    def boundary(self) -> bool:
        """The stream is at its beginning or right behind a frame."""
        return not self._rest

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that the next bytes complete. Raises ValueError for what is no frame."""
        self.finish()
        data: bytes | bytearray = chunk
        if self._rest:
            self._rest += chunk
            data = self._rest
        frames: list[Frame] = []
        at, end = 0, len(data)
        try:
            while at < end and (size := _length(data, at)):
                frames.append(
                    _frame(chunk if data is chunk and size == end else bytes(data[at : at + size]))
                )
                at += size
        except ValueError as error:
            self._broken = error
            if not frames:
                raise
        if data is not chunk:
            del self._rest[:at]
        elif at < end:
            self._rest += memoryview(chunk)[at:]
        return frames

    def finish(self) -> None:
        """Raises the ValueError that is still due; a frame that was cut short raises none."""
        if self._broken is not None:
            raise self._broken


def _length(data: bytes | bytearray, at: int) -> int:
    """Bytes of the frame that begins here; 0 while it is not complete."""
    if len(data) - at < _PRELUDE.size:
        return 0
    size, of_headers, crc = _PRELUDE.unpack_from(data, at)
    if crc32(data[at : at + 8]) != crc:
        raise ValueError("The checksum of a frame's beginning is wrong.")
    if size > MOST_FRAME:
        raise ValueError(f"A frame of {size} bytes is longer than {MOST_FRAME}.")
    if of_headers > size - _LEAST or of_headers > MOST_HEADERS:
        raise ValueError(f"A frame of {size} bytes has no {of_headers} bytes of headers.")
    return int(size) if len(data) - at >= size else 0


def _frame(data: bytes) -> Frame:
    (crc,) = _CRC.unpack_from(data, len(data) - 4)
    if crc32(memoryview(data)[:-4]) != crc:
        raise ValueError("A frame's checksum is wrong.")
    end = _PRELUDE.size + int.from_bytes(data[4:8])
    block = data[_PRELUDE.size : end]
    read = _known_headers if len(block) <= _REMEMBERED else _headers
    return Frame(read(block), data[end:-4], block)


def _headers(block: bytes) -> Mapping[str, Value]:
    found: dict[str, Value] = {}
    at = 0
    while at < len(block):
        raw, at = _taken(block, at + 1, block[at])
        name = _text(raw)
        if name in found:
            raise ValueError(f"A frame has the header {name!r} twice.")
        found[name], at = _value(block, at)
    return MappingProxyType(found)


_known_headers: Callable[[bytes], Mapping[str, Value]] = lru_cache(maxsize=64)(_headers)


def _value(block: bytes, at: int) -> tuple[Value, int]:
    """(a header's value, where it ends)."""
    raw, at = _taken(block, at, 1)
    kind = raw[0]
    if kind <= Kind.FALSE:
        return kind == Kind.TRUE, at
    if kind in (Kind.BYTES, Kind.STRING):
        raw, at = _taken(block, at, 2)
        raw, at = _taken(block, at, _SIZE.unpack(raw)[0])
        return (raw if kind == Kind.BYTES else _text(raw)), at
    if kind == Kind.UUID:
        return _taken(block, at, 16)
    if kind not in _NUMBERS:
        raise ValueError(f"A frame has a header of the unknown type {kind}.")
    number = _NUMBERS[Kind(kind)]
    raw, at = _taken(block, at, number.size)
    found: int = number.unpack(raw)[0]
    return found, at


def _taken(block: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(block):
        raise ValueError("A frame's headers end inside of one.")
    return block[at:end], end


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("A frame has a header that is not UTF-8.") from None


def encode(headers: Mapping[str, Value | tuple[Kind, Value]], payload: bytes) -> bytes:
    """One frame. An int alone is a LONG; (kind, value) says what else it is.

    Raises ValueError for what no frame can hold.
    """
    return framed(headers_of(headers), payload)


def headers_of(headers: Mapping[str, Value | tuple[Kind, Value]]) -> bytes:
    """The headers of a frame on the wire, as ``encode`` takes them."""
    return b"".join(_header(name, value) for name, value in headers.items())


def framed(block: bytes, payload: bytes) -> bytes:
    """One frame with headers that are coded already. Raises ValueError for what none can hold."""
    size = _LEAST + len(block) + len(payload)
    if len(block) > MOST_HEADERS or size > MOST_FRAME:
        raise ValueError(f"A frame cannot hold {len(block)} and {len(payload)} bytes.")
    sizes = _SIZES.pack(size, len(block))
    data = b"%b%b%b%b" % (sizes, _CRC.pack(crc32(sizes)), block, payload)
    return data + _CRC.pack(crc32(data))


def _header(name: str, given: Value | tuple[Kind, Value]) -> bytes:
    raw = name.encode()
    if not 0 < len(raw) < 256:
        raise ValueError(f"A header's name has 1 to 255 bytes, not {len(raw)}.")
    if isinstance(given, tuple):
        kind, value = given
    elif isinstance(given, bool):
        kind, value = (Kind.TRUE if given else Kind.FALSE), given
    else:
        kind, value = _KINDS[type(given)], given
    return bytes((len(raw),)) + raw + bytes((kind,)) + _coded(kind, value)


def _coded(kind: Kind, value: Value) -> bytes:
    if kind <= Kind.FALSE:
        return b""
    if isinstance(value, int):
        try:
            return _NUMBERS[kind].pack(value)
        except (struct.error, KeyError):
            raise ValueError(f"{value} is no {kind.name}.") from None
    raw = value.encode() if isinstance(value, str) else value
    if kind == Kind.UUID and len(raw) == 16:
        return raw
    if kind not in (Kind.BYTES, Kind.STRING) or len(raw) > MOST_VALUE:
        raise ValueError(f"{len(raw)} bytes are no {kind.name} of a header.")
    return _SIZE.pack(len(raw)) + raw
