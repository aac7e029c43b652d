"""The answer side of the wire, Tap and top_level, against an oracle in plain Python."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost._fast.wire import Tap, top_level

CAP = 1 << 20
quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)


class Pairs(list[tuple[str, Any]]):
    pass


def content(data: bytes) -> int:
    """Bytes of the strings that are generated content, each escape counted as one."""
    # Latin-1 makes every byte a letter; the keys looked for are never escaped in these tests.
    plain = re.sub(r"\\(?:u[0-9a-fA-F]{4}|.)", "?", data.decode("latin-1"))
    total = 0
    for key, value in json.loads(plain, object_pairs_hook=Pairs, strict=False):
        for name, text in value if key == "delta" and type(value) is Pairs else ():
            if name in ("text", "partial_json", "thinking") and isinstance(text, str):
                total += len(text)
    return total


def oracle(stream: bytes, finished: bool) -> dict[str, Any]:
    """What a Tap must know after these bytes."""
    said: dict[str, Any] = dict.fromkeys(("start", "delta", "error"))
    said |= {"stopped": False, "overflow": False, "output_bytes": 0, "events": 0}
    said |= {"received": len(stream), "boundary": not stream}
    *lines, rest = re.split(rb"\r\n|\r|\n", stream)
    if not rest and lines:
        said["boundary"] = (
            lines[-1].removeprefix(b"\xef\xbb\xbf" if len(lines) == 1 else b"") == b""
        )
    if finished:
        lines += [rest, b""]
    data: list[bytes] = []
    for number, line in enumerate(lines):
        said["overflow"] |= len(line) > CAP
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        if line:
            name, _, value = line.partition(b":")
            data += [value.removeprefix(b" ")] if name == b"data" else []
            continue
        if data:
            said["events"] += 1
            tell(said, b"\n".join(data))
        data = []
    return said


def tell(said: dict[str, Any], data: bytes) -> None:
    try:
        tree = json.loads(data.decode("latin-1"), strict=False)
    except ValueError:
        return
    if len(data) > CAP or type(tree) is not dict:
        return
    kind = tree.get("type")
    if kind == "content_block_delta":
        said["output_bytes"] += content(data)
    elif kind == "message_start":
        said["start"] = said["start"] or data
    elif kind == "message_delta" and type(tree.get("usage")) is dict:
        said["delta"] = data
    elif kind == "error":
        said["error"] = said["error"] or data
    elif kind == "message_stop":
        said["stopped"] = True


def state(tap: Tap, expected: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(tap, name) for name in expected}


def event(kind: str, **more: object) -> bytes:
    data = json.dumps({"type": kind, **more}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def delta(**more: object) -> bytes:
    return event("content_block_delta", index=0, delta=more)


USAGE = {"input_tokens": 12, "output_tokens": 1, "cache_read_input_tokens": 0}
TRAPS = [
    event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 9}).decode(),
    event("error", error={"type": "overloaded_error"}).decode(),
    event("message_stop").decode(),
    '"usage":{"output_tokens":99} "type":"error" \\u0022 \\',
]
STREAM = b"".join(
    [
        event("message_start", message={"id": "msg_1", "model": "m", "usage": USAGE}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        delta(type="text_delta", text="Hello"),
        b": a comment\n",
        *(delta(type="text_delta", text=trap) for trap in TRAPS),
        delta(type="thinking_delta", thinking="h\u00e9\U0001f600\n\ttab"),
        delta(type="input_json_delta", partial_json='{"a":"\\u00e9'),
        delta(type="signature_delta", signature="c2ln"),
        delta(type="text_delta", text=5),
        b'data:{"delta":{"text":"half of \\ud83d","type":"text_delta"},\r\n',
        b'data: "index":0,"typ\\u0065":"content_block\\u005fdelta"}\r\nevent: late\r\n\r\n',
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}),
        b'data: {"usage" : {"output_tokens": 7}, "type"\t: "message_delta"}\r\r',
        b'data: {"type": "message_delta", "usage": null}\n\n',
        b'data: {"type": "error", "error": {"type": "x", "usage": {}}}\n\n',
        b"data: [DONE]\n\ndata\n\nid: 3\nretry\n\ndata: not json\n\n",
        b'data: {"type":"text"}\n\ndata: {"type":{"type":"error"},"a":"\xff\xc3"}\n\n',
        event("message_stop"),
    ]
)


def test_a_realistic_stream_is_understood() -> None:
    tap = Tap()
    assert tap.boundary
    tap.feed(STREAM)
    tap.finish()
    expected = oracle(STREAM, True)
    assert state(tap, expected) == expected
    assert tap.start is not None and json.loads(tap.start)["message"]["usage"] == USAGE
    assert tap.delta == b'{"usage" : {"output_tokens": 7}, "type"\t: "message_delta"}'
    assert tap.error == b'{"type": "error", "error": {"type": "x", "usage": {}}}'
    assert tap.stopped and tap.boundary and not tap.overflow


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_every_split_gives_the_same(start: bytes, ends: bytes) -> None:
    stream = start + STREAM.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", ends)
    whole = oracle(stream, True)
    for cut in range(0, len(stream), 1 if ends != b"\r" else 3):
        tap = Tap()
        tap.feed(stream[:cut])
        boundary = tap.boundary
        tap.feed(stream[cut:])
        assert state(tap, whole) == whole
        if cut % 9 == 0:
            assert boundary == oracle(stream[:cut], False)["boundary"]


def test_byte_by_byte_and_cut_off() -> None:
    tap = Tap()
    for at in range(len(STREAM)):
        tap.feed(STREAM[at : at + 1])
        if at % 7 == 0:
            expected = oracle(STREAM[: at + 1], False)
            assert state(tap, expected) == expected
            late = Tap()
            late.feed(STREAM[: at + 1])
            late.finish()
            expected = oracle(STREAM[: at + 1], True)
            assert state(late, expected) == expected


@quick
@given(st.randoms(use_true_random=False))
def test_random_streams_in_random_chunks(random: Random) -> None:
    parts = STREAM.split(b"\n\n")
    odd = [b"\r", b"\n", b"\r\n", b"data:", b"data", b"datax: 1", b": x", b"\xef\xbb\xbf", b"\x00"]
    odd += [b"{", b'"', b"\\", b" ", b"data: {}", b'data: {"type":"message_stop"}\n\n', b"}"]
    pieces = []
    for _ in range(random.randrange(12)):
        pieces.append(random.choice(odd if random.random() < 0.6 else parts))
        pieces.append(random.choice([b"\n\n", b"\n", b"\r\n", b"", b"\r\r"]))
    stream = b"".join(pieces)
    tap, at = Tap(), 0
    while at < len(stream):
        size = random.choice([1, 2, 5, 40, 300])
        tap.feed(stream[at : at + size])
        at += size
        tap.feed(b"")
    tap.finish()
    expected = oracle(stream, True)
    assert state(tap, expected) == expected


@quick
@given(st.lists(st.binary(max_size=50), max_size=6))
def test_noise_is_never_an_error(chunks: list[bytes]) -> None:
    tap = Tap()
    for chunk in chunks:
        tap.feed(chunk)
        tap.finish()
    assert tap.received == sum(map(len, chunks))


@pytest.mark.parametrize("size", [CAP - 1, CAP, CAP + 1, 3 * CAP])
@pytest.mark.parametrize("chunk", [4 * CAP, 65_536])
def test_a_line_beyond_the_cap_is_skipped(size: int, chunk: int) -> None:
    head = b'data: {"type":"content_block_delta","delta":{"text":"'
    line = head + b"x" * (size - len(head) - 3) + b'"}}'
    assert len(line) == size
    stream = line + b"\n\n" + event("message_stop")
    tap = Tap()
    for at in range(0, len(stream), chunk):
        tap.feed(stream[at : at + chunk])
    assert tap.overflow == (size > CAP)
    assert tap.output_bytes == (0 if size > CAP else size - len(head) - 3)
    assert (tap.events, tap.stopped, tap.boundary) == (2, True, True)


def test_an_event_of_many_lines_is_bounded() -> None:
    tap = Tap()
    for _ in range(40):
        tap.feed(b"data: " + b" " * 65_536 + b"\n")
    tap.feed(b'data: {"type":"error"}\n\ndata: {"type":"message_stop"}\n\n')
    assert (tap.overflow, tap.error, tap.stopped, tap.events) == (True, None, True, 2)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"id":1,"usage":{"a":[1, 2]},"z":null}', b'{"a":[1, 2]}'),
        (b' {"usage" : 5 } ', b"5"),
        (b'{"us\\u0061ge":"a\\"b","x":{"usage":1}}', b'"a\\"b"'),
        (b'{"usage":1,"usage":[]}', b"[]"),
        (b'{"a":"\xff\\ud83d\n","usage":true}', b"true"),
        (b'{"x":{"usage":1}}', None),
        (b'{"usage":1', None),
        (b'{"usage":1}}', None),
        (b'{"usage":01}', None),
        (b'{"usage":1,}', None),
        (b'[{"usage":1}]', None),
        (b'"usage"', None),
        (b"", None),
    ],
)
def test_top_level_cuts_out_the_raw_value(body: bytes, value: bytes | None) -> None:
    assert top_level(body, "usage") == value


def test_top_level_finds_any_name() -> None:
    names = ["", "é", "😀", "a\x00b", '"', "\\", "x" * 300]
    for ascii_only in (True, False):
        body = json.dumps({name: [name] for name in names}, ensure_ascii=ascii_only).encode()
        for name in names:
            assert json.loads(top_level(body, name) or b"") == [name]
        assert top_level(body, "\ufffd") is None
