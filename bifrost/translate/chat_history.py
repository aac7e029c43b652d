"""The history that a Chat client sends, where its host is particular about it.

Chat clients echo what the host before said, in that host's words: reasoning in a field that the
next one refuses or calls otherwise, ids of calls that it does not take, or no reasoning where some
is due. All else keeps its bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate.chat_request import NO_REASONING, call_id
from bifrost.translate.raw_json import Raw, each, edited, members, object_of
from bifrost.translate.translation import Traits

FIELDS = ("reasoning_content", "reasoning")
_CALLED = b'"tool_calls"'
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def suited(messages: Raw, traits: Traits) -> Raw:
    """The messages as the host takes them; the same bytes where nothing has to change.

    Raises what is in SENSELESS for what are no messages.
    """
    if not (traits.reasoning_field or traits.refuses_reasoning or traits.short_call_ids):
        return messages
    due = traits.reasoning_due and _CALLED in bytes(messages)
    return each(messages, lambda message: _message(message, traits, due=due))


def _message(given: Raw, traits: Traits, *, due: bool) -> Raw:
    found: dict[str, Any] = dict(members(given))
    role = _decode(found["role"])
    if traits.short_call_ids:
        edits = {"tool_call_id": _short, "tool_calls": _calls}
        given = edited(given, edits)
        found = dict(members(given))
    if role != "assistant":
        return given
    field = traits.reasoning_field
    others = [name for name in FIELDS if name in found and name != field]
    if traits.refuses_reasoning and others:
        return object_of({name: value for name, value in found.items() if name not in FIELDS})
    if field is None:
        return given
    thoughts = [_decode(found[name]) for name in (field, *others) if name in found]
    said = next((one for one in thoughts if one), NO_REASONING if due else None)
    if not others and (said is None or field in found and said == thoughts[0]):
        return given
    kept = {name: value for name, value in found.items() if name not in FIELDS}
    return object_of(kept | {field: _encode(said)} if said else kept)


def _calls(given: Raw) -> Raw:
    return each(given, lambda call: edited(call, {"id": _short}))


def _short(given: Raw) -> Raw:
    name = _decode(given)
    short = call_id(name, short=True) if isinstance(name, str) else name
    return given if short == name else _encode(short)
