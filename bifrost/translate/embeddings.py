"""Embeddings in OpenAI's form, which every host that has them speaks: both bodies pass."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN, masked
from bifrost.translate.raw_json import Raw, members, object_of
from bifrost.translate.translation import SENSELESS, Stream, Traits

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct):
    """What of an answer is looked at; of vectors, only that they are there."""

    data: msgspec.Raw
    usage: _Counts | None = None


_answer = msgspec.json.Decoder(_Answer).decode


class Whole:
    """What is never streamed: of ``translation.Relay``, what is said of streams."""

    def stream(self, input_estimate: int) -> Stream:
        """A reader of a stream, where none can be."""
        return _Senseless()

    def passing(self) -> Stream | None:
        """Nothing is changed on its way."""
        return None


class Embeddings(Whole):
    """One request and its answer; see ``translation.Relay``. Nothing is generated, so there is no
    output to limit, and nothing comes in pieces."""

    def __init__(self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> None:
        """Raises InvalidRequest where the body is no JSON object."""
        try:
            asked: dict[str, Raw] = dict(members(body))
            self._estimate = size(_decode(asked["input"]))
            if _decode(asked["model"]) != model:
                asked["model"] = _encode(model)
        except SENSELESS as error:
            raise InvalidRequest(
                f"The request body is not a request for embeddings: {error!r}"
            ) from None
        self.body = object_of(asked)

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) with the usage in Anthropic's words, for the meters."""
        counts = _answer(body).usage if status == 200 else None
        return metered(status, counts.prompt_tokens if counts else None, self._estimate)

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer as it came; of an error, account names are hidden."""
        return body if status < 400 else masked(body)


class _Senseless:
    """A stream where none can be."""

    def feed(self, chunk: bytes) -> NoReturn:
        """Raises ValueError."""
        raise ValueError("a stream in place of embeddings")

    def finish(self) -> bytes:
        """Nothing came."""
        return b""


def metered(status: int, counted: int | None, estimate: int) -> tuple[int, bytes]:
    """(status, body) for the meters: the tokens that the host counted, or else as many as its input
    may have."""
    if status != 200:
        return status, b"{}"
    used: dict[str, Any] = {"output_tokens": 0, "input_tokens": counted or estimate}
    if not counted:
        used["estimated"] = ["input_tokens"]
    return status, _encode({"type": "message", "usage": used})


def size(given: Any) -> int:
    """Tokens of an input, for a host that counts none: ids are tokens already."""
    if isinstance(given, int):
        return 1
    if isinstance(given, str):
        return int(len(given.encode("utf-8", "replace")) / BYTES_A_TOKEN) + 1
    return sum(map(size, given))
