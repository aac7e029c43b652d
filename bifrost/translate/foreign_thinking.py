"""Thinking that models of other vendors made, in a conversation that goes on at Claude.

This gateway gave it signatures of its own (``bifrost-…``), which the client sends back; Claude
takes no thinking but its own and answers anything else with 400.
"""

from __future__ import annotations

import msgspec

from bifrost.translate.raw_json import Raw, each, edited, kind_of, members

MARK = b'"bifrost-'  # what every such signature begins with, in JSON


class _Block(msgspec.Struct):
    type: object = None
    signature: object = None
    data: object = None


_block = msgspec.json.Decoder(_Block).decode


def without(body: bytes) -> bytes:
    """A Messages request without such thinking, all else byte for byte; the same object where it
    holds none. Raises what is in SENSELESS for what is no request."""
    return bytes(edited(body, {"messages": turns})) if MARK in body else body


def turns(given: Raw) -> Raw:
    """An edit of the turns; one that was nothing but such thinking goes."""
    return each(given, _turn) if MARK in bytes(given) else given


def _turn(given: Raw) -> Raw | None:
    if MARK not in bytes(given):
        return given
    told = edited(given, {"content": _content})
    return None if told is not given and bytes(members(told)["content"]) == b"[]" else told


def _content(given: Raw) -> Raw:
    return each(given, _kept) if kind_of(given) == "[" else given


def _kept(given: Raw) -> Raw | None:
    if MARK not in bytes(given):
        return given
    block = _block(given)
    return None if is_foreign(block.type, block.signature, block.data) else given


def is_foreign(kind: object, signature: object, data: object) -> bool:
    """Whether a block of that type is thinking that this gateway signed."""
    sealed = {"thinking": signature, "redacted_thinking": data}.get(str(kind))
    return isinstance(sealed, str) and sealed.startswith("bifrost-")
