"""Anthropic Messages clients on hosts that speak OpenAI's Chat Completions."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN, answer
from bifrost.translate.chat_request import Names, request
from bifrost.translate.chat_stream import ChatStream
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class AnthropicChat:
    """One request and its answer; see ``translation.Translation``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what the host cannot be told."""
        self._names, self._traits = Names(), traits
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        try:
            asked = _decode(body)
            self._asked = str(asked.get("model") or model)
            wanted = request(asked, model, self._names, max_tokens, traits)
            self.body = msgspec.json.encode(wanted)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        names, traits, estimate = self._names, self._traits, self._estimate
        return answer(status, body, self._asked, names, traits, estimate)

    def stream(self, input_estimate: int) -> ChatStream:
        """A reader of the streamed answer."""
        return ChatStream(self._asked, self._names, self._traits, input_estimate)
