"""Streams on every way say the same however they come: event by event, at once, byte by byte."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.config.hosts import Api
from bifrost.mock.converse import frame
from bifrost.passage.ways import FROM_CLIENTS, RELAYS, TO_HOSTS, way
from bifrost.translate.bedrock_anthropic import AnthropicStream
from bifrost.translate.translation import Traits

PAIRS: list[tuple[Api, Api]] = [
    *(("messages", host) for host in TO_HOSTS),
    *((client, "messages") for client in FROM_CLIENTS),
    *((client, host) for client in FROM_CLIENTS for host in TO_HOSTS if client != host),
    *((same, same) for same in RELAYS),
]
SAID = [{"role": "user", "content": "Go"}]
ASKED: dict[Api, dict[str, Any]] = {
    "messages": {"messages": SAID, "max_tokens": 99},
    "chat": {"messages": SAID, "stream_options": {"include_usage": True}},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Go"}]}]},
    "responses": {"input": SAID},
}
NOW = re.compile(rb'"created(?:_at)?":\d+|(?<=[-_])[0-9a-f]{24}(?![0-9a-f])')  # and ids made up
TEXTS = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(["", '"', "\\", "\n", "é", "{}"])))
Spoken = tuple[list[str], list[str], list[str]]  # thoughts, words, arguments


def chat(spoken: Spoken) -> list[bytes]:
    thoughts, words, arguments = spoken
    deltas: list[Any] = [{"reasoning_content": one} for one in thoughts]
    deltas += [{"content": one} for one in words]
    begun: Any = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}
    deltas += [{"tool_calls": [begun]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": one}}]} for one in arguments]
    told: list[Any] = [{"id": "1", "choices": [{"delta": delta}]} for delta in deltas]
    told.append({"id": "1", "choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    told.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})
    return [*map(data, told), b"data: [DONE]\n\n"]


def gemini(spoken: Spoken) -> list[bytes]:
    thoughts, words, arguments = spoken
    parts: list[Any] = [{"text": one, "thought": True} for one in thoughts]
    parts += [{"text": one} for one in words]
    parts.append({"functionCall": {"id": "c1", "name": "f", "args": {"a": "".join(arguments)}}})
    used = {"promptTokenCount": 9, "candidatesTokenCount": 4}
    told: list[Any] = [
        {"candidates": [{"content": {"parts": [part]}}], "usageMetadata": used} for part in parts
    ]
    return [data(one) for one in [*told, {"candidates": [{"finishReason": "STOP"}]}]]


def messages(spoken: Spoken) -> list[bytes]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    blocks: list[tuple[Any, str, str]] = [
        ({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking"),
        ({"type": "text", "text": ""}, "text_delta", "text"),
        (call, "input_json_delta", "partial_json"),
    ]
    told: list[Any] = [{"type": "message_start", "message": {"id": "msg_1", "usage": {}}}]
    for index, ((begun, kind, name), texts) in enumerate(zip(blocks, spoken, strict=True)):
        told.append({"type": "content_block_start", "index": index, "content_block": begun})
        deltas = [{"type": kind, name: text} for text in texts]
        if name == "thinking":
            deltas.append({"type": "signature_delta", "signature": "s"})
        told += [{"type": "content_block_delta", "index": index, "delta": one} for one in deltas]
        told.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": "tool_use"}
    told.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 4}})
    return [named(one) for one in [*told, {"type": "message_stop"}]]


def responses(spoken: Spoken) -> list[bytes]:
    thoughts, words, arguments = spoken
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "".join(arguments)}
    items: list[tuple[Any, str, list[str]]] = [
        ({"type": "reasoning", "id": "rs"}, "response.reasoning_summary_text.delta", thoughts),
        ({"type": "message", "content": []}, "response.output_text.delta", words),
        (call, "response.function_call_arguments.delta", arguments),
    ]
    told: list[Any] = [{"type": "response.created", "response": {"id": "resp_1"}}]
    for index, (item, kind, texts) in enumerate(items):
        place = {"output_index": index}
        told.append({"type": "response.output_item.added", **place, "item": item})
        told += [{"type": kind, **place, "delta": text} for text in texts]
        told.append({"type": "response.output_item.done", **place, "item": item})
    used = {"input_tokens": 9, "output_tokens": 4}
    told.append({"type": "response.completed", "response": {"id": "resp_1", "usage": used}})
    return [named(one) for one in told]


def bedrock(spoken: Spoken) -> list[bytes]:
    """The events of messages in frames; ``AnthropicStream`` is what Bedrock's own door uses."""
    frames = AnthropicStream()
    return [frames.feed(event) for event in messages(spoken)]


