"""Compiled shortcuts for what streams are made of say what the full reading says, or nothing."""

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost._fast.pieces import chunk_event, delta, delta_data, event_data, frame_payload
from bifrost.translate.event_stream import FrameReader, framed, headers_of

BLOCK = headers_of({":event-type": "chunk", ":content-type": "application/json"})
HEAD = b"event: content_block_delta\ndata: "
KINDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def event(kind: str, text: str, index: int = 0, blanks: int = 0, *, ascii_only: bool) -> bytes:
    told = {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": kind, KINDS[kind]: text},
    }
    made = json.dumps(told, separators=(",", ":"), ensure_ascii=ascii_only)
    return (made[:-1] + " " * blanks + "}").encode()


@given(st.sampled_from(sorted(KINDS)), TEXTS, st.integers(0, 999), st.integers(0, 9), st.booleans())
def test_a_delta_is_taken_for_what_it_says(
    kind: str, text: str, index: int, blanks: int, ascii_only: bool
) -> None:
    data = event(kind, text, index, blanks, ascii_only=ascii_only)
    found = delta_data(data)
    assert delta(HEAD + data + b"\n\n") == found
    if found is None:
        assert b"\\u" in data  # only a long escape is left to the full reading
    else:
        assert (found[0].decode(), json.loads(found[1])) == (KINDS[kind], text)
        assert b"\\u" not in found[1]


@given(st.data())
def test_what_was_changed_is_taken_for_nothing_that_it_is_not(data: st.DataObject) -> None:
    whole = HEAD + event("text_delta", 'a "piece"', ascii_only=True) + b"\n\n"
    at = data.draw(st.integers(0, len(whole) - 1))
    put = data.draw(st.binary(max_size=2))
    changed = whole[:at] + put + whole[at + 1 :]
    found = delta(changed)
    if found is not None:
        told = json.loads(changed.removeprefix(HEAD))
        assert told["type"] == "content_block_delta"
        assert told["delta"][found[0].decode()] == json.loads(found[1])


@pytest.mark.parametrize(
    "chunk",
    [
        HEAD + event("text_delta", "two", ascii_only=True) + b"\n",
        HEAD + event("text_delta", "one", ascii_only=True) + b"\n\n" + HEAD,
        HEAD + event("text_delta", "x", ascii_only=True).replace(b"x", b"\xff") + b"\n\n",
        HEAD + event("text_delta", "x", ascii_only=True).replace(b"x", b"\xed\xa0\x80") + b"\n\n",
        HEAD + event("text_delta", "x", ascii_only=True).replace(b'"x"', b'"x') + b"\n\n",
        HEAD + event("text_delta", "x", ascii_only=True).replace(b"x", b"\\") + b"\n\n",
        HEAD + event("text_delta", "x", ascii_only=True).replace(b"x", b"\n") + b"\n\n",
        HEAD + event("text_delta", "x", ascii_only=True).replace(b"0", b"") + b"\n\n",
        HEAD,
        b"",
    ],
)
def test_what_is_no_delta(chunk: bytes) -> None:
    assert delta(chunk) is None


@pytest.mark.parametrize(
    ("chunk", "data"),
    [
        (b"data: {}\n\n", b" {}"),
        (b"data:{}\r\n\r\n", b"{}\r"),
        (b"event: x\ndata: {}\n\n", b" {}"),
        (b"data: {}\n", None),
        (b"data: {}\n\ndata: {}\n\n", None),
        (b"data: {}\ndata: {}\n\n", None),
        (b"id: 1\ndata: {}\n\n", None),
        (b": comment\n\n", None),
        (b"event: x\n\n", None),
        (b"event: x", None),
        (b"", None),
    ],
)
def test_an_event_that_comes_alone(chunk: bytes, data: bytes | None) -> None:
    assert event_data(chunk) == data


@given(st.binary(max_size=300), st.sampled_from([b"", b',"p":"abcd"', b',"p":""']))
def test_the_event_in_a_frame(told: bytes, padding: bytes) -> None:
    frame = framed(BLOCK, b'{"bytes":"%b"%b}' % (b64encode(told), padding))
    assert chunk_event(frame, BLOCK) == told
    assert frame_payload(frame, BLOCK) == b'{"bytes":"%b"%b}' % (b64encode(told), padding)
    assert frame_payload(frame, BLOCK[:-1]) is frame_payload(frame[:-1], BLOCK) is None
    assert chunk_event(frame, BLOCK[:-1] + b"x") is None
    assert chunk_event(frame, b"") is None


@given(st.data())
def test_a_frame_that_was_changed_is_left_to_the_reader(data: st.DataObject) -> None:
    frame = framed(BLOCK, b'{"bytes":"%b"}' % b64encode(b'{"type":"ping"}'))
    at = data.draw(st.integers(0, len(frame) - 1))
    changed = frame[:at] + bytes((frame[at] ^ data.draw(st.integers(1, 255)),)) + frame[at + 1 :]
    assert chunk_event(changed, BLOCK) is frame_payload(changed, BLOCK) is None
    assert chunk_event(frame[:at], BLOCK) is None
    assert chunk_event(frame + frame[: at + 1], BLOCK) is None
    with pytest.raises(ValueError, match=r"[Ff]rame"):
        reader = FrameReader()
        assert reader.feed(changed) == []
        reader.feed(frame + bytes(1 << 20))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"bytes":"YQ="}',
        b'{"bytes":"YQ"}',
        b'{"bytes":"Y==="}',
        b'{"bytes":"YR=="}',
        b'{"bytes":"YQ==YQ=="}',
        b'{"bytes":"Y-=="}',
        b'{"bytes":"YQ=="} ',
        b'{"bytes":"YQ==","p":"a',
        b'{"bytes":"YQ==","q":"a"}',
        b'{"bytes":"YQ=="',
        b'{"p":"a","bytes":"YQ=="}',
        b'{"bytes":"',
        b"{}",
        b"",
    ],
)
def test_a_payload_of_another_spelling_is_left_to_the_reader(payload: bytes) -> None:
    assert chunk_event(framed(BLOCK, payload), BLOCK) is None
