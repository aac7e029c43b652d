"""A Messages request in the words of Chat Completions (types of anthropic 2.12 and openai 3.54).

Dropped by rule: ``cache_control`` (hosts cache by themselves), thinking of earlier turns where the
host does not take it back (OpenAI's own has no field for it, and many refuse one), the volatile
billing line of Claude Code, ``metadata`` and the fields that Chat has no word for. Refused: what
only Claude's own service runs or holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.translation import Traits

Json = dict[str, Any]

BILLING = "x-anthropic-billing-header"
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_HELD = ("container", "fallbacks", "mcp_servers", "thread")  # what only Claude's service can do
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
NO_REASONING = " "  # where some is due; Moonshot refuses "" (charmbracelet/crush#2696)
_BUDGETS = ((4_096, "low"), (16_384, "medium"))  # thinking budgets in tokens, to below
MOST_STOPS = 4
_encode = msgspec.json.Encoder().encode


class Names:
    """Tools' names as Chat takes them (64 letters, digits, _ and -), and back."""

    def __init__(self) -> None:
        self._own: dict[str, str] = {}

    def to(self, name: str) -> str:
        """The name for the host."""
        if _NAME.fullmatch(name):
            return name
        short = f"{_NO_NAME.sub('_', name)[:55]}_{sha256(name.encode()).hexdigest()[:8]}"
        self._own[short] = name
        return short

    def back(self, name: str) -> str:
        """The name the client knows."""
        return self._own.get(name, name)


def call_id(name: str, *, short: bool = False) -> str:
    """A call's id as the host takes it; the same for the call and its result."""
    if short:
        return name if _SHORT_ID.fullmatch(name) else sha256(name.encode()).hexdigest()[:9]
    return name if _ID.fullmatch(name) else f"call_{sha256(name.encode()).hexdigest()[:32]}"


