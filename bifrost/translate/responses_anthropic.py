"""Clients of OpenAI's Responses API on hosts that speak Anthropic's Messages."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.messages_request import request
from bifrost.translate.messages_tools import ToolNames
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ResponsesAnthropic:
    """One request and its answer; see ``translation.Translation``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what the host cannot be told."""
        self._names = ToolNames()
        try:
            asked = _decode(body)
            self.body = msgspec.json.encode(request(asked, model, self._names, max_tokens, traits))
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is no Responses request: {error!r}") from None
