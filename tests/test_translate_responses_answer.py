"""Answers of Responses as Anthropic's: whole, streamed, cut and failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.mock.exchange import Request
from bifrost.mock.plan import Plan, UsageOverride
from bifrost.mock.responses import respond
from bifrost.mock.script import Script
from bifrost.translate.anthropic_responses import AnthropicResponses
from bifrost.translate.responses_request import opened
from bifrost.translate.translation import Traits

ASKED: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 99,
    "thinking": {"type": "adaptive"},
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [{"name": "Bash", "input_schema": {"type": "object"}}],
}
COUNTED = {
    "input_tokens": 1_000,
    "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 1_050,
}
BUCKETS = {
    "input_tokens": 300,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 20},
}


def translation(**asked: Any) -> AnthropicResponses:
    body = json.dumps({**ASKED, **asked}).encode()
    return AnthropicResponses(body, "gpt-x", max_tokens=None, traits=Traits(reasons=True))


def answered(status: int, told: object) -> tuple[int, Any]:
    status, body = translation().answer(status, json.dumps(told).encode())
    return status, json.loads(body)


def whole(*output: Any, **more: Any) -> dict[str, Any]:
    return {"id": "r1", "status": "completed", "output": output, "usage": COUNTED, **more}


def says(*parts: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": part, "annotations": []} for part in parts]
    return {"type": "message", "id": "m", "role": "assistant", "content": content, **more}


def refuses(text: str) -> dict[str, Any]:
    return says() | {"content": [{"type": "refusal", "refusal": text}]}


def calls(name: str = "c", arguments: str = "") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{name}", "call_id": name, "name": "Bash",
            "arguments": arguments}  # fmt: skip


def reasons(*parts: str, secret: str | None = "gAAA", name: str = "rs_1") -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": part} for part in parts]
    return {"type": "reasoning", "id": name, "summary": summary, "encrypted_content": secret}


def test_usage_in_disjoint_buckets() -> None:
    status, told = answered(200, whole(says("Hello.")))
    assert (status, told["usage"], told["model"]) == (200, BUCKETS, "claude-x")
    assert told["content"] == [{"type": "text", "text": "Hello."}]


@pytest.mark.parametrize("said", [None, {}, {"input_tokens": 0, "output_tokens": 0}])
def test_nothing_is_free_where_the_host_counts_nothing(said: Any) -> None:
    told = whole(says("word " * 100), usage=said)
    used = answered(200, told)[1]["usage"]
    assert used["input_tokens"] > 0 and used["output_tokens"] >= 100
    used = events(replayed(streamed(told)))[-2]["usage"]
    assert used["input_tokens"] == 77 and used["output_tokens"] >= 100


STEERED = {"status": "incomplete", "incomplete_details": {"reason": "steered"}}
STOPS: list[tuple[Any, str]] = [
    (whole(says("x")), "end_turn"),
    (whole(says("x"), status="incomplete"), "max_tokens"),
    (whole(calls(arguments='{"a'), **STEERED), "max_tokens"),
    (
        whole(status="incomplete", incomplete_details={"reason": "content_filter"}),
        "refusal",
    ),
    (
        whole(says("x"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        "max_tokens",
    ),
    (whole(refuses("No.")), "refusal"),
    (whole(says("x"), calls()), "tool_use"),
]


@pytest.mark.parametrize(("told", "reason"), STOPS)
def test_stop_reasons(told: Any, reason: str) -> None:
    assert answered(200, told)[1]["stop_reason"] == reason
    assert events(replayed(streamed(told)))[-2]["delta"]["stop_reason"] == reason


@pytest.mark.parametrize(
    ("arguments", "given_"),
    [('{"a":1}', {"a": 1}), ("", {}), ("[1]", {"arguments": "[1]"}), ("{", {"arguments": "{"})],
)
def test_calls(arguments: str, given_: Any) -> None:
    _, told = answered(200, whole(calls(arguments=arguments)))
    assert told["content"] == [{"type": "tool_use", "id": "c", "name": "Bash", "input": given_}]


def test_calls_without_an_id_get_one_each() -> None:
    told = answered(200, whole(*[calls() | {"call_id": None}] * 2))[1]["content"]
    assert len({block["id"] for block in told}) == 2


def test_names_and_ids_that_a_side_does_not_take() -> None:
    long = "mcp__" + "x" * 70
    made = translation(tools=[{"name": long, "input_schema": {"type": "object"}}])
    called = calls("c.1") | {"name": json.loads(made.body)["tools"][0]["name"]}
    _, body = made.answer(200, json.dumps(whole(called)).encode())
    (block,) = json.loads(body)["content"]
    assert (block["name"], block["id"]) == (long, "c_1")


def test_reasoning_is_sealed() -> None:
    said = whole(reasons("One.", "Two."), reasons(name="rs_2"), says("So.", phase="commentary"))
    told = answered(200, said)[1]["content"]
    assert [block["type"] for block in told] == ["thinking", "redacted_thinking", "text"]
    assert told[0]["thinking"] == "One.\n\nTwo."
    first, second = opened(told[0]["signature"]), opened(told[1]["data"])
    assert first and (first.id, first.encrypted_content, first.phase) == ("rs_1", "gAAA", None)
    assert second and (second.model, second.phase) == ("gpt-x", "commentary")


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_who_asked_for_no_thinking_gets_none(thinking: Any) -> None:
    """Hosts reason and send it all the same."""
    made = translation(thinking=thinking)
    _, body = made.answer(200, json.dumps(SAID).encode())
    stream = made.stream(77)
    read = accumulated(b"".join(map(stream.feed, PARTS)) + stream.finish())
    assert [block.to_dict() for block in read.content] == json.loads(body)["content"]
    assert {block.type for block in read.content} == {"text", "tool_use"}


def test_thoughts_that_are_not_shown_are_not_free() -> None:
    stream = translation(thinking=None).stream(77)
    told = whole(reasons("word " * 100), usage=None)
    raw = b"".join(map(stream.feed, streamed(told))) + stream.finish()
    assert events(raw)[-2]["usage"]["output_tokens"] >= 100


def test_reasoning_that_cannot_go_back() -> None:
    shown = reasons(secret=None) | {"content": [{"type": "reasoning_text", "text": "Hm."}]}
    (told,) = answered(200, whole(shown, reasons(secret=None)))[1]["content"]
    assert told["thinking"] == "Hm." and opened(told["signature"]) is None and told["signature"]


def test_what_nobody_asked_for_is_no_block() -> None:
    told = whole({"type": "web_search_call", "id": "ws"}, says(""), {"type": "new"})
    assert answered(200, told)[1]["content"] == []
    assert accumulated(replayed(streamed(told))).content == []


@pytest.mark.parametrize("status", ["cancelled", "queued", "in_progress"])
def test_an_answer_that_is_not_finished_is_none(status: str) -> None:
    with pytest.raises(ValueError, match="could not finish"):
        answered(200, whole(says("Hal"), status=status))


@pytest.mark.parametrize(
    ("status", "error", "found"),
    [
        (429, {"message": "Slow."}, (429, "rate_limit_error")),
        (503, {"message": "Busy."}, (529, "overloaded_error")),
        (401, {"message": "Who?"}, (401, "authentication_error")),
        (500, None, (500, "api_error")),
        (400, {"message": "x", "code": "context_length_exceeded"}, (400, "invalid_request_error")),
        (400, {"message": "exceeds the context window"}, (400, "invalid_request_error")),
    ],
)
def test_errors_keep_their_status(status: int, error: Any, found: tuple[int, str]) -> None:
    code, told = answered(status, {"error": error})
    assert (code, told["error"]["type"]) == found
    if status == 400:
        assert told["error"]["message"].startswith("prompt is too long: ")


FAILURES: list[tuple[Any, tuple[int, str], str]] = [
    ({"code": "server_error", "message": "No."}, (500, "api_error"), "No."),
    ({"code": "rate_limit_exceeded", "message": "Slow."}, (429, "rate_limit_error"), "Slow."),
    ({"code": "invalid_prompt", "message": "Bad."}, (400, "invalid_request_error"), "Bad."),
    ({"code": "image_too_large", "message": "Big."}, (400, "invalid_request_error"), "Big."),
    (
        {"code": "context_length_exceeded", "message": "x"},
        (400, "invalid_request_error"),
        "prompt is too long: x",
    ),
    ({"message": "Key sk-proj-ab*cd of org-X1."}, (500, "api_error"), "Key (hidden) of (hidden)."),
    ("down", (500, "api_error"), "down"),
    (None, (500, "api_error"), "The provider gave no reason."),
]


@pytest.mark.parametrize(("error", "found", "words"), FAILURES)
def test_a_response_that_failed(error: Any, found: tuple[int, str], words: str) -> None:
    """Whatever was asked is in the response, too: its words are not those of the error."""
    told = whole(status="failed", error=error, instructions="If the prompt is too long, compact.")
    status, body = answered(200, told)
    assert (status, body["error"]["type"], body["error"]["message"]) == (*found, words)
    raw = replayed([*PARTS[:6], line("response.failed", response=told), *PARTS])
    assert events(raw)[-1]["error"] == body["error"] and b"message_stop" not in raw


DEEP = "[" * 100_000 + "]" * 100_000


def test_json_nested_without_end_is_a_broken_answer() -> None:
    assert translation().answer(200, DEEP.encode())[0] == 502
    _, told = answered(200, whole(calls(arguments=DEEP)))
    assert told["content"][0]["input"] == {"arguments": DEEP}
    with pytest.raises(ValueError, match="nested"):
        replayed([b"data: " + DEEP.encode() + b"\n\n"])


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"output":7}', b'{"choices":[]}'])
def test_an_answer_that_is_none_is_a_failure(body: bytes) -> None:
    assert translation().answer(200, body)[0] == 502


# streams


def line(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": 1, **fields}).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def delta(stem: str, number: int, text: str, **more: Any) -> bytes:
    return line(f"response.{stem}.delta", output_index=number, delta=text, **more)


def added(number: int, item: Any) -> bytes:
    empty = {key: type(item[key])() for key in ("summary", "content", "arguments") if key in item}
    return line("response.output_item.added", output_index=number, item=item | empty)


def done(number: int, item: Any) -> bytes:
    return line("response.output_item.done", output_index=number, item=item)


def streamed(told: dict[str, Any], size: int = 3) -> list[bytes]:
    """The events of a response, as OpenAI streams it."""
    begun = {"id": told["id"], "status": "in_progress", "output": [], "usage": None, "error": None}
    made = [line("response.created", response=begun), line("response.in_progress", response=begun)]
    for number, item in enumerate(told["output"]):
        made += [added(number, item), *told_of(number, item, size), done(number, item)]
    return [*made, line(f"response.{told['status']}", response=told)]


def told_of(number: int, item: dict[str, Any], size: int) -> Iterator[bytes]:
    for index, part in enumerate(item.get("summary", ())):
        for piece in pieces(part["text"], size):
            yield delta("reasoning_summary_text", number, piece, summary_index=index)
    for index, part in enumerate(item.get("content", ())):
        stem = "refusal" if part["type"] == "refusal" else part["type"]
        for piece in pieces(part.get("text") or part.get("refusal") or "", size):
            yield delta(stem, number, piece, content_index=index)
        yield line("response.content_part.done", output_index=number, content_index=index)
    for piece in pieces(item.get("arguments", ""), size):
        yield delta("function_call_arguments", number, piece)


def pieces(text: str, size: int) -> Iterator[str]:
    yield from (text[at : at + size] for at in range(0, len(text), size))


SAID = whole(
    reasons("Hm.", "H\u00e9."),
    says("Let me see.", phase="commentary"),
    reasons(name="rs_2"),
    calls("a", '{"x": 1}'),
    calls("b"),
    says("One.", "Two."),
)
PARTS = [line("keepalive"), *streamed(SAID)]


def replayed(chunks: Sequence[bytes]) -> bytes:
    stream = translation().stream(77)
    return b"".join(map(stream.feed, chunks)) + stream.finish()


def events(raw: bytes) -> list[Any]:
    return [json.loads(one[6:]) for one in raw.splitlines() if one.startswith(b"data: ")]


def test_the_same_events_at_every_split() -> None:
    raw = b"".join(PARTS)
    once = replayed([raw])
    for at in range(0, len(raw), 7):
        assert replayed([raw[:at], raw[at:]]) == once
    assert replayed([bytes([byte]) for byte in raw]) == once
    assert replayed([raw.replace(b"\n", b"\r\n").replace(b"data: ", b"data:")]) == once
    assert replayed([raw.rstrip(), b"\n\ndata: [DONE]\n\n"]) == replayed([raw.rstrip()]) == once


def accumulated(raw: bytes) -> anthropic.types.Message:
    """The message that the official SDK makes of a stream."""

    def serve(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(serve))
    client = anthropic.Anthropic(api_key="k", http_client=transport)
    asked: Any = {"model": "m", "max_tokens": 9, "messages": []}
    with client.messages.stream(**asked) as stream:
        return stream.get_final_message()


def test_the_sdk_reads_the_same_from_a_stream_as_from_a_whole_answer() -> None:
    raw = replayed(PARTS)
    told = accumulated(raw)
    assert [block.to_dict() for block in told.content] == answered(200, SAID)[1]["content"]
    assert told.stop_reason == "tool_use" and told.id == "msg_r1"
    assert (told.usage.input_tokens, told.usage.output_tokens) == (300, 50)
    assert events(raw)[0]["message"]["usage"]["input_tokens"] == 77
    seen = [one["index"] for one in events(raw) if "index" in one]
    assert seen == sorted(seen)


def test_items_that_come_at_once_wait_for_each_other() -> None:
    raw = replayed(
        [
            added(0, calls("a")),
            added(1, calls("b")),
            delta("function_call_arguments", 1, '{"x"'),
            delta("function_call_arguments", 0, '{"y":2}'),
            delta("output_text", 2, "late", content_index=0),
            delta("function_call_arguments", 1, ":1}"),
            done(1, calls("b", '{"x":1}')),
            done(0, calls("a", '{"y":2}')),
            line("response.completed", response=whole()),
        ]
    )
    told = accumulated(raw).content
    assert [getattr(one, "input", None) for one in told] == [{"y": 2}, {"x": 1}, None]
    seen = [one["index"] for one in events(raw) if "index" in one]
    assert seen == sorted(seen)


def test_what_no_delta_told_is_in_the_item() -> None:
    shown = [one for one in PARTS if b".delta" not in one]
    assert accumulated(replayed(shown)).content == accumulated(replayed(PARTS)).content
    late = [one for one in PARTS if b".delta" not in one and b"_item.added" not in one]
    assert len(accumulated(replayed(late)).content) == len(accumulated(replayed(PARTS)).content)


def test_reasoning_itself_is_thinking_where_there_is_no_summary() -> None:
    shown = reasons(secret=None) | {"content": [{"type": "reasoning_text", "text": "Hm, hm."}]}
    told = whole(shown, says("So."))
    content = [block.to_dict() for block in accumulated(replayed(streamed(told))).content]
    assert content == answered(200, told)[1]["content"]
    both = [
        delta("reasoning_summary_text", 0, "Short.", summary_index=0),
        delta("reasoning_text", 0, "Long.", content_index=0),
        line("response.completed", response=whole()),
    ]
    assert b"Long." not in replayed(both)


def cuts() -> Iterator[Sequence[bytes]]:
    yield []
    yield [b"data: [DONE]\n\n"]
    for count in range(1, len(PARTS), 5):
        yield PARTS[:count]


@pytest.mark.parametrize("parts", list(cuts()), ids=len)
def test_a_stream_that_is_cut_gets_no_end(parts: Sequence[bytes]) -> None:
    raw = replayed(parts)
    assert b"message_stop" not in raw and b"message_delta" not in raw


@pytest.mark.parametrize(("error", "found", "words"), FAILURES[:-1])
@pytest.mark.parametrize("flat", [True, False])
def test_an_error_in_the_middle(error: Any, found: Any, words: str, flat: bool) -> None:
    fields = error if flat and isinstance(error, dict) else {"error": error}
    raw = replayed([*PARTS[:6], line("error", **fields), *PARTS])
    assert events(raw)[-1]["error"] == {"type": found[1], "message": words}
    assert b"message_stop" not in raw


def test_lines_without_an_end_are_no_event() -> None:
    with pytest.raises(ValueError, match="without an end"):
        replayed([b"data: " + b"x" * (17 << 20)])


# the mock provider's own answers


def mocked(stream: bool, **asked: Any) -> tuple[AnthropicResponses, Any]:
    made = translation(stream=stream, **asked)
    override = UsageOverride(
        input_tokens=300,
        output_tokens=50,
        cache_read_input_tokens=600,
        cache_creation_input_tokens=100,
        thinking_tokens=20,
    )
    request = Request(b"POST", b"/v1/responses", {}, made.body)
    return made, respond(request, Plan(override=override), Script("echo hi"), "")


@pytest.mark.parametrize("asked", [{}, {"tools": []}])
def test_the_mock_says_the_same_streamed_and_whole(asked: Any) -> None:
    made, reply = mocked(False, **asked)
    told = json.loads(made.answer(200, reply.body)[1])
    made, reply = mocked(True, **asked)
    stream = made.stream(77)
    read = accumulated(b"".join(map(stream.feed, reply.events)) + stream.finish())
    assert told["usage"] == BUCKETS and read.usage.cache_read_input_tokens == 600
    assert read.stop_reason == told["stop_reason"] == ("end_turn" if asked else "tool_use")
    (block,) = told["content"]
    assert read.content[0].to_dict() | {"id": 0} == block | {"id": 0}


def test_the_mock_sees_the_result_of_its_call() -> None:
    made, reply = mocked(False)
    (block,) = json.loads(made.answer(200, reply.body)[1])["content"]
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": "hi there"}
    turns = [
        *ASKED["messages"],
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [result]},
    ]
    made, reply = mocked(False, messages=turns)
    (block,) = json.loads(made.answer(200, reply.body)[1])["content"]
    assert "hi there" in block["text"]


# there and back

said = st.text(max_size=9)
inputs = st.dictionaries(said, st.one_of(st.integers(), said), max_size=3).map(json.dumps)
items = st.one_of(
    st.builds(says, said.filter(bool), said.filter(bool)),
    st.builds(reasons, said.filter(bool)),
    st.builds(reasons),
    st.builds(calls, arguments=inputs),
)


def unlike(output: list[Any]) -> list[Any]:
    """The items with ids of their own."""
    named = ("id", "call_id")
    return [
        item | {key: f"{item[key]}_{number}" for key in named if key in item}
        for number, item in enumerate(output)
    ]


def essence(item: dict[str, Any]) -> list[Any]:
    """What must survive a way there and back."""
    if item["type"] == "reasoning":
        return [(item["id"], item["summary"], item["encrypted_content"])]
    if item["type"] == "function_call":
        return [(item["call_id"], item["name"], json.loads(item["arguments"]))]
    if item["type"] == "message":
        content = item["content"]
        return [content] if isinstance(content, str) else [part["text"] for part in content]
    return []


@given(st.lists(items, min_size=1, max_size=6).map(unlike), st.integers(1, 20))
def test_what_a_host_said_comes_back_to_it(output: list[Any], size: int) -> None:
    """Whole or streamed, in the order it was said; but for reasoning that led to nothing."""
    told = whole(*output)
    content = answered(200, told)[1]["content"]
    read = accumulated(replayed(streamed(told, size)))
    assert [block.to_dict() for block in read.content] == content
    turns = [*ASKED["messages"], {"role": "assistant", "content": content}]
    found = json.loads(translation(messages=turns).body)["input"][1:]
    while output and output[-1]["type"] == "reasoning":
        output = output[:-1]
    expected = [one for item in output for one in essence(item)]
    assert [one for item in found for one in essence(item)] == expected
