"""Streams of Bedrock's ConverseStream as Anthropic events: one block at a time."""

from __future__ import annotations

from base64 import b64decode, b64encode
from secrets import token_hex
from typing import Any

import msgspec

from bifrost._fast.pieces import frame_payload
from bifrost.translate.bedrock_answer import broken
from bifrost.translate.chat_answer import guessed, message, tool_use
from bifrost.translate.chat_request import Names
from bifrost.translate.chat_stream import CALL, DELTA, DELTAS, OPENS, event, size
from bifrost.translate.converse_answer import counted, given_up, stop_reason, stopped_by
from bifrost.translate.converse_turns import SIGNED
from bifrost.translate.event_stream import Frame, FrameReader

Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Input(msgspec.Struct, gc=False):
    input: str = ""


class _Thought(msgspec.Struct, gc=False):
    text: str | None = None
    signature: str | None = None
    redactedContent: str | None = None


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    toolUse: _Input | None = None
    reasoningContent: _Thought | None = None


class _Piece(msgspec.Struct, gc=False):
    """What of a contentBlockDelta is looked at; nothing else is made an object of."""

    delta: _Delta
    contentBlockIndex: int = 0


_piece = msgspec.json.Decoder(_Piece).decode
_Held = tuple[str, Any]  # (what came of a block, with what)


