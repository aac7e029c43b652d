"""Answers of Chat Completions as Anthropic's: whole, streamed, cut and failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import httpx2
import pytest

from bifrost.translate.anthropic_chat import AnthropicChat
from bifrost.translate.translation import Traits

ASKED = json.dumps({"model": "claude-x", "max_tokens": 9, "messages": []}).encode()
COUNTED = {
    "prompt_tokens": 1_000,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
BUCKETS = {
    "input_tokens": 300,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 20},
}


def translation(**traits: Any) -> AnthropicChat:
    return AnthropicChat(ASKED, "gpt-x", max_tokens=None, traits=Traits(**traits))


def answered(status: int, told: object, **traits: Any) -> tuple[int, Any]:
    status, body = translation(**traits).answer(status, json.dumps(told).encode())
    return status, json.loads(body)


def whole(finish: str = "stop", **said: Any) -> dict[str, Any]:
    message = {"role": "assistant", **said}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return {"id": "c1", "choices": choices, "usage": COUNTED}


def test_usage_in_disjoint_buckets() -> None:
    status, told = answered(200, whole(content="Hello."))
    assert (status, told["usage"], told["model"]) == (200, BUCKETS, "claude-x")
    _, split = answered(200, whole(content="Hello."), splits_reasoning=True)
    assert split["usage"]["output_tokens"] == 70


def test_nothing_is_free_where_the_host_counts_nothing() -> None:
    told = whole(content="word " * 100)
    del told["usage"]
    used = answered(200, told)[1]["usage"]
    assert used["input_tokens"] > 0 and used["output_tokens"] >= 100
    assert used["estimated"] == ["input_tokens", "output_tokens"]


@pytest.mark.parametrize("said", [{}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_a_count_of_nothing_is_none(said: Any) -> None:
    """Some hosts fill the usage with zeros: whole or streamed, output is not free."""
    used = answered(200, whole(content="word " * 100) | {"usage": said})[1]["usage"]
    assert used["input_tokens"] > 0 and used["output_tokens"] >= 100
    parts = [chunk({"content": "word " * 100}), chunk({}, "stop"), chunk(usage=said), DONE]
    used = events(replayed(parts))[-2]["usage"]
    assert used["input_tokens"] == 77 and used["output_tokens"] >= 100
    assert used["estimated"] == ["input_tokens", "output_tokens"]


def test_half_a_count_keeps_what_was_counted() -> None:
    told = whole(content="word " * 100) | {"usage": {"prompt_tokens": 5}}
    used = answered(200, told)[1]["usage"]
    assert used["input_tokens"] == 5 and used["output_tokens"] >= 100
    assert used["estimated"] == ["output_tokens"]


@pytest.mark.parametrize(
    ("finish", "said", "reason"),
    [
        ("stop", {"content": "x"}, "end_turn"),
        ("length", {"content": "x"}, "max_tokens"),
        ("model_length", {"content": "x"}, "max_tokens"),
        ("content_filter", {"content": ""}, "refusal"),
        ("stop", {"refusal": "I will not."}, "refusal"),
    ],
)
def test_stop_reasons(finish: str, said: Any, reason: str) -> None:
    assert answered(200, whole(finish, **said))[1]["stop_reason"] == reason


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize(
    ("arguments", "given"),
    [('{"a":1}', {"a": 1}), ("", {}), ("[1]", {"arguments": "[1]"}), ("{", {"arguments": "{"})],
)
def test_calls(finish: str, arguments: str, given: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "t", "arguments": arguments}}
    _, told = answered(200, whole(finish, content=None, tool_calls=[call]))
    assert told["content"] == [{"type": "tool_use", "id": "c", "name": "t", "input": given}]
    assert told["stop_reason"] == "tool_use"


def test_calls_without_an_id_get_one_each() -> None:
    """A client keeps its results by these: the next turn's must not be the same."""
    nameless = {"type": "function", "function": {"name": "t", "arguments": ""}}
    told = [answered(200, whole("tool_calls", tool_calls=[nameless] * 2))[1] for _ in range(2)]
    assert len({block["id"] for one in told for block in one["content"]}) == 4


