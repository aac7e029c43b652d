"""Chat clients on hosts that speak Chat: the body passes but for what the gateway must set, and
for a history that the host would not take (``chat_history``).

A host tells a stream's usage only where it is asked to: it always is, and the chunk with it is kept
from clients that did not ask.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN, answer, decoded, masked
from bifrost.translate.chat_history import suited
from bifrost.translate.chat_request import Names
from bifrost.translate.chat_stream import ChatStream
from bifrost.translate.translation import SENSELESS, Stream, Traits

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
LIMITS = ("max_completion_tokens", "max_tokens")
_END = b"\n\n"
MOST_EVENT = 16 << 20  # bytes of an event; a longer one is no chunk


class ChatChat:
    """One request and its answer; see ``translation.Relay``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest where the body is no JSON object."""
        self._traits = traits
        self._model = model
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        try:
            members = _members(body)
            changes = self._changes(members, model, max_tokens)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Chat request: {error!r}") from None
        for name in LIMITS if max_tokens else ():
            members.pop(name, None)
        # What was governed is what is sent: a field that was given twice is there once.
        self.body = _encode(members | changes)

    def _changes(
        self, members: dict[str, msgspec.Raw], model: str, max_tokens: int | None
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if _decode(members["model"]) != model:
            changes["model"] = model
        history = suited(members["messages"], self._traits) if "messages" in members else None
        if history is not None and history is not members["messages"]:
            changes["messages"] = msgspec.Raw(bytes(history))
        if max_tokens:
            changes[LIMITS[self._traits.legacy_limit]] = max_tokens
        options = _decode(members.get("stream_options", b"null")) or {}
        streams = bool(_decode(members.get("stream", b"null")))
        self._hides = streams and not options.get("include_usage")
        if self._hides:
            changes["stream_options"] = options | {"include_usage": True}
        return changes

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) in Anthropic's dialect, for the meters."""
        return answer(status, body, self._model, Names(), self._traits, self._estimate)

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer as it came; of an error, account names are hidden."""
        return body if status < 400 else masked(body)

    def stream(self, input_estimate: int) -> ChatStream:
        """A reader of the streamed answer, for the meters."""
        return ChatStream(self._model, Names(), self._traits, input_estimate)

    def passing(self) -> Stream | None:
        """Every byte, or every byte but the usage that the client did not ask for."""
        return _Discreet() if self._hides else None


class _Discreet:
    """Passes whole events on, but for chunks that hold nothing but a usage."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        rest = self._rest + chunk
        *events, self._rest = (rest.replace(b"\r\n", b"\n") if b"\r" in rest else rest).split(_END)
        if len(self._rest) > MOST_EVENT:
            raise ValueError("an event without an end")
        return b"".join(event + _END for event in events if not _tells_usage_only(event))

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return b"" if _tells_usage_only(rest) else rest


def _tells_usage_only(event: bytes) -> bool:
    if b'"usage"' not in event or not event.startswith(b"data:"):
        return False
    try:
        told = decoded(event[5:])
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("choices") == [] and bool(told.get("usage"))
