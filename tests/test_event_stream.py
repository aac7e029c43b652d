"""Frames of AWS event streams: as botocore reads them, cut anywhere, and what is none."""

from __future__ import annotations

import struct
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer, ParserError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bifrost.translate.event_stream import MOST_FRAME, Frame, FrameReader, Kind, encode

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


def whole(bits: int, kind: Kind) -> st.SearchStrategy[Any]:
    most = 1 << (bits - 1)
    return st.tuples(st.just(kind), st.integers(-most, most - 1))


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.booleans(),
    whole(8, Kind.BYTE),
    whole(16, Kind.SHORT),
    whole(32, Kind.INTEGER),
    whole(64, Kind.LONG),
    whole(64, Kind.TIMESTAMP),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(max_size=20),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.tuples(st.just(Kind.UUID), st.binary(min_size=16, max_size=16)),
)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=5)
FRAMES = st.lists(st.tuples(HEADERS, st.binary(max_size=60)), min_size=1, max_size=3)
CHUNK = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}


def theirs(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """The frames as botocore reads them."""
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, message.payload) for message in buffer]


def read(*chunks: bytes) -> list[Frame]:
    reader = FrameReader()
    frames = [frame for chunk in chunks for frame in reader.feed(chunk)]
    reader.finish()
    assert reader.boundary
    return frames


def same(frames: list[Frame], expected: list[tuple[dict[str, Any], bytes]]) -> bool:
    return [(dict(frame.headers), frame.payload) for frame in frames] == expected


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FRAMES)
def test_both_ways_as_botocore_at_every_cut(made: list[tuple[dict[str, Any], bytes]]) -> None:
    data = b"".join(encode(headers, payload) for headers, payload in made)
    values = [({k: v[1] if isinstance(v, tuple) else v for k, v in h.items()}, p) for h, p in made]
    assert theirs(data) == values
    assert same(read(data), values)
    assert same(read(*(bytes((byte,)) for byte in data)), values)
    for at in range(len(data)):
        assert same(read(data[:at], data[at:]), values)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FRAMES, st.data())
def test_a_changed_bit_is_found(
    made: list[tuple[dict[str, Any], bytes]], draw: st.DataObject
) -> None:
    """Frames before it come out, whatever the cut; then the stream is broken for good."""
    coded = [encode(headers, payload) for headers, payload in made]
    which = draw.draw(st.integers(0, len(coded) - 1))
    broken = bytearray(coded[which])
    bit = draw.draw(st.integers(0, len(broken) * 8 - 1))
    broken[bit // 8] ^= 1 << bit % 8
    data = b"".join((*coded[:which], broken, *coded[which + 1 :]))
    with pytest.raises(ParserError):
        theirs(data)
    at = draw.draw(st.integers(0, len(data)))
    reader, frames = FrameReader(), []
    with pytest.raises(ValueError, match=r"checksum.*\.$"):
        for chunk in (data[:at], data[at:]):
            frames += reader.feed(chunk)
        reader.finish()
    assert len(frames) == which
    with pytest.raises(ValueError, match="checksum"):
        reader.feed(b"")


def test_a_stream_cut_short_waits() -> None:
    data = encode(CHUNK, b"{}") * 2
    reader = FrameReader()
    assert len(reader.feed(data[:-1])) == 1
    reader.finish()
    assert not reader.boundary


def framed(block: bytes, payload: bytes = b"", size: int | None = None) -> bytes:
    """A frame with these very headers, its checksums right."""
    size = 16 + len(block) + len(payload) if size is None else size
    data = struct.pack("!II", size, len(block))
    data += struct.pack("!I", crc32(data)) + block + payload
    return data + struct.pack("!I", crc32(data))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (framed(b"\x01a\x00\x01a\x01"), "'a' twice"),
        (framed(b"\x01a\x0a"), "unknown type 10"),
        (framed(b"\x01a\xff"), "unknown type 255"),
        (framed(b"\x01a"), "end inside"),
        (framed(b"\x05abc"), "end inside"),
        (framed(b"\x01a\x03\x00"), "end inside"),
        (framed(b"\x01a\x07\x00\x05abcd"), "end inside"),
        (framed(b"\x01a\x06\x00"), "end inside"),
        (framed(b"\x01a\x09" + bytes(15)), "end inside"),
        (framed(b"\x01\xff\x00"), "not UTF-8"),
        (framed(b"\x01a\x07\x00\x01\xff"), "not UTF-8"),
        (framed(b"", size=15), "no 0 bytes of headers"),
        (framed(b"", size=0), "no 0 bytes of headers"),
        (framed(b"\x01a\x00", size=18), "no 3 bytes of headers"),
        (framed(bytes(131_073)), "no 131073 bytes of headers"),
        (framed(b"", size=MOST_FRAME + 1), "longer than 25165824"),
        (b"HTTP/1.1 502 Bad Gateway\r\n", "checksum of a frame's beginning"),
        (b"data: {}\n\ndata: {}\n\n", "checksum of a frame's beginning"),
    ],
)
def test_what_is_no_frame(data: bytes, problem: str) -> None:
    """Said in one sentence, at every cut, and not only once the whole frame is there."""
    for at in range(min(len(data), 40)):
        with pytest.raises(ValueError, match=problem) as caught:
            read(data[:at], data[at:])
        assert type(caught.value) is ValueError and str(caught.value).count(".") == 1


@pytest.mark.parametrize("size", [MOST_FRAME - 16, MOST_FRAME - 15])
def test_the_longest_frame(size: int) -> None:
    if size + 16 > MOST_FRAME:
        with pytest.raises(ValueError, match="cannot hold"):
            encode({}, bytes(size))
    else:
        data = encode({}, bytes(size))
        (frame,) = read(data[:1_000_000], data[1_000_000:])
        assert len(frame.payload) == size


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"": True}, "1 to 255 bytes"),
        ({"a" * 256: True}, "1 to 255 bytes"),
        ({"ä" * 128: True}, "not 256"),
        ({"a": "x" * 32_768}, "32768 bytes are no STRING"),
        ({"a": b"x" * 32_768}, "32768 bytes are no BYTES"),
        ({"a": (Kind.UUID, b"short")}, "5 bytes are no UUID"),
        ({"a": (Kind.BYTE, 128)}, "128 is no BYTE"),
        ({"a": (Kind.SHORT, b"xy")}, "2 bytes are no SHORT"),
        ({"a": (Kind.STRING, 5)}, "5 is no STRING"),
        ({"a": 1 << 63}, "is no LONG"),
        ({str(i): b"x" * 32_767 for i in range(5)}, "cannot hold"),
    ],
)
def test_what_no_frame_can_hold(headers: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        encode(headers, b"")
