"""Thinking of other models than Gemini's on its way through a Gemini client and back.

Only Claude can read its signatures, and only in whole, unchanged blocks; Chat hosts sign none, but
some take their thinking back. Gemini clients drop the text of thoughts but keep each part's
``thoughtSignature``, as bytes in base64: there the blocks go that lie before the part.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import msgspec

Json = dict[str, Any]

PREFIX = b"bifrost-claude:"
_START = b64encode(PREFIX).decode()  # 15 bytes: what follows begins a base64 character of its own
_KEYS = {"thinking": {"type", "thinking", "signature"}, "redacted_thinking": {"type", "data"}}
_STANDARD = str.maketrans("-_", "+/")  # Google's SDK for Python writes the other alphabet
_decode = msgspec.json.Decoder(list[dict[str, str]]).decode


def plain(data: str) -> str:
    """Base64 of either alphabet, with or without its padding, as most readers demand it."""
    data = data.translate(_STANDARD).rstrip("=")
    return data + "=" * (-len(data) % 4)


def seal(blocks: list[Json]) -> str:
    """The ``thoughtSignature`` for blocks of thinking."""
    return b64encode(PREFIX + msgspec.json.encode(blocks)).decode()


def opened(signature: object) -> list[Json]:
    """The blocks; none for a signature that was not made here or was changed."""
    if not is_sealed(signature):
        return []
    try:
        blocks = _decode(b64decode(plain(str(signature)), validate=True)[len(PREFIX) :])
    except (ValueError, RecursionError):
        return []
    return [block for block in blocks if _signed(block)]


def is_sealed(signature: object) -> bool:
    """Whether a ``thoughtSignature`` is of our making, which no Gemini would accept."""
    return isinstance(signature, str) and signature.startswith(_START)


def holds_sealed(body: bytes) -> bool:
    """Whether a body may have such a signature."""
    return b'"%b' % _START.encode() in body


def _signed(block: dict[str, str]) -> bool:
    mark = block.get("signature") or block.get("data")
    return bool(mark) and block.keys() == _KEYS.get(block.get("type", ""))
