"""Answers of Claude's, whole and streamed, and what becomes of them for a Responses client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.translation import Traits

TOOLS = [
    {"type": "function", "name": "bash", "parameters": {"properties": {"cmd": {}}}},
    {"type": "namespace", "name": "n.s", "tools": [{"type": "function", "name": "f"}]},
    {"type": "custom", "name": "exec"},
]
ASKED = {"model": "gpt-x", "input": "Hi", "tools": TOOLS, "reasoning": {"effort": "low"}}
USED = {
    "input_tokens": 10,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 20},
}
COUNTED = {
    "input_tokens": 710,
    "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 760,
}


def translation(**asked: Any) -> ResponsesAnthropic:
    body = json.dumps({**ASKED, **asked}).encode()
    return ResponsesAnthropic(body, "claude-x", max_tokens=None, traits=Traits(adaptive=True))


SPACED = json.loads(translation().body)["tools"][1]["name"]
TEXT = {"type": "text", "text": "So.\u00e9"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
HIDDEN = {"type": "thinking", "thinking": "", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "x"}
UNSIGNED = {"type": "thinking", "thinking": "Hm.", "signature": ""}


def use(name: str, given_: Any, number: int = 1) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given_}


BLOCKS = [
    THOUGHT, HIDDEN, REDACTED, UNSIGNED, TEXT,
    use("bash", {"cmd": "ls", "n": 1.5}), use(SPACED, {}, 2),
    use("exec", {"input": 'a\n"\\😀'}, 3),
]  # fmt: skip


def message(*blocks: Any, stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"id": "msg_01A", "type": "message", "role": "assistant", "content": list(blocks),
            "stop_reason": stop, "usage": USED, **more}  # fmt: skip


def answered(told: object, status: int = 200) -> tuple[int, Any]:
    status, body = translation().answer(status, json.dumps(told).encode())
    return status, json.loads(body)


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


PING = event("ping")


def deltas(block: Any) -> tuple[Any, list[Any]]:
    """The start of a block and its deltas, as Claude streams them."""
    if block["type"] == "text":
        pieces = [block["text"][:1], block["text"][1:]]
        return {**block, "text": ""}, [{"type": "text_delta", "text": one} for one in pieces]
    if block["type"] == "thinking":
        pieces = [{"type": "thinking_delta", "thinking": one} for one in block["thinking"]]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*pieces, signed]
    if block["type"] == "tool_use":
        whole = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
        cuts = range(0, len(whole), 3)
        pieces = [{"type": "input_json_delta", "partial_json": whole[at : at + 3]} for at in cuts]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": ""}, *pieces]
    return block, []


def parts(*blocks: Any, stop: str = "end_turn", **more: Any) -> list[bytes]:
    used = more.pop("usage", USED)
    early = {**used, "output_tokens": 1} if used else {}
    begun = {**message(), "stop_reason": None, "usage": early}
    made = [event("message_start", message=begun), PING]
    for index, block in enumerate(blocks):
        begins, told = deltas(block)
        made.append(event("content_block_start", index=index, content_block=begins))
        made += [event("content_block_delta", index=index, delta=delta) for delta in told]
        made.append(event("content_block_stop", index=index))
    late = {"output_tokens": used.get("output_tokens"), "output_tokens_details": {
        "thinking_tokens": 20}, "input_tokens": None}  # fmt: skip
    delta = {"stop_reason": stop, "stop_sequence": None, **more}
    return [*made, event("message_delta", delta=delta, usage=late), event("message_stop")]


def replayed(pieces: Sequence[bytes], translated: ResponsesAnthropic | None = None) -> bytes:
    stream = (translated or translation()).stream(77)
    return b"".join(map(stream.feed, pieces)) + stream.finish()


def streamed(*blocks: Any, stop: str = "end_turn", **more: Any) -> bytes:
    return replayed(parts(*blocks, stop=stop, **more))


def events(raw: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]


def final(raw: bytes) -> Any:
    return events(raw)[-1]["response"]
