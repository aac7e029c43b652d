"""Anthropic Messages clients on hosts that speak Google Gemini's generateContent."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN
from bifrost.translate.gemini_answer import answer
from bifrost.translate.gemini_request import GeminiNames, request
from bifrost.translate.gemini_stream import GeminiStream
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class AnthropicGemini:
    """One request and its answer; see ``translation.Translation``. Gemini has the model and whether
    to stream in the URL: the body says neither."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what the host cannot be told."""
        self._names = GeminiNames()
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
        return answer(status, body, self._asked, self._names, self._estimate)

    def stream(self, input_estimate: int) -> GeminiStream:
        """A reader of the streamed answer."""
        return GeminiStream(self._asked, self._names, input_estimate)
