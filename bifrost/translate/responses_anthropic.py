"""Clients of OpenAI's Responses API on hosts that speak Anthropic's Messages."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN
from bifrost.translate.messages_request import request
from bifrost.translate.messages_tools import ToolNames
from bifrost.translate.responses_events import ResponsesStream
from bifrost.translate.responses_object import Response, answer
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ResponsesAnthropic:
    """One request and its answer; see ``translation.Translation``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what the host cannot be told."""
        names = ToolNames()
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        try:
            asked = _decode(body)
            self.body = msgspec.json.encode(request(asked, model, names, max_tokens, traits))
            self._response = Response(asked, str(asked.get("model") or model), names)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is no Responses request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        return answer(status, body, self._response, self._estimate)

    def stream(self, input_estimate: int) -> ResponsesStream:
        """A reader of the streamed answer."""
        return ResponsesStream(self._response, input_estimate)
