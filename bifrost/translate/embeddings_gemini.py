"""OpenAI clients' embeddings on Gemini's own API (``batchEmbedContents``, google-genai 3.6)."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate import chat_answer, chat_completion, gemini_answer
from bifrost.translate.embeddings import Whole, metered, size
from bifrost.translate.gemini_embeddings import read
from bifrost.translate.raw_json import Raw
from bifrost.translate.translation import SENSELESS, Traits

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Vector(msgspec.Struct):
    values: msgspec.Raw


_vector = msgspec.json.Decoder(_Vector).decode
_numbers = msgspec.json.Decoder(list[float]).decode


class EmbeddingsGemini(Whole):
    """One request and its answer; see ``translation.Relay``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what Gemini cannot be told."""
        try:
            asked = _decode(body)
            given = asked["input"]
        except SENSELESS as wrong:
            raise InvalidRequest(
                f"The request body is not a request for embeddings: {wrong!r}"
            ) from None
        texts = [given] if isinstance(given, str) else given
        if not all(isinstance(text, str) for text in texts):
            raise InvalidRequest(f"input: the model {model!r} takes texts, no token ids.")
        self._name = asked.get("model")
        self._packed = asked.get("encoding_format") == "base64"
        self._estimate = size(texts)
        wished = asked.get("dimensions")
        more = {"outputDimensionality": wished} if wished is not None else {}
        requests = [
            {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **more}
            for text in texts
        ]
        self.body = _encode({"requests": requests})

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) with the usage in Anthropic's words, for the meters."""
        return metered(status, read(body).counted() if status == 200 else None, self._estimate)

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer, or an error, in OpenAI's words."""
        if status >= 400:
            try:
                told = chat_answer.decoded(body)
            except ValueError:
                told = {}
            _, failure = gemini_answer.failure(status, told)
            return _encode({"error": chat_completion.error({"error": failure})})
        answer = read(body)
        data = [
            {"object": "embedding", "index": index, "embedding": self._form(one)}
            for index, one in enumerate(answer.embeddings)
        ]
        tokens = answer.counted() or self._estimate
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _encode({"object": "list", "data": data, "model": self._name, "usage": used})

    def _form(self, given: Raw) -> Raw | str:
        """A vector as it came, or packed as OpenAI's SDK asks for it: little-endian floats."""
        values = _vector(given).values
        if not self._packed:
            return values
        numbers = _numbers(values)
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
