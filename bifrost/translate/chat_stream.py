"""Streams of Chat Completions as Anthropic events: one block at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.chat_answer import (
    SIGNATURE,
    broken,
    counted,
    decoded,
    guessed,
    listed,
    message,
    stop_reason,
    tool_use,
)
from bifrost.translate.chat_request import Names
from bifrost.translate.data_lines import DataLines
from bifrost.translate.translation import Traits

Json = dict[str, Any]
OPENS: dict[str, Json] = {
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "text": {"type": "text", "text": ""},
}
# What most of a stream is made of, put together without an object.
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"%b","%b":%b}}\n\n'
)
DELTAS: dict[str | int, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
}
CALL = (b"input_json_delta", b"partial_json")
_encode = msgspec.json.Encoder().encode


class _Function(msgspec.Struct, gc=False, omit_defaults=True):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False, omit_defaults=True):
    index: Any = None
    id: Any = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """What of a chunk is looked at; nothing else is made an object of."""

    id: Any = None
    error: Any = None
    usage: Any = None
    x_groq: Any = None
    choices: list[_Choice] | None = None


_SHORT = 16  # bytes; a chunk has more
_chunk = msgspec.json.Decoder(_Chunk).decode


class ChatStream(DataLines):
    """One answer. Blocks of Anthropic's never interleave: while a call is open, whatever belongs to
    another block waits until the end. Raises ValueError where the stream makes no sense."""

    def __init__(self, model: str, names: Names, traits: Traits, input_estimate: int) -> None:
        super().__init__()
        self._model, self._names, self._traits = model, names, traits
        self._estimate = max(1, input_estimate)
        self._used: Json | None = None
        self._started = self._refused = False
        self._reason: str | None = None
        self._made = 0  # bytes of output
        self._index = -1
        self._open: str | int | None = None
        self._calls: dict[int, Json] = {}  # what began each, by Chat's index
        self._waiting: dict[str | int, list[str]] = {}

    def _ended(self, out: list[bytes]) -> None:
        """The end, if the host said why it stopped."""
        if self._reason is not None and not self._over:
            self._end(out)

    def _event(self, data: bytes, out: list[bytes]) -> None:
        if len(data) < _SHORT and data.strip() == b"[DONE]":
            if self._started:
                self._end(out)
            return
        try:
            told = _chunk(data)
        except (msgspec.ValidationError, RecursionError):
            told = _Chunk(error=_failed(data))
        if told.error:
            self._over = True
            out.append(event("error", error=broken(decoded(data))))
            return
        if not self._started:
            self._started = True
            begun = message(told.id, self._model, guessed(self._estimate, 0))
            out.append(event("message_start", message=begun))
        if told.usage or told.x_groq:
            self._used = told.usage or (told.x_groq or {}).get("usage") or self._used
        if told.choices:
            choice = told.choices[0]
            if choice.finish_reason:
                self._reason = choice.finish_reason
            if choice.delta is not None:
                self._delta(choice.delta, out)

    def _delta(self, delta: _Delta, out: list[bytes]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._piece("thinking", thought, out)
        content = delta.content
        if delta.refusal:
            self._refused = True
            content = content or delta.refusal
        if isinstance(content, list):
            for kind, text in listed(content):
                if text:
                    self._piece(kind, text, out)
        elif content:
            self._piece("text", content, out)
        for call in delta.tool_calls or ():
            key = call.index if type(call.index) is int else self._key(call)
            if key not in self._calls:
                self._calls[key] = tool_use(msgspec.to_builtins(call), self._names)
            self._piece(key, (call.function.arguments if call.function else None) or "", out)

    def _key(self, call: _Call) -> int:
        """Which call a fragment belongs to; some hosts number none."""
        return len(self._calls) if call.id else max(len(self._calls) - 1, 0)

    def _piece(self, key: str | int, text: str, out: list[bytes]) -> None:
        if self._open != key:
            if isinstance(self._open, int):
                self._waiting.setdefault(key, []).append(text)
                return
            self._close(out)
            self._open = key
            self._index += 1
            block = self._calls[key] if isinstance(key, int) else OPENS[key]
            out.append(event("content_block_start", index=self._index, content_block=block))
        if text:
            self._made += len(text) if text.isascii() else size(text)
            kind, name = DELTAS.get(key, CALL)
            piece = _encode(text)
            out.append(DELTA % (self._index, kind, name, piece))
            self.said = name, piece

    def _close(self, out: list[bytes]) -> None:
        if self._open == "thinking":
            signed = {"type": "signature_delta", "signature": SIGNATURE}
            out.append(event("content_block_delta", index=self._index, delta=signed))
        if self._open is not None:
            out.append(event("content_block_stop", index=self._index))
        self._open = None

    def _end(self, out: list[bytes]) -> None:
        self._close(out)
        for key, texts in self._waiting.items():
            self._piece(key, "".join(texts), out)
            self._close(out)
        self._over = True
        reason = stop_reason(self._reason, called=bool(self._calls), refused=self._refused)
        used = counted(self._used, self._traits, self._estimate, self._made)
        delta = {"stop_reason": reason, "stop_sequence": None}
        out.append(event("message_delta", delta=delta, usage=used))
        out.append(event("message_stop"))


def _failed(data: bytes) -> Any:
    """The error of a chunk that has not a chunk's shape. Raises ValueError where it has none."""
    told = decoded(data)
    error = told.get("error") if isinstance(told, dict) else None
    if not error:
        raise ValueError("a chunk of another shape")
    return error


def size(text: str) -> int:
    """Bytes of a text."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def event(name: str, **fields: Any) -> bytes:
    """An event of Anthropic's."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))
