"""Streams of Gemini's streamGenerateContent as Anthropic events: one block at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.chat_answer import decoded, guessed, message
from bifrost.translate.chat_request import Names
from bifrost.translate.chat_stream import CALL, DELTA, DELTAS, MOST_LINE, OPENS, event
from bifrost.translate.gemini_answer import (
    Piece,
    blocked,
    broken,
    counted,
    given_up,
    pieces,
    redacted,
    stop_reason,
)
from bifrost.translate.gemini_request import SIGNED

Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class GeminiStream:
    """One answer, which ends where its bytes do. A block of thoughts stays open until the next
    part is known: it carries the signature of a call right behind it. Raises what is in SENSELESS
    where the stream makes no sense."""

    def __init__(self, model: str, names: Names, input_estimate: int) -> None:
        self._model, self._names = model, names
        self._estimate = max(1, input_estimate)
        self._used: Json | None = None
        self._rest = b""
        self._started = self._over = self._called = False
        self._reason: str | None = None
        self._made = 0  # bytes of output
        self._index = -1
        self._open: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the host, cut anywhere; whole events."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        out: list[bytes] = []
        for line in lines:
            self._line(line, out)
        return b"".join(out)

    def finish(self) -> bytes:
        """The end, if the host said why it stopped; a stream that was cut short gets none."""
        out: list[bytes] = []
        self._line(self._rest, out)
        if self._reason is not None and not self._over:
            self._end(self._reason, out)
        return b"".join(out)

    def _line(self, line: bytes, out: list[bytes]) -> None:
        data = line[5:].strip() if line.startswith(b"data:") else b""
        if not data or data == b"[DONE]" or self._over:
            return
        told = decoded(data)
        told = told[0] if isinstance(told, list) else told
        if told.get("error"):
            self._fail(broken(told), out)
            return
        if not self._started:
            self._started = True
            begun = message(told.get("responseId"), self._model, guessed(self._estimate, 0))
            out.append(event("message_start", message=begun))
        self._used = told.get("usageMetadata") or self._used
        self._reason = blocked(told) or self._reason
        for candidate in (told.get("candidates") or ())[:1]:
            for piece in pieces(candidate, self._names):
                self._piece(piece, out)
            self._reason = candidate.get("finishReason") or self._reason
        if self._reason is not None and stop_reason(self._reason, called=False) is None:
            self._fail(given_up(self._reason), out)

    def _piece(self, piece: Piece, out: list[bytes]) -> None:
        if piece.call:
            self._call(piece.call, piece.signature, out)
            return
        if self._open != piece.kind:
            self._close(out)
            self._begin(OPENS[piece.kind], out)
            self._open = piece.kind
        self._made += len(piece.text.encode("utf-8", "replace"))
        out.append(DELTA % (self._index, *DELTAS[piece.kind], _encode(piece.text)))

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
        used = counted(self._used, self._estimate, self._made)
        out.append(event("message_delta", delta=delta, usage=used))
        out.append(event("message_stop"))
