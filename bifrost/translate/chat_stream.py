"""Streams of OpenAI Chat Completions backends as Anthropic events: one block open at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.anthropic_chat import request
from bifrost.translate.chat_answer import _SIGNATURE, _STOPS, _message, answer, usage
from bifrost.translate.translation import Traits

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Json = dict[str, Any]


class ChatStream:
    """Calls that come while another is open wait for the end, so that blocks never interleave."""

    def __init__(self, model: str, input_estimate: int) -> None:
        self._model = model
        self._used: Json = {"input_tokens": max(1, input_estimate), "output_tokens": 0}
        self._rest = b""
        self._started = self._over = self._refused = False
        self._reason: str | None = None
        self._index = -1
        self._open: str | int | None = None
        self._waiting: dict[int, Json] = {}

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the backend, cut anywhere; whole Anthropic events."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        out: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:") and not self._over:
                self._event(line[5:].strip(), out)
        return b"".join(out)

    def finish(self) -> bytes:
        """Nothing: a stream without its ``[DONE]`` was cut, and stays so for the client."""
        return b""

    def _event(self, data: bytes, out: list[bytes]) -> None:
        if data == b"[DONE]":
            return self._end(out)
        told = _decode(data)
        if told.get("error"):
            self._over = True
            text = str(told["error"].get("message"))
            error = {"type": "api_error", "message": text}
            out.append(_told("error", {"error": error}))
            return None
        if not self._started:
            self._started = True
            message = _message(told.get("id") or "", self._model, self._used)
            out.append(_told("message_start", {"message": message}))
        if told.get("usage"):
            self._used = usage(told["usage"])
        for choice in told.get("choices") or ():
            self._reason = choice.get("finish_reason") or self._reason
            self._delta(choice.get("delta") or {}, out)
        return None

    def _delta(self, delta: Json, out: list[bytes]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""}, out)
            self._piece({"type": "thinking_delta", "thinking": thought}, out)
        self._refused = self._refused or bool(delta.get("refusal"))
        text = delta.get("content") or delta.get("refusal")
        if text:
            self._begin("text", {"type": "text", "text": ""}, out)
            self._piece({"type": "text_delta", "text": text}, out)
        for call in delta.get("tool_calls") or ():
            self._call(call["index"], call, out)

    def _call(self, index: int, call: Json, out: list[bytes]) -> None:
        given = call.get("function") or {}
        if isinstance(self._open, int) and self._open != index:
            kept = self._waiting.setdefault(index, {"id": call.get("id"), "function": given | {"arguments": ""}})  # fmt: skip # noqa: E501
            kept["function"]["arguments"] += given.get("arguments") or ""
            return
        if self._open != index:
            block = {"type": "tool_use", "id": call["id"], "name": given["name"], "input": {}}
            self._begin(index, block, out)
        if given.get("arguments"):
            self._piece({"type": "input_json_delta", "partial_json": given["arguments"]}, out)

    def _begin(self, key: str | int, block: Json, out: list[bytes]) -> None:
        if self._open == key:
            return
        self._close(out)
        self._open = key
        self._index += 1
        out.append(_told("content_block_start", {"index": self._index, "content_block": block}))

    def _piece(self, delta: Json, out: list[bytes]) -> None:
        out.append(_told("content_block_delta", {"index": self._index, "delta": delta}))

    def _close(self, out: list[bytes]) -> None:
        if self._open == "thinking":
            self._piece({"type": "signature_delta", "signature": _SIGNATURE}, out)
        if self._open is not None:
            out.append(_told("content_block_stop", {"index": self._index}))
        self._open = None

    def _end(self, out: list[bytes]) -> None:
        self._close(out)
        for index, call in self._waiting.items():
            self._call(index, call, out)
            self._close(out)
        self._over = True
        stop = "refusal" if self._refused else _STOPS.get(self._reason or "stop", "end_turn")
        delta = {"stop_reason": stop, "stop_sequence": None}
        out.append(_told("message_delta", {"delta": delta, "usage": self._used}))
        out.append(_told("message_stop", {}))


def _told(name: str, fields: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))


class ChatTranslation:
    """One Anthropic request on a Chat backend; see ``translation.Translation``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        self.body = request(body, model, max_tokens=max_tokens, traits=traits)
        self._asked = str(_decode(body).get("model") or model)

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        return answer(status, body, self._asked)

    def stream(self, input_estimate: int) -> ChatStream:
        """A reader of the streamed answer."""
        return ChatStream(self._asked, input_estimate)