def converse(spoken: Spoken) -> list[bytes]:
    thoughts, words, arguments = spoken
    blocks: list[list[Any]] = [
        [{"reasoningContent": {"text": one}} for one in thoughts],
        [{"text": one} for one in words],
        [{"toolUse": {"input": one}} for one in arguments],
    ]
    frames = [frame("messageStart", {"role": "assistant"})]
    for at, deltas in enumerate(blocks):
        place = {"contentBlockIndex": at}
        if at == 2:
            call = {"toolUse": {"toolUseId": "c1", "name": "f"}}
            frames.append(frame("contentBlockStart", {**place, "start": call}))
        frames += [frame("contentBlockDelta", {**place, "delta": delta}) for delta in deltas]
        frames.append(frame("contentBlockStop", place))
    used = {"inputTokens": 9, "outputTokens": 4, "totalTokens": 13}
    frames.append(frame("messageStop", {"stopReason": "tool_use"}))
    return [*frames, frame("metadata", {"usage": used, "metrics": {"latencyMs": 1}})]


STREAMS = {
    "bedrock": bedrock, "chat": chat, "converse": converse, "gemini": gemini, "messages": messages,
    "responses": responses, "vertex": messages,
}  # fmt: skip


def data(told: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def named(told: Any) -> bytes:
    return b"event: %b\n%b" % (told["type"].encode(), data(told))


def carried(client: Api, host: Api, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """What the client gets and what the meters read."""
    body = json.dumps({"model": "m", "stream": True, **ASKED[client]}).encode()
    flow = way(client, host, body, "m", None, Traits(reasons=True, adaptive=True)).flow(9)
    told = [*map(flow.feed, pieces), flow.finish()]
    shown, metered = (b"".join(parts) for parts in zip(*told, strict=True))
    return NOW.sub(b"", shown), NOW.sub(b"", metered)


@pytest.mark.parametrize("host", ["bedrock", "vertex", "converse"])
def test_claude_in_a_cloud_is_asked_for_no_more_than_it_can(host: Api) -> None:
    """By clients of another dialect as by its own: the second step cannot know."""
    function = {"name": "f", "parameters": {"type": "object"}}
    asked = {"messages": SAID, "reasoning_effort": "high", "tool_choice": "required",
             "tools": [{"type": "function", "function": function}]}  # fmt: skip
    body = json.dumps({"model": "m", **asked}).encode()
    less, more = (
        way("chat", host, body, "anthropic.claude-x", None, traits).body
        for traits in (Traits(forced_tools=False), Traits(adaptive=True))
    )
    for word in (b'"thinking"', b'"any"', b'"effort"'):
        assert word not in less and word in more
    other = way("chat", "converse", body, "us.amazon.nova-2-lite-v1:0", None, Traits(reasons=True))
    assert b'"maxReasoningEffort"' in other.body and b'"any"' in other.body


@pytest.mark.parametrize(("client", "host"), PAIRS)
@settings(deadline=None)
@given(st.tuples(TEXTS, TEXTS, TEXTS))
def test_a_stream_says_the_same_however_it_comes(client: Api, host: Api, spoken: Spoken) -> None:
    if client == "gemini":  # which has objects for arguments, and no text
        thoughts, words, arguments = spoken
        spoken = (thoughts, words, ['{"a":', json.dumps("".join(arguments)), "}"])
    events = STREAMS[host](spoken)
    raw = b"".join(events)
    once = carried(client, host, [raw])
    assert carried(client, host, events) == once
    assert carried(client, host, [bytes([byte]) for byte in raw]) == once
