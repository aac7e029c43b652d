"""Claude's event streams as the chunks of Gemini's streamGenerateContent."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost._fast.pieces import delta
from bifrost.translate.anthropic_events import AnthropicEvents
from bifrost.translate.chat_answer import decoded
from bifrost.translate.chat_request import Names
from bifrost.translate.gemini_candidates import (
    LIMITS,
    broken,
    call,
    encoded,
    finish,
    one_line,
    response,
)
from bifrost.translate.gemini_signature import seal

Json = dict[str, Any]
_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature",
           "input_json_delta": "partial_json"}  # fmt: skip
_text = msgspec.json.Decoder(str).decode


class GeminiChunks:
    """One answer. Text goes out as it comes, a call when it is whole, thinking in what carries it:
    the part behind it, whose signature it is. Raises a SENSELESS error where the stream makes no
    sense."""

    def __init__(self, model: str, names: Names, *, shows_thoughts: bool) -> None:
        """``model``: what the client is told where the host does not say it."""
        self._events = AnthropicEvents()
        self._names, self._shows = names, shows_thoughts
        self._model, self._number = model, ""
        self._used: Json = {}
        self._ended: Json | None = None
        self._limited = False
        self._block: Json = {}
        self._said: list[bytes] = []  # a call's input, until it is whole
        self._thoughts: list[Json] = []  # since the last part that could carry them
        self._half: str | None = None  # a call whose input makes no JSON, until it is clear why
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
            self._said.append(text[1:-1])
            return b""
        if name == b"text" and not self._thoughts and text != b'""':
            return b"%b%b%b" % (self._lead, one_line(text), self._tail)
        return self._piece(name.decode(), _text(text))

    def finish(self) -> bytes:
        """Nothing: what Claude did not end stays without an end."""
        return b""

    def _told(self, event: Json) -> bytes:
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(event["delta"])
        if kind == "message_start":
            begun = event["message"]
            self._number = begun["id"]
            self._model = begun.get("model") or self._model
            self._used = begun.get("usage") or {}
            self._frame()
        elif kind == "content_block_start":
            self._block, self._said = dict(event["content_block"]), []
            if self._half is not None:
                raise ValueError("a call whose input is no JSON")
        elif kind == "content_block_stop":
            return self._close()
        elif kind == "message_delta":
            self._used = self._used | {k: v for k, v in event["usage"].items() if v is not None}
            reason = event["delta"].get("stop_reason")
            self._limited = reason in LIMITS
            self._ended = finish(reason, event["delta"].get("stop_details"))
        elif kind == "message_stop":
            return self._end()
        elif kind == "error":
            return broken(event)
        return b""

    def _delta(self, delta: Json) -> bytes:
        name = _DELTAS.get(delta["type"], "")
        return self._piece(name, delta.get(name) or "")

    def _piece(self, name: str, piece: str) -> bytes:
        if not piece:
            return b""
        if name == "text":
            return self._chunk(self._signed({"text": piece}))
        if name == "partial_json":
            self._said.append(msgspec.json.encode(piece)[1:-1])
            return b""
        self._block[name] = (self._block.get(name) or "") + piece
        if name == "thinking" and self._shows:
            return self._chunk({"text": piece, "thought": True})
        return b""

    def _close(self) -> bytes:
        block, self._block = self._block, {}
        kind = block.get("type")
        if kind in ("thinking", "redacted_thinking"):
            self._thoughts.append(block)
        elif kind == "text" and block.get("text"):  # some hosts give it all at once
            return self._chunk(self._signed({"text": block["text"]}))
        elif kind == "tool_use":
            text = _text(b'"%b"' % b"".join(self._said))
            given = _input(text) if text.strip() else block.get("input") or {}
            if isinstance(given, dict):
                return self._chunk(self._signed(call(block, given, self._names)))
            self._half = text
        return b""

    def _signed(self, part: Json) -> Json:
        thoughts, self._thoughts = self._thoughts, []
        return part | {"thoughtSignature": seal(thoughts)} if thoughts else part

    def _end(self) -> bytes:
        if self._half is not None and not self._limited:
            raise ValueError("a call whose input is no JSON")
        ended = self._ended or finish(None, None)
        whole = response([{"text": ""}], ended, self._used, self._number, self._model)
        return b"data: %b\r\n\r\n" % encoded(whole)

    def _frame(self) -> None:
        """What stands around every piece of text, made once."""
        lead, mark, tail = self._chunk({"text": ""}).partition(b'{"text":""}')
        self._lead, self._tail = lead + mark[:-3], mark[-1:] + tail

    def _chunk(self, part: Json) -> bytes:
        whole = response([part], {}, None, self._number, self._model)
        return b"data: %b\r\n\r\n" % encoded(whole)


def _input(text: str) -> object:
    """What a call is given; None where it broke off."""
    try:
        return decoded(text)
    except (ValueError, msgspec.DecodeError):
        return None