LISTED = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    {"type": "text", "text": "So."},
]


def test_content_in_a_list() -> None:
    """As Mistral's reasoning models have it."""
    told = answered(200, whole(content=LISTED))[1]["content"]
    streamed = accumulated(replayed([chunk({"content": LISTED}), chunk({}, "stop"), DONE])).content
    assert [one["type"] for one in told] == [one.type for one in streamed] == ["thinking", "text"]
    assert (told[0]["thinking"], told[1]["text"]) == ("Hm.", "So.")
    assert [one.to_dict() for one in streamed] == told


def test_what_says_nothing_is_no_block() -> None:
    nothing = {"content": "", "refusal": "", "reasoning": ""}
    assert answered(200, whole(**nothing))[1]["content"] == []
    parts = [chunk(nothing), chunk({"content": []}), chunk({}, "stop"), DONE]
    assert accumulated(replayed(parts)).content == []


def test_an_answer_that_its_host_gave_up_is_no_answer() -> None:
    with pytest.raises(ValueError, match="could not finish"):
        answered(200, whole("error", content="Hal"))
    with pytest.raises(ValueError, match="could not finish"):
        replayed([chunk({"content": "Hal"}), chunk({}, "error"), DONE])


def test_thinking_comes_first() -> None:
    _, told = answered(200, whole(content="So.", reasoning_content="Hm."))
    assert [block["type"] for block in told["content"]] == ["thinking", "text"]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (429, {"message": "Slow."}, (429, "rate_limit_error")),
        (503, {"message": "Busy."}, (529, "overloaded_error")),
        (401, {"message": "Who?"}, (401, "authentication_error")),
        (500, None, (500, "api_error")),
        (400, {"message": "x", "code": "context_length_exceeded"}, (400, "invalid_request_error")),
        (400, {"message": "maximum context length is 9"}, (400, "invalid_request_error")),
    ],
)
def test_errors_keep_their_status(status: int, error: Any, says: tuple[int, str]) -> None:
    found, told = answered(status, {"error": error})
    assert (found, told["error"]["type"]) == says
    if status == 400:
        assert told["error"]["message"].startswith("prompt is too long: ")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"object": "error", "message": "Bad.", "code": 400}, "Bad."),
        ({"detail": "Bad."}, "Bad."),
        ({"detail": [{"loc": ["x"]}]}, '[{"loc":["x"]}]'),
        ({"code": "Client specified an invalid argument", "error": "Bad."}, "Bad."),
        ({"message": "maximum context length is 9"}, "prompt is too long: maximum"),
        ({"error": {"message": "No.", "type": "exceed_context_size_error"}}, "prompt is too long"),
        ({"error": {"message": "exceeded model token limit: 9"}}, "prompt is too long: exceeded"),
        ({"error": {"message": "Key sk-proj-ab*cd of org-X1."}}, "Key (hidden) of (hidden)."),
        ([], "The provider gave no reason."),
    ],
)
def test_errors_say_what_the_host_said(body: Any, says: str) -> None:
    """Not every host wraps its errors as OpenAI does; none names the gateway's account."""
    assert answered(400, body)[1]["error"]["message"].startswith(says)


DEEP = "[" * 100_000 + "]" * 100_000


def test_json_nested_without_end_is_a_broken_answer() -> None:
    assert translation().answer(200, DEEP.encode())[0] == 502
    called = {"id": "c", "type": "function", "function": {"name": "t", "arguments": DEEP}}
    _, told = answered(200, whole("tool_calls", tool_calls=[called]))
    assert told["content"][0]["input"] == {"arguments": DEEP}
    with pytest.raises(ValueError, match="nested"):
        replayed([b"data: " + DEEP.encode() + b"\n\n"])


def test_an_answer_that_is_none_is_a_failure() -> None:
    assert translation().answer(200, b"<html>")[0] == 502
    assert translation().answer(502, b"<html>")[0] == 502


# streams


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c1", "choices": choices, **more}).encode() + b"\n\n"


def call(index: int, arguments: str, **more: Any) -> bytes:
    function = {"arguments": arguments, **({"name": "Bash"} if more else {})}
    return chunk({"tool_calls": [{"index": index, "function": function, **more}]})


