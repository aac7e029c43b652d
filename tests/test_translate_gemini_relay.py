"""Gemini clients on Gemini hosts: what is sent, what passes, and what the meters read of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost._fast import wire
from bifrost.doors.gemini import GEMINI
from bifrost.doors.gemini_array import JsonArray
from bifrost.errors import InvalidRequest
from bifrost.translate.gemini_gemini import GeminiGemini
from bifrost.translate.gemini_signature import seal
from bifrost.translate.translation import Traits
from tests.gemini_host import chunk

CONTENTS = [{"parts": [{"text": "Hi"}]}]
CALL = {"functionCall": {"name": "f", "args": {"a": "é"}}}
CHUNKS = [
    chunk({"text": "Hm.", "thought": True}, prompt=100),
    chunk({"text": "So\u2028é"}, CALL, prompt=100, candidates=3),
    chunk({"text": ""}, ends="STOP", prompt=100, cachedContent=40, candidates=9, thoughts=5,
          toolUsePrompt=2),
]  # fmt: skip
USED = {
    "input_tokens": 62, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0,
    "output_tokens": 14, "output_tokens_details": {"thinking_tokens": 5},
}  # fmt: skip


def relay(body: Any, limit: int | None = None) -> GeminiGemini:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return GeminiGemini(raw, "gemini-x", max_tokens=limit, traits=Traits())


def streamed(*chunks: Any) -> bytes:
    return b"".join(
        b"data: %b\r\n\r\n" % json.dumps(one, ensure_ascii=False).encode() for one in chunks
    )


def metered(*pieces: bytes) -> wire.Tap:
    """What the meters see of a stream in these pieces."""
    stream, tap = relay({"contents": CONTENTS}).stream(77), wire.Tap()
    for piece in pieces:
        tap.feed(stream.feed(piece))
    tap.feed(stream.finish())
    tap.finish()
    return tap


def test_what_the_path_says_leaves_the_body_and_the_rest_stays() -> None:
    body = b'{"model":"m","contents":[{"parts":[{"text":"a"}]}],"x":1.50,"stream":true}'
    assert relay(body).body == b'{"contents":[{"parts":[{"text":"a"}]}],"x":1.50}'
    config = {"contents": CONTENTS, "generationConfig": {"seed": 1, "maxOutputTokens": 9}}
    assert json.loads(relay(config).body) == config
    assert json.loads(relay(config, 5).body)["generationConfig"] == {
        "seed": 1,
        "maxOutputTokens": 5,
    }
    assert json.loads(relay({"contents": CONTENTS}, 5).body)["generationConfig"] == {
        "maxOutputTokens": 5
    }


def test_what_was_given_twice_is_there_once_as_it_was_governed() -> None:
    body = (
        b'{"contents":[],"tools":[{"googleSearch":{},"googleSearch":null}],'
        b'"generationConfig":{"candidateCount":8,"candidateCount":1}}'
    )
    assert relay(body).body == (
        b'{"contents":[],"tools":[{"googleSearch":null}],"generationConfig":{"candidateCount":1}}'
    )


def test_a_conversation_that_claude_took_part_in() -> None:
    sealed = seal([{"type": "thinking", "thinking": "x", "signature": "y"}])
    told = [CALL | {"thoughtSignature": sealed}, {"text": "a", "thoughtSignature": sealed}]
    own = CALL | {"thoughtSignature": "c2ln"}
    sent = json.loads(relay({"contents": [{"role": "model", "parts": [*told, own]}]}).body)
    assert sent["contents"][0]["parts"] == [
        CALL | {"thoughtSignature": "skip_thought_signature_validator"}, {"text": "a"}, own,
    ]  # fmt: skip


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"generationConfig":7}', b'{"tools":[7]}'])
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a Gemini request"):
        relay(body)


def test_a_whole_answer_passes_and_is_metered() -> None:
    whole = json.dumps(CHUNKS[-1]).encode()
    given = relay({"contents": CONTENTS})
    assert given.shown(200, whole) == whole
    assert json.loads(given.answer(200, whole)[1])["usage"] == USED
    silent = json.loads(given.answer(200, json.dumps(chunk(CALL, {"text": "x" * 360})).encode())[1])
    assert silent["usage"]["input_tokens"] > 0 and silent["usage"]["output_tokens"] >= 100


def test_errors_lose_the_names_of_our_account() -> None:
    error = b'{"error":{"code":403,"message":"No access for projects/my-project-1."}}'
    assert b"my-project" not in relay({"contents": CONTENTS}).shown(403, error)


def test_every_split_of_a_stream_is_metered_alike() -> None:
    raw = streamed(*CHUNKS)
    whole = metered(raw)
    assert whole.stopped and whole.delta is not None
    assert json.loads(whole.delta)["usage"] == USED
    for cut in range(len(raw) + 1):
        tap = metered(raw[:cut], raw[cut:])
        assert (tap.stopped, tap.delta, tap.output_bytes) == (True, whole.delta, whole.output_bytes)
    assert metered(*(raw[at : at + 1] for at in range(len(raw)))).delta == whole.delta


def test_a_cut_stream_has_no_end_and_an_error_ends_one() -> None:
    assert not metered(streamed(*CHUNKS[:-1])).stopped
    assert metered(streamed(*CHUNKS[:-1])).output_bytes > 0
    error = {"error": {"code": 503, "message": "Busy.", "status": "UNAVAILABLE"}}
    for told in (streamed(CHUNKS[0], error), streamed(CHUNKS[0]) + json.dumps(error).encode()):
        tap = metered(told)
        assert tap.error is not None and b"overloaded" in tap.error and not tap.stopped
    refused = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 9},
    }
    assert metered(streamed(refused)).stopped
    with pytest.raises(ValueError, match="without an end"):
        metered(b"data: " + b"x" * (17 << 20))


def arrayed(*pieces: bytes, media: bytes = b"text/event-stream") -> bytes:
    """What a client without ``alt=sse`` gets of a stream in these pieces."""
    out: list[Any] = []

    async def send(message: Any) -> None:
        out.append(message)

    async def play() -> None:
        array = JsonArray(send)
        headers = [(b"content-type", media), (b"x-a", b"1")]
        await array({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            body = {"type": "http.response.body", "body": piece, "more_body": True}
            await array(body)
        await array({"type": "http.response.body", "body": b""})

    asyncio.run(play())
    assert out[0]["headers"][0] == (b"x-a", b"1") or media != b"text/event-stream"
    return b"".join(message["body"] for message in out[1:])


def test_an_array_has_the_elements_of_the_stream() -> None:
    raw = streamed(*CHUNKS)
    whole = arrayed(raw)
    assert json.loads(whole) == CHUNKS
    for cut in range(0, len(raw) + 1, 7):
        assert json.loads(arrayed(raw[:cut], raw[cut:])) == CHUNKS
    assert json.loads(arrayed()) == []
    assert arrayed(b"{}", media=b"application/json") == b"{}"


@given(st.lists(st.integers(0, 3), max_size=4))
def test_signs_of_life_are_white_space_to_every_client(pings: list[int]) -> None:
    pieces: list[bytes] = []
    for number, one in enumerate(CHUNKS):
        pieces += [GEMINI.ping] * pings.count(number) + [streamed(one)]
    assert json.loads(arrayed(*pieces)) == CHUNKS
    assert javascript(b"".join(pieces)) == len(CHUNKS)


def javascript(raw: bytes) -> int:
    """How many chunks Google's SDK for JavaScript finds, by its own rule."""
    line = re.compile(r"^\s*data: ([^\n\r\u2028\u2029]*)(?:\n\n|\r\r|\r\n\r\n)")
    buffer, found = raw.decode().replace("\u2028", " "), 0  # as Google itself would escape it
    while match := line.match(buffer):
        json.loads(match[1])
        buffer, found = buffer[match.end() :], found + 1
    assert not buffer.strip()
    return found


def test_an_error_behind_half_a_chunk() -> None:
    """The half is lost, the array still an array."""
    broken = GEMINI.broken_event("It broke. Try again.", "r", "api_error")
    raw = streamed(*CHUNKS[:2])
    *_, last = json.loads(arrayed(raw[:-20], b"\n\n" + broken))
    assert (last["error"]["code"], last["error"]["status"]) == (503, "UNAVAILABLE")
    [only] = json.loads(arrayed(broken))
    assert only["error"]["message"] == "It broke. Try again."
