"""Tools of a Messages request as Converse has them, and the choice of them.

Converse has no ``none``: without tools in the conversation none is offered then; with them they
must be, and the model is told not to call one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_request import Names
from bifrost.translate.converse_families import Family

Json = dict[str, Any]

NO_CALLS = "Do not call any tool in this turn; answer in words."
MOST_SCHEMAS = 2_000  # references in a tool's schema, each as often as it is referred to
_encode = msgspec.json.Encoder().encode
_DEFINITIONS = ("$defs", "definitions")


class Marks:
    """Where a request marks what is to be cached. ``kept``: the places where its model takes it."""

    def __init__(self, kept: frozenset[str], *, hour: bool) -> None:
        self._kept, self._hour = kept, hour

    def behind(self, block: Json, place: str) -> list[Json]:
        """What follows a block of ``system``, ``messages`` or ``tools``: a cache point, if any."""
        mark = block.get("cache_control")
        if not mark or place not in self._kept:
            return []
        point = {"type": "default"}
        if self._hour and mark.get("ttl") == "1h":
            point["ttl"] = "1h"
        return [{"cachePoint": point}]


def tool_config(
    asked: Json, called: list[str], names: Names, family: Family, marks: Marks, *, forced: bool
) -> tuple[Json, bool]:
    """(the ``toolConfig`` or nothing, whether the model must be told to call none). ``called`` are
    the host's names of the tools that the conversation calls: Converse wants them offered.

    Raises InvalidRequest for a tool that only Claude's service runs.
    """
    choice = asked.get("tool_choice") or {}
    none = choice.get("type") == "none"
    if none and not called:
        return {}, False
    tools: list[Json] = []
    for tool in asked.get("tools") or ():
        if (tool.get("type") or "custom") != "custom":
            raise InvalidRequest(f"Tool {tool['type']!r} runs only on Claude's own service.")
        tools += [_spec(tool, names, family), *marks.behind(tool, "tools")]
    if not tools:
        schema: Json = {"inputSchema": {"json": {"type": "object", "properties": {}}}}
        tools = [{"toolSpec": {"name": name, **schema}} for name in dict.fromkeys(called)]
        none = bool(tools)
    if not tools:
        return {}, False
    config: Json = {"tools": tools}
    kind = choice.get("type")
    if forced and kind == "tool" and "tool" in family.forces:
        config["toolChoice"] = {"tool": {"name": names.to(choice["name"])}}
    elif forced and kind in ("any", "tool") and "any" in family.forces:
        config["toolChoice"] = {"any": {}}
        if kind == "tool" and not called:  # the one alone; calls of others must stay offered
            name = names.to(choice["name"])
            config["tools"] = [one for one in tools if one.get("toolSpec", {}).get("name") == name]
    return config, none


def _spec(tool: Json, names: Names, family: Family) -> Json:
    schema = tool.get("input_schema") or {"type": "object", "properties": {}}
    told = {"name": names.to(tool["name"])}
    if (tool.get("description") or "").strip():
        told["description"] = tool["description"]
    return {
        "toolSpec": {**told, "inputSchema": {"json": plain(schema) if family.plain else schema}}
    }


def plain(schema: Json) -> Json:
    """A tool's schema with nothing but these three at its top.

    What it refers to is put in place, unless it grew by that: what a request may cost is reserved
    by the size that the client's had. Then a reference is no more than its type.
    """
    made = _inlined(schema, MOST_SCHEMAS)
    if made is None or len(_encode(made)) > len(_encode(schema)):
        made = _inlined(schema, 0)
    assert made is not None
    return made


def _inlined(schema: Json, most: int) -> Json | None:
    """The schema with up to so many references put in place; None where there are more."""
    inline = _Inlined(schema, most)
    properties = {key: inline(one, ()) for key, one in (schema.get("properties") or {}).items()}
    made: Json = {"type": "object", "properties": properties}
    if most and inline.left < 0:
        return None
    return made | {"required": schema["required"]} if schema.get("required") else made


class _Inlined:
    """Puts definitions in the place of references. One that leads back to itself, and any when no
    more are ``left``, is only its type."""

    def __init__(self, schema: Json, most: int) -> None:
        self._definitions = {
            f"#/{key}/{name}": one
            for key in _DEFINITIONS
            for name, one in (schema.get(key) or {}).items()
        }
        self.left = most

    def __call__(self, given: Any, within: tuple[str, ...]) -> Any:
        if isinstance(given, list):
            return [self(one, within) for one in given]
        if not isinstance(given, dict):
            return given
        reference = given.get("$ref")
        if not isinstance(reference, str):
            return {key: self(one, within) for key, one in given.items() if key not in _DEFINITIONS}
        self.left -= 1
        found = self._definitions.get(reference, {})
        beside = {key: one for key, one in given.items() if key != "$ref"}
        if self.left < 0 or reference in within:
            return {"type": found.get("type") or "object", **beside}
        return {**self(found, (*within, reference)), **beside}
