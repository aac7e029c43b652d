"""Gemini's schemas, a dialect of OpenAPI's, as JSON Schema: for tools and for answers of a form.

Claude's answers take fewer words than its tools: what they lack (bounds, patterns, lengths) is said
in the description instead; a form that cannot be said at all (maps, references in a circle) becomes
a sentence in the system prompt.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

Json = dict[str, Any]

# What only Gemini knows, under both of the names that Google takes.
_OWN = frozenset({"propertyOrdering", "property_ordering", "example"})
_INTEGERS = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
)  # which Google's JSON has as strings
_SNAKE = {
    "any_of": "anyOf", "min_items": "minItems", "max_items": "maxItems",
    "min_length": "minLength", "max_length": "maxLength", "min_properties": "minProperties",
    "max_properties": "maxProperties", "additional_properties": "additionalProperties",
    "defs": "$defs", "ref": "$ref",
}  # fmt: skip
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties", "not", "contains", "propertyNames")
_TYPE = re.compile(r"[A-Z_]+")
_UNKNOWN = "TYPE_UNSPECIFIED"
# What the form of Claude's answers can say (Anthropic's "Structured outputs", read 2026-11).
_STRICT = frozenset(
    {"type", "description", "enum", "const", "anyOf", "allOf", "default", "required", "properties",
     "items", "title"}
)  # fmt: skip
_UNSAID = _STRICT | {"$defs", "definitions", "$schema", "$id", "additionalProperties"}
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
MOST_SCHEMAS = 2_000  # in a form, each as often as it is referred to
_encode = msgspec.json.Encoder().encode


def schema(given: Any) -> Any:
    """JSON Schema for one of Gemini's schemas; JSON Schema itself stays as it is."""
    if not isinstance(given, dict):
        return given
    made: Json = {}
    for name, value in given.items():
        key: str = _SNAKE[name] if name in _SNAKE else name
        if key in _OWN or (key == "type" and value == _UNKNOWN):
            continue
        made[key] = _member(key, value)
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
    return made


def _member(key: str, value: Any) -> Any:
    if key == "type":
        return [_type(one) for one in value] if isinstance(value, list) else _type(value)
    if key in _INTEGERS and isinstance(value, str) and value.isdecimal():
        return int(value)
    if key in _MAPS and isinstance(value, dict):
        return {name: schema(one) for name, one in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [schema(one) for one in value]
    return schema(value) if key in _ONES else value


def _type(value: Any) -> Any:
    return value.lower() if isinstance(value, str) and _TYPE.fullmatch(value) else value


def parameters(given: Any) -> Json:
    """The schema of a tool's input, which Claude demands to be an object."""
    made = schema(given or {})
    if not isinstance(made, dict) or made.get("type", "object") != "object":
        raise ValueError("a function's parameters are an object")
    return {"type": "object", "properties": {}} | made


def form(given: Any) -> Json | None:
    """The schema of an answer as Claude takes it; None for one that it cannot be told."""
    made = schema(given)
    try:
        return _Form(made).told(made)
    except (ValueError, RecursionError):
        return None


class _Form:
    """The schema of an answer under way, its references resolved in place."""

    def __init__(self, root: Any) -> None:
        self._left = MOST_SCHEMAS
        self._known: Json = {}
        for key in ("definitions", "$defs"):
            found = root.get(key) if isinstance(root, dict) else None
            self._known |= {f"#/{key}/{name}": one for name, one in (found or {}).items()}

    def told(self, given: Any) -> Json:
        """Raises ValueError for what Claude cannot be told."""
        self._left -= 1
        if not isinstance(given, dict) or not self._left:
            raise ValueError("no schema, or one that never ends")
        if "$ref" in given:
            more = {key: value for key, value in given.items() if key != "$ref"}
            return self.told({**(self._known.get(given["$ref"]) or {"not": {}}), **more})
        made = {key: value for key, value in given.items() if key in _STRICT}
        untold = {key: value for key, value in given.items() if key not in _UNSAID}
        if not isinstance(given.get("additionalProperties", False), bool) or "not" in given:
            raise ValueError("a map, or what is not")
        if untold.get("format") in _FORMATS:
            made["format"] = untold.pop("format")
        if untold.get("minItems") in (0, 1):
            made["minItems"] = untold.pop("minItems")
        if isinstance(made.get("properties"), dict):
            made["properties"] = {name: self.told(one) for name, one in made["properties"].items()}
        for key in ("anyOf", "allOf"):
            if isinstance(made.get(key), list):
                made[key] = [self.told(one) for one in made[key]]
        if "items" in made:
            made["items"] = self.told(made["items"])
        if "object" in _kinds(made):
            if not made.get("properties"):
                raise ValueError("an object of any form")
            made["additionalProperties"] = False
        if untold:
            hint = ", ".join(f"{key}: {_encode(value).decode()}" for key, value in untold.items())
            made["description"] = " ".join(filter(None, [made.get("description"), f"({hint})"]))
        return made


def _kinds(given: Json) -> list[Any]:
    kinds = given.get("type") or []
    return kinds if isinstance(kinds, list) else [kinds]
