"""Gemini's answers as Anthropic's: whole, streamed, cut and failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.mock import MockOptions, MockServer, running
from bifrost.translate.anthropic_gemini import AnthropicGemini
from bifrost.translate.gemini_request import SIGNED, signed
from bifrost.translate.translation import Traits
from tests.mock_client import GEMINI, STEER, call

HI = {"role": "user", "content": "Hi"}
ASKED: dict[str, Any] = {"model": "claude-x", "max_tokens": 9, "messages": [HI]}
COUNTED = {
    "promptTokenCount": 1_000,
    "cachedContentTokenCount": 600,
    "toolUsePromptTokenCount": 7,
    "candidatesTokenCount": 50,
    "thoughtsTokenCount": 20,
}
BUCKETS = {
    "input_tokens": 407,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 0,
    "output_tokens": 70,
    "output_tokens_details": {"thinking_tokens": 20},
}
REFUSALS = ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MODEL_ARMOR"]
FAILURES = ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "A_NEW_ONE"]


def translation(**asked: Any) -> AnthropicGemini:
    body = json.dumps({**ASKED, **asked}).encode()
    return AnthropicGemini(body, "gemini-x", max_tokens=None, traits=Traits())


def answered(status: int, told: object) -> tuple[int, Any]:
    status, body = translation().answer(status, json.dumps(told).encode())
    return status, json.loads(body)


def whole(*parts: Any, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
    candidate |= {"finishReason": finish} if finish else {}
    return {"candidates": [candidate], "responseId": "r1", "usageMetadata": COUNTED, **more}


def thought(text: str) -> dict[str, Any]:
    return {"text": text, "thought": True}


def function(name: str, signature: str = "", **given_: Any) -> dict[str, Any]:
    """The part of a call whose id is the tool's name."""
    part: dict[str, Any] = {"functionCall": {"id": name, "name": name, "args": given_}}
    return part | {"thoughtSignature": signature} if signature else part


def tool_use(name: str, **given_: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": name, "input": given_}


def thinking(text: str, signature: str = SIGNED) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signature}


def test_usage_in_disjoint_buckets() -> None:
    status, told = answered(200, whole({"text": "Hello."}))
    assert (status, told["usage"], told["model"]) == (200, BUCKETS, "claude-x")


@pytest.mark.parametrize("said", [None, {}, {"promptTokenCount": 0, "candidatesTokenCount": 0}])
def test_nothing_is_free_where_the_host_counts_nothing(said: Any) -> None:
    told = whole({"text": "word " * 100}, usageMetadata=said)
    used = answered(200, told)[1]["usage"]
    assert used["input_tokens"] > 0 and used["output_tokens"] >= 100
    streamed = events(replayed([chunk(told)]))[-2]["usage"]
    assert streamed["input_tokens"] == 77 and streamed["output_tokens"] >= 100
    assert used["estimated"] == streamed["estimated"] == ["input_tokens", "output_tokens"]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("STOP", "end_turn"), ("MAX_TOKENS", "max_tokens"), *((one, "refusal") for one in REFUSALS)],
)
def test_stop_reasons(finish: str, reason: str) -> None:
    told = whole({"text": "x"}, finish=finish)
    assert answered(200, told)[1]["stop_reason"] == reason
    assert accumulated(replayed([chunk(told)])).stop_reason == reason


def test_a_prompt_that_is_refused() -> None:
    refused = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": COUNTED}
    status, told = answered(200, refused)
    assert (status, told["stop_reason"], told["content"]) == (200, "refusal", [])
    assert accumulated(replayed([chunk(refused)])).stop_reason == "refusal"


@pytest.mark.parametrize("reason", FAILURES)
def test_an_answer_that_gemini_gave_up_is_no_answer(reason: str) -> None:
    told = whole({"text": "Hal"}, finish=reason)
    status, failed = answered(200, told)
    assert (status, failed["error"]["type"]) == (502, "api_error")
    assert reason in failed["error"]["message"]
    raw = replayed([chunk(told)])
    assert events(raw)[-1]["error"] == failed["error"] and b"message_stop" not in raw


