"""A Gemini request under one spelling of its fields: Google takes ``maxOutputTokens`` and
``max_output_tokens``, and one object where a list is meant; what governs must not depend on it.
"""

from __future__ import annotations

from typing import Any

from bifrost.errors import InvalidRequest

Json = dict[str, Any]

# By kind of object: its members that are objects of a kind, or lists of them ("[]").
_SHAPES: dict[str, dict[str, str]] = {
    "request": {
        "contents": "content[]",
        "systemInstruction": "content",
        "tools": "tool[]",
        "toolConfig": "toolConfig",
        "generationConfig": "config",
        "generateContentRequest": "request",
        "requests": "embed[]",
        "content": "content",
    },
    "embed": {"content": "content"},
    "content": {"parts": "part[]"},
    "part": {
        "inlineData": "leaf",
        "fileData": "leaf",
        "functionCall": "leaf",
        "functionResponse": "response",
    },
    "response": {"parts": "part[]"},
    "tool": {"functionDeclarations": "leaf[]"},
    "toolConfig": {"functionCallingConfig": "leaf"},
    "config": {"thinkingConfig": "leaf", "responseFormat": "format[]"},
    "format": {"text": "leaf"},
    "leaf": {},
}


class Fields:
    """Spells a request. ``changed``: something was spelled otherwise."""

    def __init__(self) -> None:
        self.changed = False

    def spelled(self, given: Any, kind: str = "request", place: str = "") -> Json:
        """An object of a kind under its members' JSON names, new where it changed.

        Raises InvalidRequest where it is none, or holds one member twice.
        """
        if not isinstance(given, dict):
            raise InvalidRequest(f"{place or 'The request body'}: expected an object.")
        found: Json = {}
        for name, value in given.items():
            key = _camel(name)
            if key in found:
                raise InvalidRequest(f"{_at(place, key)}: given twice.")
            self.changed = self.changed or key != name
            found[key] = value
        for key, inner in _SHAPES[kind].items():
            if found.get(key) is not None:
                found[key] = self._inner(found[key], inner, _at(place, key))
        return found

    def _inner(self, value: Any, kind: str, place: str) -> Any:
        one, lists, _ = kind.partition("[]")
        if not lists:
            return self.spelled(value, one, place)
        if isinstance(value, dict):
            value, self.changed = [value], True
        if not isinstance(value, list):
            raise InvalidRequest(f"{place}: expected a list.")
        return [self.spelled(item, one, f"{place}[{at}]") for at, item in enumerate(value)]


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _camel(name: str) -> str:
    """A member's JSON name for the name that it has in Google's protocol."""
    first, *more = name.split("_")
    return "".join([first, *(word[:1].upper() + word[1:] for word in more)])
