"""Gemini clients on hosts that speak Gemini: the body passes but for what the gateway must set.

The door has put the path's model and whether to stream into the body; they go back into the path.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost._fast.pieces import event_data
from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN, decoded, guessed
from bifrost.translate.chat_answer import message as begun
from bifrost.translate.chat_stream import DELTA, DELTAS, event, size
from bifrost.translate.data_lines import MOST_LINE
from bifrost.translate.gemini_answer import blocked, broken, counted, masked
from bifrost.translate.gemini_request import UNSIGNED
from bifrost.translate.gemini_signature import holds_sealed, is_sealed
from bifrost.translate.gemini_stream import NOTHING, chunk_of
from bifrost.translate.translation import SENSELESS, Stream, Traits

Json = dict[str, Any]

LIMIT = "maxOutputTokens"
_PATH = ("model", "stream")
_CONFIG, _TOOLS = "generationConfig", "tools"
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None).decode
_encode = msgspec.json.Encoder().encode


class GeminiGemini:
    """One request and its answer; see ``translation.Relay``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest where the body is no JSON object."""
        self._model = model
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        try:
            members: Json = {k: v for k, v in _members(body).items() if k not in _PATH}
            # What was governed is what is sent: a field that was given twice is there once.
            if _TOOLS in members:
                members[_TOOLS] = _elements(members[_TOOLS])
            if holds_sealed(body):
                members["contents"] = _unsealed(msgspec.json.decode(members["contents"]))
            config: Json = dict(_members(members.get(_CONFIG) or b"{}"))
            if max_tokens:
                config[LIMIT] = max_tokens
            if config:
                members[_CONFIG] = config
            self.body = _encode(members)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Gemini request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) with the usage in Anthropic's words, for the meters."""
        told = decoded(body) if status < 400 else {}
        made = sum(len(text.encode("utf-8", "replace")) for text in _said(told))
        used = counted(told.get("usageMetadata"), self._estimate, made)
        return status, _encode({"type": "message", "usage": used})

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer as it came; of an error, account names are hidden."""
        return body if status < 400 else masked(body)

    def stream(self, input_estimate: int) -> GeminiMeter:
        """A reader of the streamed answer, for the meters."""
        return GeminiMeter(self._model, input_estimate)

    def passing(self) -> Stream | None:
        """Every byte passes."""
        return None


class GeminiMeter:
    """Reads a stream of Gemini's into the events of Anthropic's that meters go by: its beginning,
    how much it says, its usage and its end, which Gemini's has where its bytes end."""

    def __init__(self, model: str, input_estimate: int) -> None:
        self._model, self._estimate = model, max(1, input_estimate)
        self._rest = b""
        self._made = 0  # bytes of output
        self._used = msgspec.Raw(b"null")
        self._started = self._over = self._ended = False

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the host, cut anywhere."""
        data = None if self._rest else event_data(chunk)
        if data is not None:
            return self._data(data.strip())
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        return b"".join([self._line(line) for line in lines])

    def finish(self) -> bytes:
        """The end, if the host said why it stopped; a stream that was cut short gets none."""
        made = self._line(self._rest)
        if self._over or not self._ended:
            return made
        self._over = True
        used = counted(decoded(bytes(self._used)), self._estimate, self._made)
        ended = event("message_delta", delta={"stop_reason": "end_turn"}, usage=used)
        return made + ended + event("message_stop")

    def _line(self, line: bytes) -> bytes:
        return self._data(line[5:].strip() if line.startswith(b"data:") else line.strip())

    def _data(self, data: bytes) -> bytes:
        if self._over or not data.startswith((b"{", b"[")):
            return b""
        told = chunk_of(data)
        if told.error:
            self._over = True
            return event("error", error=broken({"error": told.error}))
        made = b""
        if not self._started:
            self._started = True
            shell = begun(told.responseId, self._model, guessed(self._estimate, 0))
            made = event("message_start", message=shell)
        if len(told.usageMetadata) > NOTHING:
            self._used = told.usageMetadata
        if told.promptFeedback:
            self._ended = self._ended or bool(blocked(decoded(data)))
        for candidate in told.candidates or ():
            if candidate.finishReason:
                self._ended = True
            for part in candidate.parts():
                if part.text:
                    made += self._said(part.text)
                elif part.functionCall:
                    made += self._said(_encode(part.functionCall.get("args")).decode())
        return made

    def _said(self, text: str) -> bytes:
        self._made += size(text)
        return DELTA % (0, *DELTAS["text"], _encode(text))


def _unsealed(contents: list[Json]) -> list[Json]:
    """A conversation that Claude has had a part in: its signatures mean nothing to Gemini, which
    refuses a call without any."""
    for content in contents:
        for part in content.get("parts") or ():
            if is_sealed(part.get("thoughtSignature")):
                del part["thoughtSignature"]
                if part.get("functionCall"):
                    part["thoughtSignature"] = UNSIGNED
    return contents


def _said(told: Json) -> list[str]:
    """What an answer holds: texts, thoughts too, and calls as JSON."""
    parts = [
        part
        for candidate in told.get("candidates") or ()
        for part in (candidate.get("content") or {}).get("parts") or ()
    ]
    return [
        part["text"] if part.get("text") else _encode(part["functionCall"].get("args")).decode()
        for part in parts
        if part.get("text") or part.get("functionCall")
    ]
