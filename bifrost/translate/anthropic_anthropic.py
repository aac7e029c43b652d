"""Anthropic clients on Anthropic hosts: the bytes pass untouched but for a mapped model name."""

from __future__ import annotations

from bifrost._fast import wire


def request(body: bytes, scan: wire.Scan, model: str | None) -> bytes:
    """The body for upstream; the same object when the model keeps its name (None)."""
    return body if model is None else wire.rewrite(body, scan, model, None)
