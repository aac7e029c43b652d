"""Claude's event streams as chunks of Chat Completions."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from bifrost._fast.pieces import delta
from bifrost.translate.anthropic_events import AnthropicEvents
from bifrost.translate.chat_completion import error, finish_reason, usage
from bifrost.translate.messages_tools import ToolNames

Json = dict[str, Any]
_DELTAS = {"text_delta": ("text", b"content"), "thinking_delta": ("thinking", b"reasoning_content")}
_SAID = {b"text": b"content", b"thinking": b"reasoning_content"}
_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class ChatChunks:
    """One answer. ``tells_usage``: the client asked for the chunk with the usage."""

    def __init__(self, model: str, names: ToolNames, *, tells_usage: bool) -> None:
        self._events, self._names = AnthropicEvents(), names
        self._tells_usage = tells_usage
        self._model, self._id, self._created = model, "", int(time.time())
        self._used: Json = {}
        self._calls = -1  # the number of the call that is open, or was last
        self._opens = False  # nothing of it has been told
        self._reason: str | None = None
        self._frame()

    def feed(self, chunk: bytes) -> bytes:
        """The next of Claude's bytes, cut anywhere; whole chunks."""
        found = delta(chunk) if self._events.between else None
        if found is not None:
            return self.say(*found)
        return b"".join([self._told(event) for event in self._events.feed(chunk)])

    def say(self, name: bytes, text: bytes) -> bytes:
        """As ``feed`` of one delta."""
        if name == b"partial_json":
            return self._arguments(text) if text != b'""' else b""
        return b'%b{"%b":%b}%b' % (self._lead, _SAID[name], text, self._tail)

    def finish(self) -> bytes:
        """Nothing: what Claude did not end stays without an end."""
        return b""

    def _told(self, event: Json) -> bytes:
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(event["delta"])
        if kind == "message_start":
            begun = event["message"]
            self._id = begun["id"].replace("msg_", "chatcmpl-", 1)
            self._model = begun.get("model") or self._model
            self._used = begun.get("usage") or {}
            self._frame()
            return self._chunk({"role": "assistant", "content": ""})
        if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            return self._call(event["content_block"])
        if kind == "content_block_stop" and self._opens:
            return self._arguments(b'"{}"')
        if kind == "message_delta":
            self._used = self._used | {k: v for k, v in event["usage"].items() if v is not None}
            self._reason = event["delta"].get("stop_reason")
        elif kind == "message_stop":
            return self._end()
        elif kind == "error":
            return b"data: %b\n\n" % _encode({"error": error(event)})
        return b""

    def _delta(self, told: Json) -> bytes:
        kind = told["type"]
        if kind in _DELTAS:
            given, name = _DELTAS[kind]
            return b'%b{"%b":%b}%b' % (self._lead, name, _encode(told[given]), self._tail)
        if kind == "input_json_delta" and told["partial_json"]:
            return self._arguments(_encode(told["partial_json"]))
        return b""

    def _call(self, block: Json) -> bytes:
        self._calls += 1
        self._opens = True
        function = {"name": self._names.back(block["name"]).name, "arguments": ""}
        call = {"index": self._calls, "id": block["id"], "type": "function", "function": function}
        return self._chunk({"tool_calls": [call]})

    def _arguments(self, piece: bytes) -> bytes:
        self._opens = False
        call = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}'
        return b"%b%b%b" % (self._lead, call % (self._calls, piece), self._tail)

    def _end(self) -> bytes:
        ended = self._chunk({}, finish_reason(self._reason))
        if self._tells_usage:
            ended += self._line([], usage=usage(self._used))
        return ended + DONE

    def _frame(self) -> None:
        """What stands around every delta, made once."""
        lead, mark, self._tail = self._chunk({}).partition(b'"delta":{}')
        self._lead = lead + mark[:-2]

    def _chunk(self, delta: Json, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._line([choice], **({"usage": None} if self._tells_usage else {}))

    def _line(self, choices: list[Json], **more: Any) -> bytes:
        told = {"id": self._id, "object": "chat.completion.chunk", "created": self._created,
                "model": self._model, "choices": choices, **more}  # fmt: skip
        return b"data: %b\n\n" % _encode(told)
