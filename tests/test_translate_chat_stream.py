"""Chat Completions streams as Anthropic events, cut anywhere."""

from __future__ import annotations

import json
from typing import Any

from bifrost.translate.chat_stream import ChatStream


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c", "choices": choices, **more}).encode() + b"\n\n"


def call(index: int, arguments: str, **more: Any) -> bytes:
    function = {"arguments": arguments, **({"name": "Bash"} if more else {})}
    return chunk({"tool_calls": [{"index": index, "function": function, **more}]})


PARTS = [chunk({"reasoning_content": "hm"}), chunk({"content": "h\u00e9"}), call(0, "", id="a"),
         call(1, "{", id="b"), call(0, "{}"), call(1, "}"), chunk({}, "tool_calls"),
         chunk(usage={"prompt_tokens": 9, "completion_tokens": 4})]  # fmt: skip
WHOLE = b"".join(PARTS) + b"data: [DONE]\n\n"


def replay(*pieces: bytes) -> bytes:
    stream = ChatStream("claude-x", 50)
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def test_same_events_at_every_split() -> None:
    once = replay(WHOLE)
    for at in range(len(WHOLE)):
        assert replay(WHOLE[:at], WHOLE[at:]) == once
    events = [json.loads(line[6:]) for line in once.splitlines() if line.startswith(b"data: ")]
    assert events[0]["message"]["usage"]["input_tokens"] == 50
    kinds = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    order = [e["index"] for e in events if "index" in e]
    assert order == sorted(order)
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"]["input_tokens"] == 9 and events[-1]["type"] == "message_stop"


def test_cut_and_broken_streams_get_no_end() -> None:
    assert b"message_stop" not in replay(*PARTS)
    broken = replay(PARTS[0], b'data: {"error":{"message":"No."}}\n\n', WHOLE)
    assert b"event: error" in broken and b"message_stop" not in broken