def request(asked: Json, model: str, names: Names, max_tokens: int | None, traits: Traits) -> Json:
    """The Chat request for a Messages request; ``max_tokens`` lowers the client's own limit.

    Raises InvalidRequest for what Chat cannot be told.
    """
    refuse_held(asked, model)
    messages: list[Json] = []
    system = prose(asked.get("system") or ())
    if system:
        messages.append({"role": "system", "content": system})
    for turn in asked["messages"]:
        messages += _turn(turn, names, traits)
    wanted: Json = {"model": model, "messages": _answered(messages)}
    limits = [one for one in (asked.get("max_tokens"), max_tokens, traits.max_output) if one]
    if limits:
        wanted["max_tokens" if traits.legacy_limit else "max_completion_tokens"] = min(limits)
    stops = asked.get("stop_sequences") or ()
    if len(stops) > MOST_STOPS:
        raise InvalidRequest(f"stop_sequences: the model {model!r} takes at most {MOST_STOPS}.")
    if stops:
        wanted["stop"] = stops
    if traits.sampling:
        wanted |= {k: asked[k] for k in ("temperature", "top_p") if asked.get(k) is not None}
    hard = effort(asked, traits)
    if hard:
        wanted["reasoning_effort"] = hard
    form = (asked.get("output_config") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        schema = {"name": "answer", "schema": form["schema"]}
        wanted["response_format"] = {"type": "json_schema", "json_schema": schema}
    if asked.get("tools"):
        wanted |= _tools(asked, names)
    if asked.get("stream"):
        wanted |= {"stream": True, "stream_options": {"include_usage": True}}
    return wanted


def refuse_held(asked: Json, model: str) -> None:
    """Raises InvalidRequest for what only Claude's own service can do."""
    for field in _HELD:
        if asked.get(field):
            raise InvalidRequest(f"{field}: the model {model!r} cannot be asked for this.")


def effort(asked: Json, traits: Traits) -> str | None:
    """How hard to think: what the last turn says, else the request, else its thinking budget."""
    if not traits.reasons:
        return None
    said = [asked, *(turn for turn in asked["messages"] if turn["role"] == "system")]
    efforts = [(one.get("output_config") or {}).get("effort") for one in said]
    found = next((one for one in reversed(efforts) if one), None)
    budget = (asked.get("thinking") or {}).get("budget_tokens")
    if found is None and budget:
        found = next((name for most, name in _BUDGETS if budget < most), "high")
    if found in ("max", "xhigh"):
        return "xhigh" if traits.extra_high else "high"
    return found


def prose(given: str | Iterable[Json]) -> str:
    """The text of a system prompt or turn, without the line that changes with every session."""
    texts = [given] if isinstance(given, str) else [block["text"] for block in given]
    return "\n\n".join(text for text in texts if not text.startswith(BILLING))


def functions(asked: Json, names: Names) -> Iterator[Json]:
    """The tools as functions. Raises InvalidRequest for one that only Claude's service runs."""
    for tool in asked["tools"]:
        if (tool.get("type") or "custom") != "custom":
            raise InvalidRequest(f"Tool {tool['type']!r} runs only on Claude's own service.")
        function = {"name": names.to(tool["name"]), "parameters": tool["input_schema"]}
        yield function | {key: tool[key] for key in ("description", "strict") if tool.get(key)}


def _tools(asked: Json, names: Names) -> Json:
    tools = [{"type": "function", "function": one} for one in functions(asked, names)]
    wanted: Json = {"tools": tools}
    choice = asked.get("tool_choice") or {}
    if choice.get("type") == "tool":
        named = {"name": names.to(choice["name"])}
        wanted["tool_choice"] = {"type": "function", "function": named}
    elif choice:
        wanted["tool_choice"] = CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        wanted["parallel_tool_calls"] = False
    return wanted


def _turn(turn: Json, names: Names, traits: Traits) -> list[Json]:
    role, content = turn["role"], turn["content"]
    if role == "system":
        return [{"role": "system", "content": prose(content)}]
    told = blocks(content)
    return [_assistant(told, names, traits)] if role == "assistant" else _user(told, names, traits)


def blocks(content: str | list[Json]) -> list[Json]:
    """A content as blocks, which can be a bare text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _assistant(told: list[Json], names: Names, traits: Traits) -> Json:
    texts, calls, thoughts = [], [], []
    for block in told:
        kind = block["type"]
        if kind == "text":
            texts.append(block["text"])
        elif kind == "tool_use":
            arguments = _encode(block["input"]).decode()
            function = {"name": names.to(block["name"]), "arguments": arguments}
            name = call_id(block["id"], short=traits.short_call_ids)
            calls.append({"id": name, "type": "function", "function": function})
        elif kind == "thinking":
            thoughts.append(block["thinking"])
        elif kind != "redacted_thinking":
            raise untold(kind)
    said: Json = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    if traits.reasoning_field:
        thought = "".join(thoughts) or (NO_REASONING if traits.reasoning_due else "")
        said |= {traits.reasoning_field: thought} if thought else {}
    return said | {"tool_calls": calls} if calls else said


def _user(told: list[Json], names: Names, traits: Traits) -> list[Json]:
    """Results first, each its own message; what is no text in them goes into the one behind."""
    results: list[Json] = []
    behind: list[Json] = []
    for block in told:
        if block["type"] == "tool_result":
            results.append(_result(block, behind, names, traits))
        else:
            behind += parts(block, traits)
    return [*results, {"role": "user", "content": behind}] if behind else results


def _result(block: Json, behind: list[Json], names: Names, traits: Traits) -> Json:
    texts = []
    for part in result_parts(block, names, traits):
        texts.append(part["text"]) if part["type"] == "text" else behind.append(part)
    text = "\n".join(texts)
    if block.get("is_error"):
        text = f"Error: {text}"
    name = call_id(block["tool_use_id"], short=traits.short_call_ids)
    return {"role": "tool", "tool_call_id": name, "content": text}


def result_parts(block: Json, names: Names, traits: Traits) -> Iterator[Json]:
    """The content of a tool's result as parts of a message."""
    for one in blocks(block.get("content") or []):
        if one["type"] == "tool_reference":
            found = names.to(one["tool_name"])
            yield {"type": "text", "text": f"The tool {found} can be used now."}
        else:
            yield from parts(one, traits)


def parts(block: Json, traits: Traits) -> list[Json]:
    """A block of a user's turn as parts of a message."""
    kind, source = block["type"], block.get("source") or {}
    form = source.get("type") if isinstance(source, dict) else None
    if kind == "text":
        return [{"type": "text", "text": block["text"]}]
    if kind == "image" and traits.vision and form in ("url", "base64"):
        url = source["url"] if form == "url" else _data(source)
        return [{"type": "image_url", "image_url": {"url": url}}]
    if kind == "document" and form == "text":
        return [{"type": "text", "text": "\n".join([*titled(block), source["data"]])}]
    if kind == "document" and form == "base64":
        name = block.get("title") or "document.pdf"
        return [{"type": "file", "file": {"filename": name, "file_data": _data(source)}}]
    if kind == "document" and form == "content":
        return [part for one in blocks(source["content"]) for part in parts(one, traits)]
    if kind == "search_result":
        texts = [one["text"] for one in block["content"]]
        return [{"type": "text", "text": "\n".join([*titled(block), *texts])}]
    raise untold(kind)


def titled(block: Json) -> list[str]:
    """The line above a document's text, if it has a title."""
    return [block["title"]] if block.get("title") else []


def _data(source: Json) -> str:
    return f"data:{source['media_type']};base64,{source['data']}"


def untold(kind: str) -> InvalidRequest:
    """What is wrong with a block of that type."""
    return InvalidRequest(f"This model cannot be told a block of type {kind!r}.")


def _answered(messages: list[Json]) -> list[Json]:
    """The messages with every call answered right behind it, as Chat demands.

    A call without its result gets one that says so; a result without its call becomes the user's
    text.
    """
    told: list[Json] = []
    due: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] in due:
                due.remove(message["tool_call_id"])
            else:
                text = f"Result of an earlier call: {message['content']}"
                told += _missing(due)
                due = []
                message = {"role": "user", "content": text}
        else:
            told += _missing(due)
            due = [call["id"] for call in message.get("tool_calls") or ()]
        told.append(message)
    return told + _missing(due)


def _missing(due: list[str]) -> list[Json]:
    return [{"role": "tool", "tool_call_id": one, "content": "(no result)"} for one in due]
