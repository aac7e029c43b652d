"""JSON edited without reading it whole: what is not edited keeps its very bytes.

Hosts cache prompts by their exact beginning, so nothing inside a value may be written anew. Of an
object or array that is edited itself, only the white space between its members is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

Raw = bytes | msgspec.Raw
Edit = Callable[[Raw], Raw | None]  # the value to have instead; None: none at all

members: Callable[[Raw], dict[str, msgspec.Raw]]
members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""An object's values by key, the last one of a key given twice. Raises a SENSELESS error."""

elements: Callable[[Raw], list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw]).decode
"""An array's values. Raises a SENSELESS error."""

_encode = msgspec.json.Encoder().encode


def object_of(values: Mapping[str, Raw]) -> bytes:
    """The object with these values, in this order."""
    pairs = [b"%b:%b" % (_encode(key), bytes(value)) for key, value in values.items()]
    return b"{%b}" % b",".join(pairs)


def array_of(values: Iterable[Raw]) -> bytes:
    """The array of these values."""
    return b"[%b]" % b",".join(bytes(value) for value in values)


def edited(given: Raw, edits: Mapping[str, Edit]) -> Raw:
    """An object with some of its values edited; the same bytes if none of them changes."""
    found: dict[str, Raw] = dict(members(given))
    changed = False
    for key in edits.keys() & found.keys():
        was = found[key]
        now = edits[key](was)
        if now is None:
            del found[key]
        else:
            found[key] = now
        changed = changed or now is not was
    return object_of(found) if changed else given


def each(given: Raw, edit: Edit) -> Raw:
    """An array with each of its values edited; the same bytes if none of them changes."""
    was = elements(given)
    now = [edit(value) for value in was]
    if all(new is old for new, old in zip(now, was, strict=True)):
        return given
    return array_of(value for value in now if value is not None)


def dropped(given: Raw) -> None:
    """An edit: the value goes."""


def kind_of(given: Raw) -> str:
    """What a value is, by its first byte: ``{``, ``[``, ``"`` or what a number or word begins."""
    return chr(memoryview(given)[0])
