"""Counts: how hosts are asked for the tokens of a request, and how clients are told.

A count is asked for with the body that the request itself would have there, less what only an
answer needs; so what cannot be asked for cannot be counted either.

Facts: anthropic 2.12, openai 3.57 (``responses.input_tokens``), google-genai 3.6 and Google's
``CountTokensRequest``, the model of ``bedrock-runtime`` in botocore 1.44 (read 2026-11).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from bifrost.config.hosts import Api
from bifrost.errors import InvalidRequest
from bifrost.passage.ways import Flow, Piece, Way, way
from bifrost.translate.raw_json import Raw, members, object_of
from bifrost.translate.translation import Traits

_MESSAGES = frozenset({
    "model", "messages", "system", "tools", "tool_choice", "thinking", "output_config",
    "cache_control", "context_management",
})  # fmt: skip
_RESPONSES = frozenset({
    "conversation", "input", "instructions", "model", "parallel_tool_calls", "personality",
    "previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation",
})  # fmt: skip
_CONVERSE = frozenset({"messages", "system", "toolConfig", "additionalModelRequestFields"})
_PUBLISHED = frozenset({"contents", "systemInstruction", "tools", "generationConfig"})  # Vertex AI
# A host without the call; and Bedrock's words for a model that it does not count for.
_MISSING = frozenset({404, 405, 501})
_UNCOUNTED = re.compile(
    rb"support(?:s|ed)? (?:counting|count)|on-demand throughput|model identifier is invalid", re.I
)
_encode = msgspec.json.Encoder().encode


class _Thinking(msgspec.Struct):
    budget_tokens: int | None = None


class _Limited(msgspec.Struct):
    thinking: _Thinking | None = None


class _Messages(msgspec.Struct):
    tokens: int = msgspec.field(name="input_tokens")


class _Gemini(msgspec.Struct):
    tokens: int = msgspec.field(name="totalTokens", default=0)  # a nought is left out there


class _Bedrock(msgspec.Struct):
    tokens: int = msgspec.field(name="inputTokens")


Counted = _Messages | _Gemini | _Bedrock
_limited = msgspec.json.Decoder(_Limited).decode


class Form(NamedTuple):
    """A host's call: ``ask(body, model, kind of host)`` makes its body of the request's, ``told``
    is what it answers."""

    ask: Callable[[bytes, str, str], bytes]
    told: type[Counted]


def _messages(body: bytes, model: str, kind: str) -> bytes:
    return _only(body, _MESSAGES)


def _vertex(body: bytes, model: str, kind: str) -> bytes:
    """Only here the model stands in the body."""
    return _only(body, _MESSAGES | {"anthropic_version"}, model=_encode(model))


def _responses(body: bytes, model: str, kind: str) -> bytes:
    return _only(body, _RESPONSES)


def _gemini(body: bytes, model: str, kind: str) -> bytes:
    """Vertex AI takes what matters of a request, Gemini's own API takes a whole one."""
    if kind == "vertex":
        return _only(body, _PUBLISHED)
    whole = {"model": _encode(f"models/{model}"), **members(body)}
    return object_of({"generateContentRequest": object_of(whole)})


def _bedrock(body: bytes, model: str, kind: str) -> bytes:
    """A whole request of InvokeModel, which must have a limit, more than is to be thought."""
    asked: dict[str, Raw] = dict(members(body))
    asked.pop("stream", None)
    if "max_tokens" not in asked:
        thinking = _limited(body).thinking
        asked["max_tokens"] = _encode(1 + ((thinking and thinking.budget_tokens) or 0))
    return _encode({"input": {"invokeModel": {"body": b64encode(object_of(asked)).decode()}}})


def _converse(body: bytes, model: str, kind: str) -> bytes:
    return object_of({"input": object_of({"converse": _only(body, _CONVERSE)})})


HOSTS: dict[Api, Form] = {
    "bedrock": Form(_bedrock, _Bedrock),
    "converse": Form(_converse, _Bedrock),
    "gemini": Form(_gemini, _Gemini),
    "messages": Form(_messages, _Messages),
    "responses": Form(_responses, _Messages),
    "vertex": Form(_vertex, _Messages),
}


def counting(
    client: Api,
    host: Api,
    body: bytes,
    model: str,
    traits: Traits,
    kind: str,
    betas: bytes | None = None,
) -> Way:
    """The way of a token count to a host of that API and type, which must be one of ``HOSTS``.

    Raises InvalidRequest for what the host cannot be told.
    """
    asked = way(client, host, body, model, None, traits, betas)
    if client == host == "messages":  # its clients know what a count may say
        return _Count(asked, asked.body, client, host)
    try:
        return _Count(asked, HOSTS[host].ask(asked.body, model, kind), client, host)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InvalidRequest(f"The request body cannot be counted: {error!r}") from None


def told(client: Api, tokens: int) -> bytes:
    """A count as a client of that API is told it."""
    if client == "gemini":
        return _encode({"totalTokens": tokens})
    if client == "responses":
        return _encode({"object": "response.input_tokens", "input_tokens": tokens})
    return _encode({"input_tokens": tokens})


def uncounted(status: int, body: bytes) -> bool:
    """Whether an answer says that the host, or this model there, has no such call."""
    return status in _MISSING or (status == 400 and _UNCOUNTED.search(body) is not None)


class _Count:
    """A request's way, with the body of a count and its answer."""

    def __init__(self, asked: Way, body: bytes, client: Api, host: Api) -> None:
        self._asked, self._client, self._host = asked, client, host
        self.body = body

    def answer(self, status: int, body: bytes) -> tuple[int, Piece]:
        """Raises what is in SENSELESS where the answer is no count."""
        if status != 200:
            return self._asked.answer(status, body)
        tokens = msgspec.json.decode(body, type=HOSTS[self._host].told).tokens
        shown = body if self._client == self._host else told(self._client, tokens)
        return status, Piece(shown, b"")

    def flow(self, input_estimate: int) -> Flow:
        """No host streams a count."""
        return self._asked.flow(input_estimate)


def _only(body: bytes, names: frozenset[str], **more: Raw) -> bytes:
    """Those members of an object, and more in front."""
    kept = {name: value for name, value in members(body).items() if name in names}
    return object_of({**more, **kept})
