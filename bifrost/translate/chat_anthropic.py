"""Chat clients on hosts that speak Anthropic's Messages."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_chunks import ChatChunks
from bifrost.translate.chat_completion import completion
from bifrost.translate.chat_messages import request
from bifrost.translate.messages_tools import ToolNames
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ChatAnthropic:
    """One request and its answer; see ``translation.Translation``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what Claude cannot be told."""
        self._model, self._names = model, ToolNames()
        try:
            asked = _decode(body)
            wanted = request(asked, model, self._names, max_tokens, traits)
            self.body = msgspec.json.encode(wanted)
            options = asked.get("stream_options") or {}
            self._tells_usage = bool(options.get("include_usage"))
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Chat request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        return completion(status, body, self._names)

    def stream(self, input_estimate: int) -> ChatChunks:
        """A reader of the streamed answer."""
        return ChatChunks(self._model, self._names, tells_usage=self._tells_usage)
