"""Claude's thinking on its way through a Responses client and back.

Only Claude can read a signature of Claude's, and only unchanged: the client keeps the whole block
as a reasoning item's ``encrypted_content`` and echoes it with the next turn.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

import msgspec

PREFIX = "bifrost-claude:"
_KEYS = {"thinking": {"type", "thinking", "signature"}, "redacted_thinking": {"type", "data"}}
_decode = msgspec.json.Decoder(dict[str, str]).decode


def seal(block: bytes) -> str:
    """The ``encrypted_content`` for a thinking block's JSON."""
    return PREFIX + b64encode(block).decode()


def opened(content: object) -> msgspec.Raw | None:
    """The block, byte for byte; None for reasoning that is not Claude's or was changed."""
    if not isinstance(content, str) or not content.startswith(PREFIX):
        return None
    try:
        block = b64decode(content[len(PREFIX) :], validate=True)
        told = _decode(block)
    except (ValueError, RecursionError):
        return None
    mark = told.get("signature") or told.get("data")
    return msgspec.Raw(block) if mark and told.keys() == _KEYS.get(told.get("type", "")) else None
