"""Tools of a Responses request as Claude's, their names there and back, and the choice of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest

Json = dict[str, Any]

MOST_NAME = 128  # characters of a tool's name
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_FREE = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


class Tool(msgspec.Struct, frozen=True):
    """What the client calls a tool; ``free``: it takes text (a custom tool), not arguments."""

    name: str
    namespace: str | None = None
    free: bool = False


class ToolNames:
    """The names of one request's tools as Claude takes them: unique, of letters, digits, _ and -.

    A tool of a namespace is called ``namespace__name``; ``about`` says what a namespace is for.
    """

    def __init__(self) -> None:
        self.about: dict[str, str] = {}
        self._shown: dict[tuple[str | None, str], str] = {}
        self._own: dict[str, Tool] = {}

    def add(self, tool: Tool) -> str:
        """Makes a tool known; its name for Claude."""
        key = (tool.namespace, tool.name)
        shown = self._shown.get(key) or self._name(*key)
        self._shown[key], self._own[shown] = shown, tool
        return shown

    def find(self, name: str, namespace: str | None) -> str | None:
        """Claude's name of an offered tool; a client may leave the namespace out."""
        if namespace is None and (namespace, name) not in self._shown:
            named = (shown for (_, one), shown in self._shown.items() if one == name)
            return next(named, None)
        return self._shown.get((namespace, name))

    def call(self, item: Json, *, free: bool) -> str:
        """Claude's name of the tool of a call, which need not be offered any more."""
        name, namespace = item["name"], item.get("namespace")
        return self.find(name, namespace) or self.add(Tool(name, namespace, free))

    def back(self, shown: str) -> Tool:
        """The tool of a call of Claude's."""
        return self._own.get(shown) or Tool(shown)

    def _name(self, namespace: str | None, name: str) -> str:
        whole = name if namespace is None else f"{namespace}__{name}"
        plain = _NO_NAME.sub("_", whole)
        if plain == whole and 0 < len(whole) <= MOST_NAME and whole not in self._own:
            return whole
        digest = sha256(f"{namespace}\0{name}".encode()).hexdigest()[:8]
        return f"{plain[: MOST_NAME - 9]}_{digest}"


def tools(asked: Json, items: Iterable[Json], names: ToolNames) -> list[Json]:
    """The tools of a request, also those that its input adds; a later one of a name wins.

    Raises InvalidRequest for a tool that only OpenAI can run.
    """
    found = {}
    for place, tool in _offered(asked, items):
        for made in _told(tool, names, place):
            found[made["name"]] = made
    return list(found.values())


def _offered(asked: Json, items: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    for number, tool in enumerate(asked.get("tools") or ()):
        yield f"tools[{number}]", tool
    for index, item in enumerate(items):
        if item.get("type") == "additional_tools":
            for number, tool in enumerate(item["tools"]):
                yield f"input[{index}].tools[{number}]", tool


def _told(tool: Json, names: ToolNames, place: str, namespace: str | None = None) -> Iterator[Json]:
    kind = tool["type"]
    if kind == "namespace" and namespace is None:
        if tool.get("description"):
            names.about[tool["name"]] = tool["description"]
        for number, inner in enumerate(tool["tools"]):
            yield from _told(inner, names, f"{place}.tools[{number}]", tool["name"])
    elif kind == "function":
        yield _described(names.add(Tool(tool["name"], namespace)), tool.get("description"),
                         _schema(tool.get("parameters")))  # fmt: skip
    elif kind == "custom":
        description = "\n\n".join(filter(None, (tool.get("description"), _grammar(tool))))
        yield _described(names.add(Tool(tool["name"], namespace, True)), description, _FREE)
    elif not kind.startswith("web_search"):
        raise InvalidRequest(f"{place}: a tool of type {kind!r} runs only at OpenAI; leave it out.")


def _described(name: str, description: str | None, schema: Json) -> Json:
    told = {"description": description} if description else {}
    return {"name": name, **told, "input_schema": schema}


def _schema(parameters: Json | None) -> Json:
    if not parameters:
        return {"type": "object", "properties": {}}
    return parameters if parameters.get("type") == "object" else {**parameters, "type": "object"}


def _grammar(tool: Json) -> str | None:
    form = tool.get("format") or {}
    if form.get("type") != "grammar":
        return None
    syntax, rules = form["syntax"], form["definition"]
    return f"The string `input` must match this {syntax} grammar:\n{rules}"


def chosen(asked: Json, offered: list[Json], names: ToolNames) -> tuple[list[Json], Json | None]:
    """The tools that may be used, and how. Raises InvalidRequest for a choice that is no tool."""
    choice = asked.get("tool_choice") or "auto"
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        # what is not Claude's to call (a search at OpenAI) is left out like its definition
        named = [one for one in choice["tools"] if one["type"] in ("function", "custom")]
        allowed = {_named(one, names) for one in named}
        offered = [tool for tool in offered if tool["name"] in allowed]
        choice = choice["mode"]
    if isinstance(choice, str):
        if choice not in _CHOICES:
            raise InvalidRequest(f"tool_choice: {choice!r} is none of auto, none and required.")
        made: Json = {"type": _CHOICES[choice]}
    elif choice["type"] in ("function", "custom"):
        made = {"type": "tool", "name": _named(choice, names)}
    else:
        raise InvalidRequest(f"tool_choice: a tool of type {choice['type']!r} runs only at OpenAI.")
    if not offered:
        return [], None
    if asked.get("parallel_tool_calls") is False and made["type"] != "none":
        made["disable_parallel_tool_use"] = True
    return offered, None if made == {"type": "auto"} else made


def _named(choice: Json, names: ToolNames) -> str:
    shown = names.find(choice["name"], choice.get("namespace"))
    if shown is None:
        raise InvalidRequest(f"tool_choice: there is no tool {choice['name']!r} in tools.")
    return shown
