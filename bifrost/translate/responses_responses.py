"""Responses clients on hosts that speak Responses: the body passes but for what the gateway must
set, and but for OpenAI's own search of the web, whose cost no reservation bounds.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost._fast.pieces import event_data
from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN, broken, completed, decoded, guessed, masked
from bifrost.translate.chat_answer import message as begun
from bifrost.translate.chat_stream import DELTA, size
from bifrost.translate.data_lines import MOST_LINE
from bifrost.translate.responses_stream import Event, event_of
from bifrost.translate.translation import SENSELESS, Stream, Traits

Json = dict[str, Any]

LIMIT = "max_output_tokens"
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class ResponsesResponses:
    """One request and its answer; see ``translation.Relay``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest where the body is no JSON object."""
        self._model = model
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        try:
            members = _members(body)
            changes: Json = {}
            if _decode(members["model"]) != model:
                changes["model"] = model
            if max_tokens:
                changes[LIMIT] = max_tokens
            tools = _decode(members.get("tools", b"null")) or []
            kept = [tool for tool in tools if not str(tool.get("type")).startswith("web_search")]
            if len(kept) < len(tools):
                changes["tools"] = kept
        except SENSELESS as error:
            raise InvalidRequest(
                f"The request body is not a Responses request: {error!r}"
            ) from None
        # What was governed is what is sent: a field that was given twice is there once.
        self.body = _encode(members | changes)

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) with the usage in Anthropic's words, for the meters."""
        told = decoded(body) if status < 400 else {}
        made = len(_encode(told.get("output"))) if status < 400 else 0
        used = _counted(told.get("usage"), self._estimate, made)
        return status, _encode({"type": "message", "usage": used})

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer as it came; of an error, account names are hidden."""
        return body if status < 400 else masked(body)

    def stream(self, input_estimate: int) -> ResponsesMeter:
        """A reader of the streamed answer, for the meters."""
        return ResponsesMeter(self._model, input_estimate)

    def passing(self) -> Stream | None:
        """Every byte passes."""
        return None


class ResponsesMeter:
    """Reads a stream of Responses into the events of Anthropic's that meters go by: its beginning,
    how much it says, its usage and its end."""

    def __init__(self, model: str, input_estimate: int) -> None:
        self._model, self._estimate = model, max(1, input_estimate)
        self._rest = b""
        self._made = 0
        self._started = self._over = False

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the host, cut anywhere."""
        data = None if self._rest else event_data(chunk)
        if data is not None:
            return self._told(event_of(data), data)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        told = [line[5:] for line in lines if line[:5] == b"data:"]
        return b"".join([self._told(event_of(data), data) for data in told])

    def finish(self) -> bytes:
        """Nothing: a stream that was cut short gets no end."""
        return b""

    def _told(self, event: Event, data: bytes) -> bytes:
        kind = str(event.type)
        made = b""
        if not self._started:
            self._started = True
            shell = begun(None, self._model, guessed(self._estimate, 0))
            made = _event("message_start", message=shell)
        if self._over:
            return made
        if kind.endswith(".delta") and isinstance(event.delta, str):
            self._made += size(event.delta)
            return made + DELTA % (0, b"text_delta", b"text", _encode(event.delta))
        if kind in _ENDS:
            return made + self._end(kind, event.response)
        if kind == "error":
            self._over = True
            return made + _event("error", error=broken(decoded(data)))
        return made

    def _end(self, kind: str, response: Json) -> bytes:
        self._over = True
        failed = kind == "response.failed"
        made = b""
        if response.get("usage") or not failed:
            used = _counted(response.get("usage"), self._estimate, self._made)
            made = _event("message_delta", delta={"stop_reason": "end_turn"}, usage=used)
        if failed:
            return made + _event("error", error=broken(response))
        return made + _event("message_stop")


def _counted(told: Json | None, input_estimate: int, output_bytes: int) -> Json:
    """The host's usage in Anthropic's disjoint buckets, in tokens; by size where it counts none."""
    guess = guessed(input_estimate, output_bytes)
    if not told:
        return guess
    given = told.get("input_tokens_details") or {}
    read, wrote = given.get("cached_tokens") or 0, given.get("cache_write_tokens") or 0
    thought = (told.get("output_tokens_details") or {}).get("reasoning_tokens") or 0
    shown = {
        "input_tokens": max(0, (told.get("input_tokens") or 0) - read - wrote),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": wrote,
        "output_tokens": told.get("output_tokens") or 0,
        "output_tokens_details": {"thinking_tokens": thought},
    }
    return completed(shown, guess, counts_input=bool(told.get("input_tokens")))


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **fields}))
