"""Gemini's embeddings of the mock provider: vectors that follow from the input alone."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.embeddings import MOST, SIZE, vector
from bifrost.mock.exchange import Reply, Request
from bifrost.mock.gemini import json_reply
from bifrost.mock.plan import Plan
from bifrost.mock.script import Script

MOST_REQUESTS = 100  # in a batch
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A text; the mock embeds nothing else."""

    text: str


class Content(msgspec.Struct, forbid_unknown_fields=True):
    """What one vector stands for."""

    parts: list[Part]
    role: str | None = None


class Body(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A request for one vector, with every field that there is."""

    content: Content
    model: str | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    """A request for several."""

    requests: list[Body]


def embed(request: Request, plan: Plan, _: Script | None, model: str) -> Reply:
    """``POST /models/{model}:embedContent``."""
    body = _parsed(request, Body)
    used = _used(request, plan)
    told = {"embedding": {"values": _vector(body)}, "usageMetadata": _counted(used)}
    return json_reply(_encode(told), model, used)


def batch(request: Request, plan: Plan, _: Script | None, model: str) -> Reply:
    """``POST /models/{model}:batchEmbedContents``."""
    body = _parsed(request, Batch)
    if not 0 < len(body.requests) <= MOST_REQUESTS:
        raise InvalidRequest(
            "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch"
        )
    for one in body.requests:
        if one.model != f"models/{model}":
            raise InvalidRequest("* BatchEmbedContentsRequest.requests: model does not match")
    used = _used(request, plan)
    vectors = [{"values": _vector(one)} for one in body.requests]
    told = {"embeddings": vectors, "usageMetadata": _counted(used)}
    return json_reply(_encode(told), model, used)


def _parsed(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.content(), type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"Invalid JSON payload received. {error}") from error


def _vector(one: Body) -> list[float]:
    texts = [part.text for part in one.content.parts]
    if not texts or not all(texts):
        raise InvalidRequest("* EmbedContentRequest.content: content is empty")
    size = one.output_dimensionality or SIZE
    if not 0 < size <= MOST:
        raise InvalidRequest(f"* EmbedContentRequest.output_dimensionality: at most {MOST}")
    return vector(texts, size)


def _used(request: Request, plan: Plan) -> Usage:
    return Usage(input=plan.usage(len(request.body), 0).input)


def _counted(used: Usage) -> dict[str, Any]:
    return {"promptTokenCount": used.input, "totalTokenCount": used.input}