@pytest.mark.parametrize(
    ("parts", "blocks"),
    [
        ([{"text": "a"}, {"text": ""}, {"text": "b"}], [{"type": "text", "text": "ab"}]),
        ([], []),
        ([thought("Hm."), {"text": "So."}], [thinking("Hm."), {"type": "text", "text": "So."}]),
        (
            [thought("H"), thought("m"), function("t", "U0lH", a=1), function("u")],
            [thinking("Hm", signed("U0lH", "t")), tool_use("t", a=1), tool_use("u")],
        ),
        (
            [function("t", "U0lH"), function("u", "T1RI")],
            [
                {"type": "redacted_thinking", "data": signed("U0lH", "t")},
                tool_use("t"),
                {"type": "redacted_thinking", "data": signed("T1RI", "u")},
                tool_use("u"),
            ],
        ),
        (
            [thought("Hm"), {"text": "So."}, function("t", "U0lH")],
            [
                thinking("Hm"),
                {"type": "text", "text": "So."},
                {"type": "redacted_thinking", "data": signed("U0lH", "t")},
                tool_use("t"),
            ],
        ),
        # a signature of what is no call is dropped
        ([{"text": "", "thoughtSignature": "U0lH"}, function("t")], [tool_use("t")]),
    ],
)
def test_blocks(parts: list[Any], blocks: list[Any]) -> None:
    """Whole, in one chunk or in one chunk each."""
    assert answered(200, whole(*parts))[1]["content"] == blocks
    last = chunk(whole())
    each = [chunk(whole(part, finish=None)) for part in parts]
    for stream in ([chunk(whole(*parts))], [*each, last]):
        read = accumulated(replayed(stream))
        found = [block.to_dict() for block in read.content]
        assert found == blocks
        called = any(block["type"] == "tool_use" for block in blocks)
        assert read.stop_reason == ("tool_use" if called else "end_turn")


def test_calls_without_an_id_get_one_each() -> None:
    nameless = {"functionCall": {"name": "t"}}
    told = [answered(200, whole(nameless, nameless))[1]["content"] for _ in range(2)]
    assert len({block["id"] for blocks in told for block in blocks}) == 4
    assert told[0][0]["input"] == {}


def test_a_signature_comes_back_on_the_call_it_came_with() -> None:
    """What the client echoes is what Gemini said."""
    parts = [thought("Hm."), function("t", "U0lH", a=1), function("u")]
    echoed = answered(200, whole(*parts))[1]["content"]
    result = {"type": "tool_result", "tool_use_id": "t", "content": "ok"}
    turns = [HI, {"role": "assistant", "content": echoed}, {"role": "user", "content": [result]}]
    assert json.loads(translation(messages=turns).body)["contents"][1]["parts"] == parts[1:]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("status", "word", "says"),
    [
        (400, "INVALID_ARGUMENT", (400, "invalid_request_error")),
        (401, "UNAUTHENTICATED", (401, "authentication_error")),
        (403, "PERMISSION_DENIED", (403, "permission_error")),
        (404, "NOT_FOUND", (404, "not_found_error")),
        (429, "RESOURCE_EXHAUSTED", (429, "rate_limit_error")),
        (500, "INTERNAL", (500, "api_error")),
        (503, "UNAVAILABLE", (529, "overloaded_error")),
        (504, "DEADLINE_EXCEEDED", (504, "timeout_error")),
    ],
)
def test_errors(status: int, word: str, says: tuple[int, str], wrapped: bool) -> None:
    """Whole with their status; in a stream by their code, or by their word."""
    told: Any = {"error": {"code": status, "message": "No.", "status": word, "details": []}}
    found, failed = answered(status, [told] if wrapped else told)
    assert (found, failed["error"]) == (says[0], {"type": says[1], "message": "No."})
    for error in (told["error"], {"message": "No.", "status": word}):
        event = {"error": error}
        raw = replayed([PARTS[0], chunk([event] if wrapped else event), *PARTS])
        assert events(raw)[-1]["error"] == failed["error"] and b"message_stop" not in raw


