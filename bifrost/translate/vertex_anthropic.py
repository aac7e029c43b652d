"""Clients that ask Claude at Google's Vertex AI, on hosts that speak Anthropic Messages.

Answers and errors are Anthropic's there already; the request has a body like InvokeModel's.

Facts: anthropic 2.12 (``lib/vertex``) and Claude Code 2.1.330 in its Vertex mode (read 2026-11).
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate import bedrock_anthropic
from bifrost.translate.bedrock_anthropic import Asked
from bifrost.translate.raw_json import members
from bifrost.translate.translation import SENSELESS

COUNT = "count-tokens"
_PATH = re.compile(
    r"/v1/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/([^/:]+):"
    r"(rawPredict|streamRawPredict)"
)
_VERSION = re.compile(r"@(?:default|(20\d{6}))$")
_model = msgspec.json.Decoder(str).decode


def address(path: str) -> tuple[str, bool] | None:
    """(model, whether it streams) of a path as it was sent; None for paths that are not served.

    A token count has the model ``count-tokens``.
    """
    found = _PATH.fullmatch(path)
    return (unquote(found[1]), found[2] == "streamRawPredict") if found else None


def names(model: str) -> list[str]:
    """A model's name at Vertex AI and those that it has elsewhere, the most exact first."""
    found = _VERSION.search(model)
    if found is None:
        return [model]
    plain = model[: found.start()]
    return [model, f"{plain}-{found[1]}", plain] if found[1] else [model, plain]


def request(body: bytes, model: str, *, stream: bool) -> Asked:
    """The Messages request for a body and what its path says.

    Raises InvalidRequest for what is no such body.
    """
    return bedrock_anthropic.request(body, model, stream=stream, of="rawPredict")


def counted(body: bytes) -> str:
    """The model whose tokens are to be counted, which stands in the body; raises InvalidRequest."""
    try:
        return _model(members(body)["model"])
    except SENSELESS:
        raise InvalidRequest("model: needed in the body to count its tokens.") from None
