"""Gemini clients on hosts that speak Anthropic's Messages."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.gemini_candidates import candidates
from bifrost.translate.gemini_chunks import GeminiChunks
from bifrost.translate.gemini_messages import request
from bifrost.translate.gemini_turns import ClaudeNames
from bifrost.translate.translation import SENSELESS, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class GeminiAnthropic:
    """One request and its answer; see ``translation.Translation``.

    The body is a GenerateContentRequest with two members more, which Gemini has in the path:
    ``model`` and ``stream``.
    """

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what Claude cannot be told."""
        self._names = ClaudeNames()
        self._model = model
        try:
            asked = _decode(body)
            wanted = request(asked, model, self._names, max_tokens, traits)
            self.body = msgspec.json.encode(wanted)
            config = asked.get("generationConfig") or {}
            thinking = config.get("thinkingConfig") or {}
            self._shows = bool(thinking.get("includeThoughts"))
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Gemini request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        return candidates(status, body, self._names, shows_thoughts=self._shows)

    def stream(self, input_estimate: int) -> GeminiChunks:
        """A reader of the streamed answer."""
        return GeminiChunks(self._model, self._names, shows_thoughts=self._shows)
