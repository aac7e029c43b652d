"""Anthropic requests for OpenAI Chat Completions backends: the request side.

Dropped by rule: cache_control, thinking blocks, the volatile billing block of Claude Code and
fields Chat has no word for. Refused: tools and blocks that only Claude's own service runs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.translation import Traits

_BILLING = "x-anthropic-billing-header"
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = {"max": "xhigh"}
_encode = msgspec.json.Encoder().encode

Json = dict[str, Any]


def request(body: bytes, model: str, *, max_tokens: int | None, traits: Traits) -> bytes:
    """The Chat body for an Anthropic body; ``max_tokens`` overrides the client's limit.

    Raises InvalidRequest for what Chat cannot be told.
    """
    try:
        asked = msgspec.json.decode(body, type=Json)
        return _encode(_translated(asked, model, max_tokens, traits))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"The body is not a Messages request: {error!r}") from error


def _translated(asked: Json, model: str, max_tokens: int | None, traits: Traits) -> Json:
    messages: list[Json] = []
    system = _system(asked.get("system"))
    if system:
        messages.append({"role": "system", "content": system})
    for turn in asked["messages"]:
        messages += _turn(turn, traits)
    limits = [asked.get("max_tokens"), max_tokens, traits.max_output]
    limit = min((n for n in limits if n is not None), default=None)
    wanted: Json = {"model": model, "messages": messages}
    if limit is not None:
        wanted["max_tokens" if traits.legacy_limit else "max_completion_tokens"] = limit
    if asked.get("stop_sequences"):
        wanted["stop"] = asked["stop_sequences"]
    if traits.sampling:
        wanted |= {k: asked[k] for k in ("temperature", "top_p") if asked.get(k) is not None}
    effort = (asked.get("output_config") or {}).get("effort")
    if traits.reasons and effort:
        wanted["reasoning_effort"] = _EFFORTS.get(effort, effort)
    if asked.get("tools"):
        wanted |= _tools(asked)
    if asked.get("stream"):
        wanted |= {"stream": True, "stream_options": {"include_usage": True}}
    return wanted


def _system(given: str | list[Json] | None) -> str:
    texts = [given] if isinstance(given, str) else [block["text"] for block in given or ()]
    return "\n\n".join(text for text in texts if not text.startswith(_BILLING))


def _tools(asked: Json) -> Json:
    tools = []
    for tool in asked["tools"]:
        if tool.get("type", "custom") != "custom":
            raise InvalidRequest(f"Tool {tool['type']!r} runs only on Claude's own service.")
        function = {"name": tool["name"], "parameters": tool["input_schema"]}
        if tool.get("description"):
            function["description"] = tool["description"]
        tools.append({"type": "function", "function": function})
    wanted: Json = {"tools": tools}
    choice = asked.get("tool_choice") or {}
    if choice.get("type") == "tool":
        wanted["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice:
        wanted["tool_choice"] = _CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        wanted["parallel_tool_calls"] = False
    return wanted


def _turn(turn: Json, traits: Traits) -> list[Json]:
    role, content = turn["role"], turn["content"]
    if role == "system":
        return [{"role": "system", "content": _system(content)}]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [_assistant(blocks)] if role == "assistant" else _user(blocks, traits)


def _assistant(blocks: list[Json]) -> Json:
    texts, calls = [], []
    for block in blocks:
        kind = block["type"]
        if kind == "text":
            texts.append(block["text"])
        elif kind == "tool_use":
            function = {"name": block["name"], "arguments": _encode(block["input"]).decode()}
            calls.append({"id": block["id"], "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            raise InvalidRequest(f"A block {kind!r} cannot be told to a Chat Completions model.")
    said: Json = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    return said | {"tool_calls": calls} if calls else said


def _user(blocks: list[Json], traits: Traits) -> list[Json]:
    """Results first, each its own message; their images go into the user message behind."""
    results, parts = [], []
    for block in blocks:
        if block["type"] != "tool_result":
            parts.append(_part(block, traits))
            continue
        inner = block.get("content") or ""
        inner = [{"type": "text", "text": inner}] if isinstance(inner, str) else inner
        text = "\n".join(each["text"] for each in inner if each["type"] == "text")
        parts += [_part(each, traits) for each in inner if each["type"] != "text"]
        if block.get("is_error"):
            text = f"Error: {text}"
        results.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": text})
    return [*results, {"role": "user", "content": parts}] if parts else results


def _part(block: Json, traits: Traits) -> Json:
    kind = block["type"]
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    source = block.get("source") or {}
    if kind == "image" and traits.vision and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source["url"]}}
    if kind == "image" and traits.vision and source.get("type") == "base64":
        url = f"data:{source['media_type']};base64,{source['data']}"
        return {"type": "image_url", "image_url": {"url": url}}
    raise InvalidRequest(f"A block {kind!r} cannot be told to this Chat Completions model.")
