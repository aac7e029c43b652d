"""Anthropic Messages clients on AWS Bedrock's Converse, which most of its models speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate import bedrock_answer
from bifrost.translate.chat_answer import BYTES_A_TOKEN
from bifrost.translate.chat_request import Names
from bifrost.translate.converse_answer import answer
from bifrost.translate.converse_families import family
from bifrost.translate.converse_request import request
from bifrost.translate.converse_stream import ConverseStream
from bifrost.translate.translation import SENSELESS, Stream, Traits

# A model that Bedrock cannot count for, or a role that may not: the tokens are estimated.
_UNCOUNTED = frozenset({400, 403, 404})
_COUNTED = ("messages", "system", "toolConfig", "additionalModelRequestFields")
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
        count: bool = False,
    ) -> None:
        """``betas`` are those of the client's header; ``count``: its tokens are to be counted.

        Raises InvalidRequest for what the host cannot be told.
        """
        self._names = Names()
        self._estimate = int(len(body) / BYTES_A_TOKEN)
        self._claude = family(model).claude
        self._counts = count
        try:
            asked = _decode(body)
            self._asked = str(asked.get("model") or model)
            wanted = request(asked, model, self._names, max_tokens, traits, betas)
            if count:
                known = {key: wanted[key] for key in _COUNTED if key in wanted}
                wanted = {"input": {"converse": known}}
            self.body = msgspec.json.encode(wanted)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole answer, of a count or of an error."""
        if self._counts:
            return self._count(status, body)
        names, estimate = self._names, self._estimate
        return answer(status, body, self._asked, names, estimate, claude=self._claude)

    def _count(self, status: int, body: bytes) -> tuple[int, bytes]:
        if status in _UNCOUNTED:
            return 200, b'{"input_tokens":%d}' % max(1, self._estimate)
        if status >= 400:
            return bedrock_answer.answer(status, body)
        return status, b'{"input_tokens":%d}' % _decode(body)["inputTokens"]

    def stream(self, input_estimate: int) -> Stream:
        """A reader of the streamed answer."""
        return ConverseStream(self._asked, self._names, input_estimate, claude=self._claude)
