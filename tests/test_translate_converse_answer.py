"""Answers of Converse as Anthropic's: whole, streamed, cut and failed; botocore reads them too."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.mock.converse import frame
from bifrost.translate.anthropic_converse import AnthropicConverse
from bifrost.translate.event_stream import encode
from bifrost.translate.translation import SENSELESS, Traits
from tests.converse_oracle import events as read_by_botocore
from tests.test_translate_bedrock_answer import accumulated, exception

Json = dict[str, Any]
NOVA, CLAUDE = "us.amazon.nova-pro-v1:0", "us.anthropic.claude-opus-4-5"
LONG = "mcp__" + "x" * 90
USED = {
    "inputTokens": 7, "outputTokens": 30, "totalTokens": 49, "cacheReadInputTokens": 3,
    "cacheWriteInputTokens": 9,
    "cacheDetails": [{"ttl": "1h", "inputTokens": 4}, {"ttl": "5m", "inputTokens": 5}],
}  # fmt: skip
COUNTED = {
    "input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 9,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 4},
    "output_tokens": 30,
}  # fmt: skip


def translated(model: str = NOVA) -> AnthropicConverse:
    tool = {"name": LONG, "input_schema": {"type": "object"}}
    said = [{"role": "user", "content": "Hi"}]
    asked = {"model": "claude-x", "max_tokens": 9, "messages": said, "tools": [tool]}
    raw = json.dumps(asked).encode()
    return AnthropicConverse(raw, model, max_tokens=None, traits=Traits())


SHORT = json.loads(translated().body)["toolConfig"]["tools"][0]["toolSpec"]["name"]


def answered(*content: Json, model: str = NOVA, stop: str = "end_turn", **more: Any) -> Json:
    message = {"role": "assistant", "content": list(content)}
    told = {"output": {"message": message}, "stopReason": stop, "usage": USED, **more}
    status, raw = translated(model).answer(200, json.dumps(told).encode())
    assert status == 200
    found: Json = json.loads(raw)
    return found


CALL = {"toolUse": {"toolUseId": "tooluse_1.2", "name": SHORT, "input": {"a": 1}}}
THOUGHT = {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "c2ln"}}}
SECRET = {"reasoningContent": {"redactedContent": "c2VjcmV0"}}


def test_a_whole_answer() -> None:
    told = answered({"text": "Hi"}, CALL, stop="tool_use")
    use = {"type": "tool_use", "id": "tooluse_1_2", "name": LONG, "input": {"a": 1}}
    assert told["content"] == [{"type": "text", "text": "Hi"}, use]
    assert (told["model"], told["stop_reason"], told["usage"]) == ("claude-x", "tool_use", COUNTED)
    assert told["id"] != answered({"text": "Hi"})["id"]


def test_thinking_keeps_its_signature_where_it_is_claudes() -> None:
    claude = answered(THOUGHT, SECRET, {"text": "a"}, model=CLAUDE)["content"]
    assert claude[0] == {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
    assert claude[1] == {"type": "redacted_thinking", "data": "c2VjcmV0"}
    thought, said = answered(THOUGHT, SECRET, {"text": "a"})["content"]
    assert thought == {"type": "thinking", "thinking": "Hm", "signature": "bifrost-converse"}
    assert said["type"] == "text"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("end_turn", "end_turn"), ("tool_use", "tool_use"), ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"), ("guardrail_intervened", "refusal"),
        ("content_filtered", "refusal"), ("malformed_tool_use", "end_turn"),
        ("malformed_model_output", "end_turn"),
        ("model_context_window_exceeded", "model_context_window_exceeded"),
    ],
)  # fmt: skip
def test_stop_reasons(told: str, reason: str) -> None:
    fields = {"additionalModelResponseFields": {"stop_sequence": "END"}}
    blocks = [CALL] if told == "tool_use" else [{"text": "Hi"}]
    whole = answered(*blocks, stop=told, **fields)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, "END")
    if told.startswith("malformed"):
        assert told in whole["content"][-1]["text"]  # nothing of it looks like a good end
    assert answered({"text": "Hi"}, stop="tool_use")["stop_reason"] == "end_turn"
    assert answered(CALL, stop="end_turn")["stop_reason"] == "tool_use"


@pytest.mark.parametrize("used", [None, {}, {"inputTokens": 0, "outputTokens": 0}])
def test_what_the_host_does_not_count_is_guessed(used: Any) -> None:
    told = answered({"text": "Hi " * 90}, usage=used)["usage"]
    assert told["input_tokens"] > 10 and told["output_tokens"] > 70
    cached = answered({"text": "x"}, usage={"cacheReadInputTokens": 5, "outputTokens": 2})["usage"]
    assert (cached["input_tokens"], cached["cache_read_input_tokens"]) == (0, 5)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output":5}', b'{"output":{"message":{}}}'])
def test_what_is_no_answer_is_none(body: bytes) -> None:
    with pytest.raises(SENSELESS):
        translated().answer(200, body)


@pytest.mark.parametrize(
    ("status", "text", "seen", "kind"),
    [
        (400, "Malformed input request", 400, "invalid_request_error"),
        (403, "no access to arn:aws:bedrock:us-east-1:123456789012:x", 403, "permission_error"),
        (404, "none", 404, "not_found_error"),
        (408, "slow", 504, "timeout_error"),
        (429, "Too many requests", 429, "rate_limit_error"),
        (503, "busy", 529, "overloaded_error"),
    ],
)
def test_errors(status: int, text: str, seen: int, kind: str) -> None:
    code, raw = translated().answer(status, json.dumps({"message": text}).encode())
    told = json.loads(raw)
    assert (code, told["type"], told["error"]["type"]) == (seen, "error", kind)
    assert "123456789012" not in told["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        "Input is too long for requested model.",
        "The model returned the following errors: Input Tokens Exceeded: Number of input tokens "
        "exceeds maximum length. Please update the input to try again.",
        "The model returned the following errors: This model's maximum context length is 8192 "
        "tokens. Please reduce the length of the prompt",
    ],
)
def test_a_prompt_that_is_too_long(text: str) -> None:
    code, raw = translated().answer(400, json.dumps({"message": text}).encode())
    assert code == 400
    assert json.loads(raw)["error"]["message"].startswith("prompt is too long")


# streams


def delta(at: int, **told: Any) -> tuple[str, Json]:
    return "contentBlockDelta", {"contentBlockIndex": at, "delta": told}


def begun(at: int, number: str = "tooluse_1") -> tuple[str, Json]:
    call = {"toolUseId": number, "name": SHORT}
    return "contentBlockStart", {"contentBlockIndex": at, "start": {"toolUse": call}}


def stopped(at: int) -> tuple[str, Json]:
    return "contentBlockStop", {"contentBlockIndex": at}


START = ("messageStart", {"role": "assistant"})


def ended(reason: str = "end_turn") -> list[tuple[str, Json]]:
    used = {"usage": USED, "metrics": {"latencyMs": 5}}
    return [("messageStop", {"stopReason": reason}), ("metadata", used)]


THINKS = [
    START,
    delta(0, reasoningContent={"text": "H"}), delta(0, reasoningContent={"text": "m"}),
    delta(0, reasoningContent={"signature": "c2ln"}), stopped(0),
    delta(1, reasoningContent={"redactedContent": "c2Vj"}),
    delta(1, reasoningContent={"redactedContent": "cmV0"}), stopped(1),
    delta(2, text=""), delta(2, text="Hä,\n"), delta(2, text="😀"), stopped(2),
    begun(3), delta(3, toolUse={"input": '{"a"'}), delta(3, toolUse={"input": ":1}"}), stopped(3),
    begun(4, "tooluse_2"), delta(4, toolUse={"input": ""}), stopped(4),
    *ended("tool_use"),
]  # fmt: skip


def framed(events: list[tuple[str, Json]]) -> bytes:
    return b"".join(frame(name, told) for name, told in events)


def replayed(*chunks: bytes, model: str = NOVA) -> bytes:
    stream = translated(model).stream(5)
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.finish()])


def told(raw: bytes) -> list[Json]:
    return [json.loads(line[6:]) for line in raw.decode().split("\n") if line.startswith("data: ")]


def unnumbered(raw: bytes) -> list[Json]:
    found = told(raw)
    found[0]["message"]["id"] = ""
    return found


def test_a_stream_at_every_cut() -> None:
    data = framed(THINKS)
    whole = unnumbered(replayed(data))
    assert unnumbered(replayed(*(bytes((byte,)) for byte in data))) == whole
    for at in range(len(data)):
        assert unnumbered(replayed(data[:at], data[at:])) == whole


def test_the_sdk_reads_the_stream() -> None:
    claude = accumulated(replayed(framed(THINKS), model=CLAUDE))
    first = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
    assert [one.to_dict() for one in claude.content] == [
        first,
        {"type": "redacted_thinking", "data": b64encode(b"secret").decode()},
        {"type": "text", "text": "Hä,\n😀"},
        {"type": "tool_use", "id": "tooluse_1", "name": LONG, "input": {"a": 1}},
        {"type": "tool_use", "id": "tooluse_2", "name": LONG, "input": {}},
    ]
    assert claude.stop_reason == "tool_use"
    other = accumulated(replayed(framed(THINKS)))
    assert [one.type for one in other.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert other.content[0].to_dict()["signature"] == "bifrost-converse"


def test_the_usage_comes_last() -> None:
    first, *_, last, stop = told(replayed(framed(THINKS)))
    assert first["message"]["usage"]["input_tokens"] == 5
    assert last["usage"] == COUNTED
    assert stop == {"type": "message_stop"}


def test_botocore_reads_these_frames_too() -> None:
    """Else the tests would only prove that we understand ourselves."""
    found = read_by_botocore(framed(THINKS))
    assert [next(iter(one)) for one in found] == [name for name, _ in THINKS]
    assert found[-1]["metadata"]["usage"] == USED
    assert "".join(one["contentBlockDelta"]["delta"].get("text", "") for one in found
                   if "contentBlockDelta" in one) == "Hä,\n😀"  # fmt: skip


def test_blocks_never_interleave() -> None:
    mixed = [
        START, delta(0, text="a"), begun(1), begun(2, "tooluse_2"),
        delta(2, toolUse={"input": "{"}), delta(1, toolUse={"input": "{}"}), delta(0, text="b"),
        delta(2, toolUse={"input": "}"}),
        stopped(2), stopped(1), stopped(0), *ended("tool_use"),
    ]  # fmt: skip
    open_at = None
    for event in told(replayed(framed(mixed))):
        if event["type"] == "content_block_start":
            assert open_at is None
            open_at = event["index"]
        elif event["type"].startswith("content_block_"):
            assert event["index"] == open_at
            open_at = None if event["type"] == "content_block_stop" else open_at
    whole = accumulated(replayed(framed(mixed)))
    kinds = [one.type for one in whole.content]
    assert kinds == ["text", "tool_use", "tool_use", "text"]
    assert [one.to_dict().get("input") for one in whole.content[1:3]] == [{}, {}]


def test_blocks_that_nobody_ends() -> None:
    """Some models send no contentBlockStop."""
    bare = [START, delta(0, text="a"), begun(1), delta(1, toolUse={"input": "{}"}),
            begun(2, "tooluse_2"), *ended("tool_use")]  # fmt: skip
    whole = accumulated(replayed(framed(bare)))
    assert [one.type for one in whole.content] == ["text", "tool_use", "tool_use"]


def test_a_stream_cut_short_gets_no_end() -> None:
    data = framed(THINKS)
    cut = replayed(data[: len(data) // 2])
    assert b"message_delta" not in cut and b"message_stop" not in cut
    assert replayed() == b""


def test_a_stream_without_its_usage_is_guessed() -> None:
    text = "word " * 90
    last = told(replayed(framed([START, delta(0, text=text), stopped(0), ended()[0]])))[-2]
    assert last["delta"]["stop_reason"] == "end_turn"
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (5, 125)
    assert last["usage"]["estimated"] == ["input_tokens", "output_tokens"]


def test_an_answer_that_was_given_up_is_told_and_counted() -> None:
    made = [START, delta(0, text="a"), stopped(0), *ended("malformed_tool_use")]
    whole = accumulated(replayed(framed(made)))
    assert whole.stop_reason == "end_turn" and whole.usage.output_tokens == 30
    assert "malformed_tool_use" in whole.content[-1].to_dict()["text"]


@pytest.mark.parametrize(
    ("name", "said", "kind"),
    [
        ("throttlingException", "slow down", "rate_limit_error"),
        ("modelStreamErrorException", "broke", "api_error"),
        ("validationException", "Input is too long for requested model.", "invalid_request_error"),
        ("serviceUnavailableException", "busy", "overloaded_error"),
    ],
)
def test_exceptions_inside_a_stream(name: str, said: str, kind: str) -> None:
    data = framed([START, delta(0, text="a")]) + exception(name, message=said)
    last = told(replayed(data + framed(ended())))[-1]
    assert (last["type"], last["error"]["type"]) == ("error", kind)
    assert said in last["error"]["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"event: ping\ndata: {}\n\n" * 2,
        frame("contentBlockDelta", {"contentBlockIndex": 0}),
        frame("contentBlockDelta", {"delta": {"text": 5}}),
        frame("contentBlockDelta", {"delta": {"toolUse": {"input": "{}"}}}),
        encode({":event-type": "messageStop", ":message-type": "event"}, b"{}"),
    ],
)
def test_a_stream_of_something_else_breaks(data: bytes) -> None:
    with pytest.raises(SENSELESS):
        replayed(data)


def test_events_that_are_new_say_nothing() -> None:
    made = [
        START,
        ("citationThing", {}),
        delta(0, citation={"title": "x"}),
        delta(0, text="a"),
        *ended(),
    ]
    assert [one.type for one in accumulated(replayed(framed(made))).content] == ["text"]


TEXTS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["text", "thought", "call"]), TEXTS), max_size=5))
def test_what_is_streamed_is_what_botocore_reads(blocks: list[tuple[str, list[str]]]) -> None:
    made = [START]
    for at, (kind, pieces) in enumerate(blocks):
        if kind == "call":
            pieces = ['{"a":', json.dumps("".join(pieces)), "}"]
            made += [begun(at, f"c{at}"), *(delta(at, toolUse={"input": one}) for one in pieces)]
        elif kind == "text":
            made += [delta(at, text=one) for one in pieces]
        else:
            made += [delta(at, reasoningContent={"text": one}) for one in pieces]
        made.append(stopped(at))
    made += ended("tool_use")
    seen: dict[int, str] = {}
    for event in read_by_botocore(framed(made)):
        told = event.get("contentBlockDelta")
        if told:
            piece = told["delta"]
            said = piece.get("text") or (piece.get("reasoningContent") or piece.get("toolUse"))
            said = said if isinstance(said, str) else said.get("text") or said.get("input")
            seen[told["contentBlockIndex"]] = seen.get(told["contentBlockIndex"], "") + said
    content = [one.to_dict() for one in accumulated(replayed(framed(made))).content]
    ours = [one.get("text") or one.get("thinking") or json.dumps(one["input"]) for one in content]
    theirs = [json.dumps(json.loads(one)) if blocks[at][0] == "call" else one
              for at, one in sorted(seen.items())]  # fmt: skip
    assert ours == theirs
