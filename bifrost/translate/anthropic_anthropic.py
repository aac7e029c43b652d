"""Anthropic clients on Anthropic hosts: the bytes pass untouched but for a mapped model name."""

from __future__ import annotations

import re

from bifrost._fast import wire

# How the provider names organisations and workspaces inside its sentences; request ids stay.
_ACCOUNT = re.compile(
    rb"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:org|wrkspc)[-_][0-9A-Za-z]{8,64})\b"
)


def request(
    body: bytes, scan: wire.Scan, model: str | None, max_tokens: int | None = None
) -> bytes:
    """The body for upstream; the same object when model and output limit stay (None)."""
    if model is None and max_tokens is None:
        return body
    return wire.rewrite(body, scan, model, max_tokens)


def error(body: bytes) -> bytes:
    """An error of the provider for the client: of the same length, account identifiers hidden."""
    return _ACCOUNT.sub(lambda found: b"*" * len(found[0]), body)
