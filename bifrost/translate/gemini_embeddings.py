"""Gemini clients' embeddings (google-genai 3.6): on Gemini's own API, and in OpenAI's form.

Google has two calls, for one content and for several; hosts get the one for several. Dropped by
rule in OpenAI's form, which has no words for them: ``taskType`` and ``title``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate import chat_answer, gemini_answer
from bifrost.translate.embeddings import Whole, metered, size
from bifrost.translate.gemini_candidates import error
from bifrost.translate.raw_json import Raw, array_of, elements, members, object_of
from bifrost.translate.translation import SENSELESS, Traits

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_PATHS = ("model", "stream")  # what the door put beside the body's own members


class _Used(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None


class Answer(msgspec.Struct, rename="camel"):
    """What of Google's answer is looked at; of vectors, only that they are there."""

    embeddings: list[msgspec.Raw]
    usage_metadata: msgspec.Raw = msgspec.Raw(b"null")

    def counted(self) -> int | None:
        """Tokens of the input, if the host counted them."""
        used = _used(self.usage_metadata)
        return used.prompt_token_count if used is not None else None


_used = msgspec.json.Decoder(_Used | None).decode
read = msgspec.json.Decoder(Answer).decode


class _Asked:
    """A client's request. Raises InvalidRequest where its body is none."""

    def __init__(self, body: bytes) -> None:
        try:
            asked = dict(members(body))
            self.single = "requests" not in asked
            told = [body] if self.single else elements(asked["requests"])
            self.requests = [
                {name: value for name, value in members(one).items() if name not in _PATHS}
                for one in told
            ]
            contents = [_decode(one["content"]) for one in self.requests]
            self.texts = ["\n".join(part["text"] for part in one["parts"]) for one in contents]
        except SENSELESS as wrong:
            raise InvalidRequest(
                f"The request body is not a request for embeddings: {wrong!r}"
            ) from None

    def shown(self, vectors: list[Raw], used: Raw) -> bytes:
        """The answer, in the form of the call that was made."""
        more = {"usageMetadata": used} if bytes(used) != b"null" else {}
        if self.single:
            return object_of({"embedding": vectors[0], **more})
        return object_of({"embeddings": array_of(vectors), **more})


class GeminiEmbeddings(Whole):
    """On Gemini's own API: contents pass as they came. See ``translation.Relay``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest where the body is no such request."""
        self._asked = asked = _Asked(body)
        self._estimate = size(asked.texts)
        name = _encode(f"models/{model}")
        requests = [object_of({"model": name, **one}) for one in asked.requests]
        self.body = object_of({"requests": array_of(requests)})

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) with the usage in Anthropic's words, for the meters."""
        return metered(status, read(body).counted() if status == 200 else None, self._estimate)

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer as it came; of an error, account names are hidden."""
        if status >= 400:
            return gemini_answer.masked(body)
        told = read(body)
        return self._asked.shown([*told.embeddings], told.usage_metadata)


class GeminiOpenAIEmbeddings(Whole):
    """On hosts with OpenAI's form. See ``translation.Relay``."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest for what OpenAI's form cannot be told."""
        self._asked = asked = _Asked(body)
        self._estimate = size(asked.texts)
        sizes = {_decode(one.get("outputDimensionality", b"null")) for one in asked.requests}
        if len(sizes) > 1:
            raise InvalidRequest(
                f"outputDimensionality: the model {model!r} gives all vectors of a request the "
                "same size; ask for one size at a time."
            )
        wanted: dict[str, Any] = {"model": model, "input": asked.texts}
        if (wished := sizes.pop()) is not None:
            wanted["dimensions"] = wished
        self.body = _encode(wanted)

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) with the usage in Anthropic's words, for the meters."""
        return metered(status, _counted(body) if status == 200 else None, self._estimate)

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer, or an error, in Google's words."""
        if status >= 400:
            try:
                told = chat_answer.decoded(body)
            except ValueError:
                told = {}
            _, failure = chat_answer.failure(status, told)
            return _encode({"error": error({"error": failure}, status)})
        data = sorted(_vectors(body).data, key=lambda one: one.index)
        used = {"promptTokenCount": _counted(body) or self._estimate}
        return self._asked.shown(
            [object_of({"values": one.embedding}) for one in data], _encode(used)
        )


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _Data(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


_vectors = msgspec.json.Decoder(_Data).decode


def _counted(body: bytes) -> int | None:
    used = _vectors(body).usage
    return used.prompt_tokens if used is not None else None