@pytest.mark.parametrize(
    "said",
    [
        "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
        "Unable to submit request because the input token count is 9 but the model only supports "
        "up to 8.",
    ],
)
def test_a_prompt_that_is_too_long(said: str) -> None:
    """Only these words make an agent compact."""
    told = {"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}
    status, failed = answered(400, told)
    assert (status, failed["error"]["message"]) == (400, f"prompt is too long: {said}")
    assert events(replayed([chunk(told)]))[-1]["error"] == failed["error"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("No `projects/my-co/locations/eu/x`.", "No `(hidden)/locations/eu/x`."),
        ("Used in project 123456 before: see https://h/?project=123456.",
         "Used in (hidden) before: see https://h/?(hidden)."),
        ("consumer 'project_number:1234567'", "consumer '(hidden)'"),
        ("Denied on resource project my-co.", "Denied on (hidden)."),
        ("Key AIzaSyD-1234567890abc of a-b@my-co.iam.gserviceaccount.com.",
         "Key (hidden) of (hidden)."),
        ("The project is fine.", "The project is fine."),
    ],
)  # fmt: skip
def test_errors_do_not_name_the_account(said: str, shown: str) -> None:
    assert answered(403, {"error": {"message": said}})[1]["error"]["message"] == shown


def test_an_error_is_one_whatever_else_it_says() -> None:
    status, told = answered(429, {"promptFeedback": 1, "error": {"message": "Slow."}})
    assert (status, told["error"]["message"]) == (429, "Slow.")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"[" * 100_000, b"null"])
def test_an_answer_that_is_none_is_a_failure(body: bytes) -> None:
    for status in (200, 502):
        found, told = translation().answer(status, body)
        assert found == 502
        assert json.loads(told)["error"]["message"] == "The provider gave no reason."


# streams


def chunk(told: object) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\r\n\r\n"


PARTS = [
    chunk(whole(thought("hm"), finish=None, usageMetadata={"promptTokenCount": 1})),
    chunk(whole(thought("\u00e9"), finish=None)),
    chunk(whole(function("a", "U0lH", y=2), function("b"), finish=None)),
    chunk(whole({"text": "h\u00e9"}, finish=None)),
    chunk(whole({"text": "!"}, finish=None)),
    chunk(whole(function("c", "T1RI"), finish=None)),
    chunk(whole({"text": ""})),
]


def replayed(pieces: Sequence[bytes]) -> bytes:
    stream = translation().stream(77)
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def events(raw: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]


def accumulated(raw: bytes) -> anthropic.types.Message:
    """The message that the official SDK makes of a stream."""

    def serve(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(serve))
    client = anthropic.Anthropic(api_key="k", http_client=transport)
    asked: Any = {"model": "m", "max_tokens": 9, "messages": []}
    with client.messages.stream(**asked) as stream:
        return stream.get_final_message()


def test_the_same_events_at_every_split() -> None:
    raw = b"".join(PARTS)
    once = replayed([raw])
    for at in range(len(raw)):
        assert replayed([raw[:at], raw[at:]]) == once
    assert replayed([bytes([byte]) for byte in raw]) == once
    assert replayed([raw.replace(b"\r\n", b"\n").replace(b"data: ", b"data:")]) == once
    assert replayed([raw.rstrip()]) == once


