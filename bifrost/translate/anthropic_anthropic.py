"""Anthropic clients on Anthropic hosts: the bytes pass untouched but for a mapped model name."""

from __future__ import annotations

from bifrost._fast import wire


def request(
    body: bytes, scan: wire.Scan, model: str | None, max_tokens: int | None = None
) -> bytes:
    """The body for upstream; the same object when model and output limit stay (None)."""
    if model is None and max_tokens is None:
        return body
    return wire.rewrite(body, scan, model, max_tokens)