class ConverseStream:
    """One answer. While a call is open, what belongs to another block waits. The end waits for the
    event behind it, which alone says the usage. Raises what is in SENSELESS where the stream makes
    no sense."""

    def __init__(self, model: str, names: Names, input_estimate: int, *, claude: bool) -> None:
        """``claude``: it is Claude who answers, whose signatures hold."""
        self.said: tuple[bytes, bytes] | None = None  # see ``translation.Spoken``
        self._reader = FrameReader()
        self._block = b""  # the headers of a delta, once one has come
        self._model, self._names, self._claude = model, names, claude
        self._estimate = max(1, input_estimate)
        self._started = self._called = self._over = False
        self._reason: object = None
        self._sequence: str | None = None
        self._used: object = None
        self._made = 0  # bytes of output
        self._index = -1  # ours
        self._at = -1  # the host's index of the open block
        self._open: str | None = None
        self._sealed: list[str] = []  # of the open block: its signature, or what is redacted
        self._held: dict[int, list[_Held]] = {}  # by the host's index

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from Bedrock, cut anywhere; whole events."""
        out: list[bytes] = []
        self.said = None
        payload = None
        if self._block and self._reader.boundary and not self._over:
            payload = frame_payload(chunk, self._block)
        if payload is not None:
            told = _piece(payload)
            self._delta(told.contentBlockIndex, told.delta, out)
        else:
            self._frames(chunk, out)
        if len(out) == 1:
            return out[0]
        self.said = None
        return b"".join(out)

    def _frames(self, chunk: bytes, out: list[bytes]) -> None:
        for frame in self._reader.feed(chunk):
            if not self._over:
                self._frame(frame, out)

    def finish(self) -> bytes:
        """The end, if the host said why it stopped but nothing of the usage."""
        self._reader.finish()
        out: list[bytes] = []
        if self._reason is not None and not self._over:
            self._end(out)
        return b"".join(out)

    def _frame(self, frame: Frame, out: list[bytes]) -> None:
        if frame.headers.get(":message-type", "event") != "event":
            self._over = True
            out.append(event("error", error=broken(frame)))
            return
        name = frame.headers.get(":event-type")
        if name == "contentBlockDelta":
            self._begun(out)
            self._block = frame.block
            told = _piece(frame.payload)
            self._delta(told.contentBlockIndex, told.delta, out)
        elif name == "messageStart":
            self._begun(out)
        elif name == "contentBlockStart":
            begun = _decode(frame.payload)
            call = (begun.get("start") or {}).get("toolUse")
            if call:
                self._on(begun["contentBlockIndex"], "call", call, out)
        elif name == "contentBlockStop":
            self._on(_decode(frame.payload)["contentBlockIndex"], "stop", None, out)
        elif name == "messageStop":
            ended = _decode(frame.payload)
            self._reason = ended["stopReason"]
            self._sequence = stopped_by(ended.get("additionalModelResponseFields"))
        elif name == "metadata":
            self._used = _decode(frame.payload).get("usage")
            if self._reason is not None:
                self._end(out)

    def _begun(self, out: list[bytes]) -> None:
        if not self._started:
            self._started = True
            begun = message(token_hex(12), self._model, guessed(self._estimate, 0))
            out.append(event("message_start", message=begun))

    def _delta(self, at: int, delta: _Delta, out: list[bytes]) -> None:
        if delta.text:
            if self._open == "text" and at == self._at:  # as most of a stream comes
                self._piece(DELTAS["text"], delta.text, out)
            else:
                self._on(at, "text", delta.text, out)
        elif delta.toolUse is not None:
            self._on(at, "input", delta.toolUse.input, out)
        elif delta.reasoningContent is not None:
            thought = delta.reasoningContent
            if thought.text:
                self._on(at, "thinking", thought.text, out)
            if thought.signature and self._claude:
                self._on(at, "signature", thought.signature, out)
            if thought.redactedContent and self._claude:
                self._on(at, "redacted", thought.redactedContent, out)

    def _on(self, at: int, what: str, told: Any, out: list[bytes]) -> None:
        """Something came of the block ``at``; it waits while another one's call is open."""
        if self._open == "call" and at != self._at:
            self._held.setdefault(at, []).append((what, told))
        elif what == "stop":
            if at == self._at:
                self._close(out)
                self._release(out)
        else:
            self._say(at, what, told, out)

    def _release(self, out: list[bytes]) -> None:
        """What waited, block by block, until a call is open whose rest is still to come."""
        while self._held and self._open != "call":
            at = next(iter(self._held))
            for what, told in self._held.pop(at):
                self._close(out) if what == "stop" else self._say(at, what, told, out)

    def _say(self, at: int, what: str, told: Any, out: list[bytes]) -> None:
        if what == "call":
            self._close(out)
            self._called = True
            call = {"id": told.get("toolUseId"), "function": {"name": told["name"]}}
            self._begin("call", at, tool_use(call, self._names), out)
        elif what == "input":
            if self._open != "call":
                raise ValueError("arguments of no call")
            if told:
                self._piece(CALL, told, out)
        elif what == "redacted":
            self._turn("redacted", at, out)
            self._sealed.append(told)
        else:
            self._turn("text" if what == "text" else "thinking", at, out)
            if what == "signature":
                self._sealed.append(told)
            else:
                self._piece(DELTAS[what], told, out)

    def _turn(self, kind: str, at: int, out: list[bytes]) -> None:
        """Sees that a block of that kind is open."""
        if (self._open, self._at) == (kind, at):
            return
        self._close(out)
        if kind == "redacted":  # told when it is whole
            self._open, self._at = kind, at
        else:
            self._begin(kind, at, OPENS[kind], out)

    def _begin(self, kind: str, at: int, block: Json, out: list[bytes]) -> None:
        self._index += 1
        self._open, self._at = kind, at
        out.append(event("content_block_start", index=self._index, content_block=block))

    def _piece(self, named: tuple[bytes, bytes], text: str, out: list[bytes]) -> None:
        self._made += size(text)
        piece = _encode(text)
        out.append(DELTA % (self._index, *named, piece))
        self.said = named[1], piece

    def _close(self, out: list[bytes]) -> None:
        if self._open is None:
            return
        if self._open == "redacted":
            block = {"type": "redacted_thinking", "data": _joined(self._sealed)}
            self._begin("redacted", self._at, block, out)
        elif self._open == "thinking":
            delta = {"type": "signature_delta", "signature": "".join(self._sealed) or SIGNED}
            out.append(event("content_block_delta", index=self._index, delta=delta))
        out.append(event("content_block_stop", index=self._index))
        self._open, self._at, self._sealed = None, -1, []

    def _end(self, out: list[bytes]) -> None:
        self._begun(out)
        self._close(out)
        while self._held:
            self._release(out)
            self._close(out)
        why = given_up(self._reason)
        if why is not None:
            self._say(-2, "text", why, out)
            self._close(out)
        self._over = True
        reason = stop_reason(self._reason, called=self._called and why is None)
        used = counted(self._used, self._estimate, self._made)
        delta = {"stop_reason": reason, "stop_sequence": self._sequence}
        out.append(event("message_delta", delta=delta, usage=used))
        out.append(event("message_stop"))


def _joined(pieces: list[str]) -> str:
    """What came in pieces of base64, each coded by itself."""
    if len(pieces) == 1:
        return pieces[0]
    return b64encode(b"".join(b64decode(piece, validate=True) for piece in pieces)).decode()
