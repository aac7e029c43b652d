"""Anthropic Messages clients on Claude at Google's Vertex AI: the same dialect, but for the model.

Set by rule: ``anthropic_version``. Dropped: ``model``, which stands in the path;
``cache_control.scope``; a turn's own ``output_config``, which Claude Code says nowhere in its mode
for Vertex; its volatile billing line. Refused: what only Claude's own service holds. Errors of
Google's own front become Anthropic's.

Facts: anthropic 2.12 (``lib/vertex``), and Claude Code 2.1.330 in its Vertex mode (read 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate import foreign_thinking
from bifrost.translate.anthropic_anthropic import Untouched
from bifrost.translate.anthropic_bedrock import Marks, without_billing, without_turn_config
from bifrost.translate.raw_json import Raw, members, object_of
from bifrost.translate.translation import SENSELESS, Traits

VERSION = b'"vertex-2023-10-16"'
_HELD = ("container", "fallbacks", "inference_geo", "mcp_servers", "thread")
_NOTHING = (b"null", b"[]", b"{}")
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
          404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
          504: "timeout_error", 529: "overloaded_error"}  # fmt: skip
_OWN = {499: 500, 503: 529}  # Anthropic's statuses for Google's
# What names the gateway's account there, which is none of the client's business.
_ACCOUNT = re.compile(
    r"\b(projects|locations|organizations|folders)/[^/\s'\",)]+|"
    r"[\w.-]+@[\w.-]+\.gserviceaccount\.com|\bproject[: ]+[\w-]*\d[\w-]*"
)
_SCOPE = Marks(("scope",))
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class AnthropicVertex:
    """One request and its answer; see ``translation.Translation``."""

    def __init__(
        self,
        body: bytes,
        model: str,
        *,
        max_tokens: int | None,
        traits: Traits | None = None,
    ) -> None:
        """Raises InvalidRequest for what the host cannot be told."""
        try:
            asked: dict[str, Raw] = dict(members(body))
            self.body = _request(asked, model, max_tokens)
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client; an answer passes as it is."""
        return (status, body) if status < 400 else failure(status, body)

    def stream(self, input_estimate: int) -> Untouched:
        """A reader of the streamed answer: it is Anthropic's, and passes as it is."""
        return Untouched()


def failure(status: int, body: bytes) -> tuple[int, bytes]:
    """(status, body) of an error for the client, whoever of the two made it."""
    text = _ACCOUNT.sub(_hidden, body.decode("utf-8", "replace"))
    try:
        told: Any = _decode(text)
    except SENSELESS:
        told = None
    if isinstance(told, list) and told:
        told = told[0]
    inner = told.get("error") if isinstance(told, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get("type"), str):
        return status, text.encode()
    said = inner.get("message") if isinstance(inner, dict) else None
    status = _OWN.get(status, status)
    error = {
        "type": _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error"),
        "message": said if isinstance(said, str) and said else f"The provider answers {status}.",
    }
    return status, _encode({"type": "error", "error": error})


def _hidden(found: re.Match[str]) -> str:
    return f"{found[1]}/(hidden)" if found[1] else "(hidden)"


def _request(asked: dict[str, Raw], model: str, max_tokens: int | None) -> bytes:
    for field in _HELD:
        if field in asked and bytes(asked[field]) not in _NOTHING:
            raise InvalidRequest(f"{field}: the model {model!r} cannot be asked for this.")
        asked.pop(field, None)
    if max_tokens is not None:
        asked["max_tokens"] = _encode(max_tokens)
    edits: list[tuple[str, Callable[[Raw], Raw | None]]] = [
        *((field, _SCOPE.blocks) for field in ("system", "tools", "messages")),
        ("system", without_billing),
        ("messages", foreign_thinking.turns),
        ("messages", without_turn_config),
    ]
    for field, edit in edits:
        if field in asked:
            value = edit(asked[field])
            if value is None:
                del asked[field]
            else:
                asked[field] = value
    del asked["model"]
    asked["anthropic_version"] = VERSION
    return object_of(asked)
