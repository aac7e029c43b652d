"""What governance must know of a Responses request, put into the words that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bifrost.doors.chat_ask import blocked, image

Json = dict[str, Any]

# Tools that the client runs itself; whatever else OpenAI runs, by its own count and at own prices.
CLIENT_TOOLS = ("function", "custom", "namespace", "local_shell", "apply_patch", "shell")
# Inputs that are not in the body: they can fill the model's whole window.
_ELSEWHERE = ("previous_response_id", "conversation", "prompt")


def ask(asked: Json) -> Json:
    """The fields of a Messages request that bound what this Responses request can cost.

    Searches of the web are not counted: no host is asked for them (``dropped``). Raises
    FieldBlocked for what cannot be bounded.
    """
    if asked.get("background"):
        raise blocked("background", "its answer would come by a way that is not served")
    found: Json = {"model": asked.get("model"), "stream": asked.get("stream")}
    if asked.get("max_output_tokens") is not None:
        found["max_tokens"] = asked["max_output_tokens"]
    tier = asked.get("service_tier")
    if tier not in (None, "auto", "default"):
        found["service_tier"] = tier
    for tool in asked.get("tools") or ():
        _check(tool)
    content = [block for item in _items(asked) for block in _blocks(item)]
    if any(asked.get(name) for name in _ELSEWHERE):
        content.append({"type": "file"})
    found["messages"] = [{"role": "user", "content": content}]
    return found


def _check(tool: Json) -> None:
    kind = str(tool.get("type"))
    if kind not in CLIENT_TOOLS and not searches(tool):
        raise blocked(f"tools: {kind}", "its provider runs it, at a cost that cannot be bounded")


def searches(tool: Json) -> bool:
    """Whether a tool is OpenAI's search of the web, which this gateway takes out of requests."""
    return str(tool.get("type")).startswith("web_search")


def _items(asked: Json) -> list[Json]:
    given = asked["input"]
    return [] if isinstance(given, str) else given


def _blocks(item: Json) -> Iterator[Json]:
    kind = item.get("type", "message")
    if kind == "item_reference":
        yield {"type": "file"}
    if kind == "additional_tools":
        for tool in item.get("tools") or ():
            _check(tool)
    for content in (item.get("content"), item.get("output")):
        for part in content if isinstance(content, list) else ():
            kind = part.get("type")
            if kind == "input_image":
                yield image(part.get("image_url"))
            elif kind == "input_file":
                yield {"type": "document"}
            elif kind == "input_audio":
                raise blocked("input_audio", "sound has no price")