DONE = b"data: [DONE]\n\n"
PARTS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "h\u00e9"}),
    call(0, "", id="a"),
    call(1, '{"x"', id="b"),
    call(0, '{"y":'),
    chunk({"content": "late"}),
    call(1, ":1}"),
    call(0, "2}"),
    call(2, "", id="e"),
    chunk({}, "tool_calls"),
    chunk(usage=COUNTED),
]


def replayed(pieces: Sequence[bytes], **traits: Any) -> bytes:
    stream = translation(**traits).stream(77)
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def events(raw: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]


def test_the_same_events_at_every_split() -> None:
    raw = b"".join(PARTS) + DONE
    once = replayed([raw])
    for at in range(len(raw)):
        assert replayed([raw[:at], raw[at:]]) == once
    assert replayed([bytes([byte]) for byte in raw]) == once
    assert replayed([raw.replace(b"\n", b"\r\n").replace(b"data: ", b"data:")]) == once


def accumulated(raw: bytes) -> anthropic.types.Message:
    """The message that the official SDK makes of a stream."""

    def serve(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(serve))
    client = anthropic.Anthropic(api_key="k", http_client=transport)
    asked: Any = {"model": "m", "max_tokens": 9, "messages": []}
    with client.messages.stream(**asked) as stream:
        return stream.get_final_message()


def test_the_sdk_reads_it_and_blocks_never_interleave() -> None:
    raw = replayed([*PARTS, DONE])
    told = accumulated(raw)
    assert [(block.type, getattr(block, "input", None)) for block in told.content] == [
        ("thinking", None),
        ("text", None),
        ("tool_use", {"y": 2}),
        ("tool_use", {"x": 1}),
        ("text", None),
        ("tool_use", {}),
    ]
    assert told.stop_reason == "tool_use"
    assert (told.usage.input_tokens, told.usage.output_tokens) == (300, 50)
    seen = [one["index"] for one in events(raw) if "index" in one]
    assert seen == sorted(seen)
    assert events(raw)[0]["message"]["usage"]["input_tokens"] == 77


def test_a_host_that_says_no_done() -> None:
    assert replayed(PARTS) == replayed([*PARTS, DONE])


def cuts() -> Iterator[Sequence[bytes]]:
    yield []
    yield [DONE]
    for count in range(1, len(PARTS) - 2):
        yield PARTS[:count]


@pytest.mark.parametrize("parts", list(cuts()), ids=len)
def test_a_stream_that_is_cut_gets_no_end(parts: Sequence[bytes]) -> None:
    assert b"message_stop" not in replayed(parts)


def test_a_stream_without_an_account_is_not_free() -> None:
    parts = [chunk({"content": "word " * 20}), chunk({}, "stop"), DONE]
    told = accumulated(replayed(parts))
    assert told.usage.input_tokens == 77 and told.usage.output_tokens >= 25


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"message": "No."}, "api_error", "No."),
        ({"message": "Slow.", "code": "rate_limit_exceeded"}, "rate_limit_error", "Slow."),
        ({"message": "x", "code": "context_length_exceeded"}, "invalid_request_error", "prompt is"),
        ({"message": "Busy.", "type": "overloaded_error"}, "overloaded_error", "Busy."),
        ({"message": "Slow.", "code": "429"}, "rate_limit_error", "Slow."),
        ({"message": "Busy.", "code": None, "status": 503}, "overloaded_error", "Busy."),
        ({"message": "No.", "type": "invalid_request_error"}, "invalid_request_error", "No."),
        ("down", "api_error", "down"),
    ],
)
def test_an_error_in_the_middle(error: Any, kind: str, says: str) -> None:
    failed = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    raw = replayed([PARTS[1], failed, *PARTS, DONE])
    assert events(raw)[-1]["error"]["type"] == kind
    assert events(raw)[-1]["error"]["message"].startswith(says)
    assert b"message_stop" not in raw


def test_groq_counts_beside() -> None:
    parts = [chunk({"content": "x"}), chunk({}, "stop", x_groq={"usage": COUNTED}), DONE]
    assert events(replayed(parts))[-2]["usage"] == BUCKETS
