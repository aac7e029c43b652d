"""OpenAI's embeddings of the mock provider: vectors that follow from the input alone."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any, Literal

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.exchange import Reply, Request
from bifrost.mock.openai import json_reply
from bifrost.mock.plan import Plan
from bifrost.mock.script import Script

SIZE = 8  # numbers of a vector, unless the request says otherwise
MOST = 3_072
_encode = msgspec.json.Encoder().encode


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request, with every field that there is."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


_decode = msgspec.json.Decoder(Body).decode


def embed(request: Request, plan: Plan, _: Script | None, __: str) -> Reply:
    """``POST /embeddings``: a vector for each input, and the tokens of all of them."""
    try:
        body = _decode(request.content())
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Invalid request: {error}") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request. {error}") from None
    inputs = _inputs(body.input)
    size = body.dimensions or SIZE
    if not 0 < size <= MOST:
        raise InvalidRequest(f"Invalid value for 'dimensions': at most {MOST}.")
    usage = Usage(input=plan.usage(len(request.body), 0).input)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _shown(vector(one, size), body.encoding_format),
        }
        for index, one in enumerate(inputs)
    ]
    counted = {"prompt_tokens": usage.input, "total_tokens": usage.input}
    told = {"object": "list", "data": data, "model": body.model, "usage": counted}
    return json_reply(_encode(told), body.model, usage)


def _inputs(given: str | list[Any]) -> list[Any]:
    if isinstance(given, str):
        inputs: list[Any] = [given]
    elif given and all(type(one) is int for one in given):
        inputs = [given]
    else:
        inputs = given
    if not inputs or not all(inputs) or len(inputs) > 2_048:
        raise InvalidRequest("'$.input' is invalid.")
    return inputs


def vector(one: Any, size: int) -> list[float]:
    """A vector of that size, always the same for the same input."""
    digest = hashlib.shake_256(_encode(one)).digest(size)
    return [(byte - 128) / 128 for byte in digest]


def _shown(vector: list[float], form: str) -> list[float] | str:
    if form == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
