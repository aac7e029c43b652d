"""Anthropic Messages clients on hosts that speak OpenAI's Responses."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN
from bifrost.translate.chat_request import Names
from bifrost.translate.responses_answer import answer
from bifrost.translate.responses_request import request, thinks
from bifrost.translate.responses_stream import ResponsesStream
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class AnthropicResponses:
    """One request and its answer; see ``translation.Translation``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what the host cannot be told."""
        self._names = Names()
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        try:
            asked = _decode(body)
            self._asked = str(asked.get("model") or model)
            self._model = model if thinks(asked) else None
            wanted = request(asked, model, self._names, max_tokens, traits)
            self.body = msgspec.json.encode(wanted)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        return answer(status, body, self._asked, self._model, self._names, self._estimate)

    def stream(self, input_estimate: int) -> ResponsesStream:
        """A reader of the streamed answer."""
        return ResponsesStream(self._asked, self._model, self._names, input_estimate)