def test_the_sdk_reads_it() -> None:
    raw = replayed(PARTS)
    told = accumulated(raw)
    assert [block.to_dict() for block in told.content] == [
        thinking("hm\u00e9", signed("U0lH", "a")),
        tool_use("a", y=2),
        tool_use("b"),
        {"type": "text", "text": "h\u00e9!"},
        {"type": "redacted_thinking", "data": signed("T1RI", "c")},
        tool_use("c"),
    ]
    assert (told.stop_reason, told.model) == ("tool_use", "claude-x")
    assert events(raw)[0]["message"]["usage"]["input_tokens"] == 77
    assert events(raw)[-2]["usage"] == BUCKETS  # the last count, not the sum
    seen = [one["index"] for one in events(raw) if "index" in one]
    assert seen == sorted(seen)


def cuts() -> Iterator[Sequence[bytes]]:
    yield []
    yield [b": comment\n\n", b"data:\n\n"]
    for count in range(1, len(PARTS)):
        yield PARTS[:count]


@pytest.mark.parametrize("parts", list(cuts()), ids=len)
def test_a_stream_that_is_cut_gets_no_end(parts: Sequence[bytes]) -> None:
    raw = replayed(parts)
    assert b"message_stop" not in raw and b"message_delta" not in raw


@pytest.mark.parametrize("data", [b"{", b"1", b"[]", b"[" * 100_000])
def test_a_stream_that_makes_no_sense(data: bytes) -> None:
    with pytest.raises((ValueError, AttributeError, IndexError)):
        replayed([b"data: " + data + b"\n\n"])


parts = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(max_size=5)),
    st.builds(thought, st.text(max_size=5)),
    st.builds(function, st.sampled_from("tu"), st.sampled_from(["", "U0lH"]), n=st.integers(0, 9)),
)


@given(st.lists(parts, max_size=8), st.integers(1, 40))
def test_a_stream_says_what_the_whole_answer_says(said: list[Any], size: int) -> None:
    raw = b"".join([*(chunk(whole(part, finish=None)) for part in said), chunk(whole())])
    streamed = accumulated(replayed([raw[at : at + size] for at in range(0, len(raw), size)]))
    told = answered(200, whole(*said))[1]
    assert [block.to_dict() for block in streamed.content] == told["content"]
    assert streamed.stop_reason == told["stop_reason"]


# the mock provider's own answers

SHELL = {"type": "object", "properties": {"command": {"type": "string"}}}


@pytest.fixture(scope="module")
def mock() -> Iterator[MockServer]:
    with running(MockOptions(script="tool", tool_command="ls")) as server:
        yield server


def spoken(mock: MockServer, stream: bool, **asked: Any) -> Any:
    """A conversation's next message over the mock's Gemini dialect."""
    made = translation(max_tokens=400, **asked)
    if not stream:
        status, _, data = call(mock, GEMINI + "generateContent", made.body, STEER)
        status, body = made.answer(status, data)
        assert status == 200
        return json.loads(body)
    _, _, data = call(mock, GEMINI + "streamGenerateContent?alt=sse", made.body, STEER)
    reader = made.stream(1)
    return accumulated(reader.feed(data) + reader.finish()).to_dict()


@pytest.mark.parametrize("stream", [False, True])
def test_the_mock_calls_a_tool_and_reads_its_result(mock: MockServer, stream: bool) -> None:
    tools = [{"name": "Bash", "input_schema": SHELL}]
    first = spoken(mock, stream, tools=tools)
    assert [block["type"] for block in first["content"]] == ["redacted_thinking", "tool_use"]
    assert first["stop_reason"] == "tool_use"
    assert first["usage"]["input_tokens"] == 412 + 1_024
    assert first["usage"]["output_tokens"] == 287
    use = first["content"][1]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "seen"}
    turns = [HI, {"role": "assistant", "content": first["content"]}]
    turns.append({"role": "user", "content": [result]})
    last = spoken(mock, stream, tools=tools, messages=turns)
    assert "seen" in last["content"][0]["text"] and last["stop_reason"] == "end_turn"
