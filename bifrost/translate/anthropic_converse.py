"""Anthropic Messages clients on AWS Bedrock's Converse, which most of its models speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import BYTES_A_TOKEN
from bifrost.translate.chat_request import Names
from bifrost.translate.converse_answer import answer
from bifrost.translate.converse_families import family
from bifrost.translate.converse_request import request
from bifrost.translate.converse_stream import ConverseStream
from bifrost.translate.translation import SENSELESS, Stream, Traits

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class AnthropicConverse:
    """One request and its answer; see ``translation.Translation``. Converse has the model and
    whether to stream in the path: the body says neither."""

    def __init__(
        self,
        body: bytes,
        model: str,
        *,
        max_tokens: int | None,
        traits: Traits,
        betas: Sequence[str] = (),
    ) -> None:
        """``betas`` are those of the client's header.

        Raises InvalidRequest for what the host cannot be told.
        """
        self._names = Names()
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        self._claude = family(model).claude
        try:
            asked = _decode(body)
            self._asked = str(asked.get("model") or model)
            wanted = request(asked, model, self._names, max_tokens, traits, betas)
            self.body = msgspec.json.encode(wanted)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer or of an error."""
        names, estimate = self._names, self._estimate
        return answer(status, body, self._asked, names, estimate, claude=self._claude)

    def stream(self, input_estimate: int) -> Stream:
        """A reader of the streamed answer."""
        return ConverseStream(self._asked, self._names, input_estimate, claude=self._claude)
