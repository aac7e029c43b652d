"""Streams of Gemini's streamGenerateContent as Anthropic events: one block at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.chat_answer import decoded, guessed, message
from bifrost.translate.chat_request import Names
from bifrost.translate.chat_stream import CALL, DELTA, DELTAS, OPENS, event, size
from bifrost.translate.data_lines import DataLines
from bifrost.translate.gemini_answer import (
    Candidate,
    blocked,
    broken,
    call_of,
    counted,
    given_up,
    redacted,
    stop_reason,
)
from bifrost.translate.gemini_request import SIGNED

Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class Chunk(msgspec.Struct, gc=False):
    """What of a chunk is looked at; nothing else is made an object of."""

    error: Any = None
    responseId: Any = None
    usageMetadata: msgspec.Raw = msgspec.Raw(b"")
    promptFeedback: Any = None
    candidates: list[Candidate] | None = None


_SHORT = 16  # bytes; a chunk that says something has more
_chunk = msgspec.json.Decoder(Chunk).decode
NOTHING = len(b"null")  # bytes of a usage that says nothing


class GeminiStream(DataLines):
    """One answer, which ends where its bytes do. A block of thoughts stays open until the next
    part is known: it carries the signature of a call right behind it. Raises what is in SENSELESS
    where the stream makes no sense."""

    def __init__(self, model: str, names: Names, input_estimate: int) -> None:
        super().__init__()
        self._model, self._names = model, names
        self._estimate = max(1, input_estimate)
        self._used = msgspec.Raw(b"null")
        self._started = self._called = False
        self._reason: str | None = None
        self._made = 0  # bytes of output
        self._index = -1
        self._open: str | None = None

    def _ended(self, out: list[bytes]) -> None:
        """The end, if the host said why it stopped."""
        if self._reason is not None and not self._over:
            self._end(self._reason, out)

    def _event(self, data: bytes, out: list[bytes]) -> None:
        if len(data) < _SHORT and data.strip() in (b"", b"[DONE]"):
            return
        told = chunk_of(data)
        if told.error:
            self._fail(broken({"error": told.error}), out)
            return
        if not self._started:
            self._started = True
            begun = message(told.responseId, self._model, guessed(self._estimate, 0))
            out.append(event("message_start", message=begun))
        if len(told.usageMetadata) > NOTHING:
            self._used = told.usageMetadata
        if told.promptFeedback:
            self._reason = blocked(decoded(data)) or self._reason
        if told.candidates:
            candidate = told.candidates[0]
            for part in candidate.parts():
                if part.functionCall:
                    self._call(*call_of(part, self._names), out)
                elif part.text:
                    self._text("thinking" if part.thought else "text", part.text, out)
            self._reason = candidate.finishReason or self._reason
        if self._reason is not None and stop_reason(self._reason, called=False) is None:
            self._fail(given_up(self._reason), out)

    def _text(self, kind: str, text: str, out: list[bytes]) -> None:
        if self._open != kind:
            self._close(out)
            self._begin(OPENS[kind], out)
            self._open = kind
        self._made += size(text)
        of_kind, name = DELTAS[kind]
        piece = _encode(text)
        out.append(DELTA % (self._index, of_kind, name, piece))
        self.said = name, piece

    def _call(self, call: Json, signature: str, out: list[bytes]) -> None:
        thought = self._open == "thinking"
        self._close(out, signature)
        if signature and not thought:
            self._begin(redacted(signature), out)
            self._stop(out)
        self._called = True
        self._begin(call | {"input": {}}, out)
        arguments = _encode(call["input"])
        self._made += len(arguments)
        out.append(DELTA % (self._index, *CALL, _encode(arguments.decode())))
        self._stop(out)

    def _begin(self, block: Json, out: list[bytes]) -> None:
        self._index += 1
        out.append(event("content_block_start", index=self._index, content_block=block))

    def _stop(self, out: list[bytes]) -> None:
        out.append(event("content_block_stop", index=self._index))

    def _close(self, out: list[bytes], signature: str = "") -> None:
        if self._open == "thinking":
            delta = {"type": "signature_delta", "signature": signature or SIGNED}
            out.append(event("content_block_delta", index=self._index, delta=delta))
        if self._open is not None:
            self._stop(out)
        self._open = None

    def _fail(self, error: Json, out: list[bytes]) -> None:
        self._over = True
        out.append(event("error", error=error))

    def _end(self, told: str, out: list[bytes]) -> None:
        self._close(out)
        self._over = True
        delta = {"stop_reason": stop_reason(told, called=self._called), "stop_sequence": None}
        used = counted(decoded(bytes(self._used)), self._estimate, self._made)
        out.append(event("message_delta", delta=delta, usage=used))
        out.append(event("message_stop"))


def chunk_of(data: bytes) -> Chunk:
    """What a line's data tell: a chunk, also one in a list, or an error. Raises ValueError for all
    else."""
    try:
        return _chunk(data)
    except (msgspec.ValidationError, RecursionError):
        told = decoded(data)
    told = told[0] if isinstance(told, list) else told
    try:
        if told.get("error"):
            return Chunk(error=told["error"])
        return _chunk(_encode(told))
    except (msgspec.ValidationError, AttributeError) as error:
        raise ValueError("a chunk of another shape") from error
