"""A Chat request in the words of Anthropic's Messages (types of openai 3.54 and anthropic 2.12).

Dropped by rule: what Messages has no word for (``seed``, penalties, ``logprobs``, ``verbosity``,
``store``, ``metadata``, names of speakers). Refused: what would change the answer if it were lost
(several choices, sound, the old ``functions``), and files that lie at another provider.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_answer import decoded
from bifrost.translate.messages_tools import Tool, ToolNames
from bifrost.translate.translation import Traits

Json = dict[str, Any]

USUAL_LIMIT = 32_000  # output tokens, where nobody names a limit
MOST_STOPS = 8_191
_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_URL = re.compile(r"data:([\w.+/-]+);base64,", re.A)
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_LOST = ("audio", "functions", "function_call", "prediction", "web_search_options")
_MARK = {"cache_control": {"type": "ephemeral"}}


def tool_id(name: str) -> str:
    """A call's id as Messages takes it; the same for the call and its result."""
    return name if _ID.fullmatch(name) else f"toolu_{sha256(name.encode()).hexdigest()[:32]}"


def request(
    asked: Json, model: str, names: ToolNames, max_tokens: int | None, traits: Traits
) -> Json:
    """The Messages request for a Chat request; ``max_tokens`` instead of the client's own limit.

    Raises InvalidRequest for what Claude cannot be told.
    """
    for field in _LOST:
        if asked.get(field):
            raise InvalidRequest(f"{field}: the model {model!r} cannot be asked for this.")
    system, turns = _conversation(asked["messages"], names)
    if not traits.prefill and turns[-1]["role"] == "assistant":
        turns.append({"role": "user", "content": [_text("(go on)")]})
    for turn in turns[:-4:-2]:  # as ``messages_request`` marks them
        turn["content"][-1] |= _MARK
    own = asked.get("max_completion_tokens") or asked.get("max_tokens")
    limit = max_tokens or own or traits.max_output or USUAL_LIMIT
    wanted: Json = {"model": model, "max_tokens": limit, "messages": turns}
    if system:
        system[-1] |= _MARK
        wanted["system"] = system
    stops = asked.get("stop") or ()
    stops = [stops] if isinstance(stops, str) else stops
    if any(stop.strip() for stop in stops):
        wanted["stop_sequences"] = [stop for stop in stops if stop.strip()][:MOST_STOPS]
    if traits.sampling and asked.get("temperature") is not None:
        wanted["temperature"] = min(asked["temperature"], 1)
    elif traits.sampling and asked.get("top_p") is not None:
        wanted["top_p"] = asked["top_p"]
    wanted |= _output(asked, traits)
    if asked.get("tools"):
        wanted |= _tools(asked, names, traits)
    who = asked.get("safety_identifier") or asked.get("user")
    if who:
        wanted["metadata"] = {"user_id": str(who)[:256]}
    if asked.get("stream"):
        wanted["stream"] = True
    return wanted


def _output(asked: Json, traits: Traits) -> Json:
    """How hard to think, and in which form to answer."""
    config: Json = {}
    effort = _EFFORTS.get(asked.get("reasoning_effort") or "")
    wanted: Json = {}
    if effort and traits.adaptive:
        config["effort"] = effort if traits.extra_high or effort != "xhigh" else "high"
        wanted["thinking"] = {"type": "adaptive"}
    form = asked.get("response_format") or {}
    if form.get("type") == "json_schema":
        config["format"] = {"type": "json_schema", "schema": form["json_schema"]["schema"]}
    return wanted | {"output_config": config} if config else wanted


def _tools(asked: Json, names: ToolNames, traits: Traits) -> Json:
    tools = []
    for number, tool in enumerate(asked["tools"]):
        if tool["type"] != "function":
            raise InvalidRequest(f"tools[{number}]: only tools of type 'function' can be told.")
        function = tool["function"]
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        told = {"name": names.add(Tool(function["name"])), "input_schema": schema}
        told |= {key: function[key] for key in ("description", "strict") if function.get(key)}
        tools.append(told)
    wanted: Json = {"tools": tools}
    choice = asked.get("tool_choice")
    if choice is None or choice == "auto":
        told = {"type": "auto"}
    elif choice == "none":
        return wanted | {"tool_choice": {"type": "none"}}
    elif choice == "required":
        told = {"type": "any"}
    elif choice.get("type") == "function":
        told = {"type": "tool", "name": names.add(Tool(choice["function"]["name"]))}
    else:
        raise InvalidRequest("tool_choice: expected auto, none, required or a function.")
    if not traits.forced_tools and told["type"] in ("any", "tool"):
        told = {"type": "auto"}
    if asked.get("parallel_tool_calls") is False:
        told["disable_parallel_tool_use"] = True
    return wanted if told == {"type": "auto"} else wanted | {"tool_choice": told}


def _conversation(messages: list[Json], names: ToolNames) -> tuple[list[Json], list[Json]]:
    """(what leads, the turns): one role after the other, each call answered in the next turn."""
    system: list[Json] = []
    turns: list[Json] = []
    due: list[str] = []
    for number, message in enumerate(messages):
        role, place = message["role"], f"messages[{number}]"
        if role in ("system", "developer"):
            _led(system, turns, _texts(message, place))
        elif role == "assistant":
            due = _said(turns, message, due, names)
        elif role == "tool":
            _result(turns, message, due, place)
        elif role == "user":
            due = _missing(turns, due)
            parts = _parts(message.get("content"), place)
            if parts:
                _turn(turns, "user").extend(parts)
        else:
            raise InvalidRequest(f"{place}: the role {role!r} is not known.")
    _missing(turns, due)
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": system or [_text("(continued)")]})
        system = [] if turns[0]["content"] is system else system
    return system, turns


def _led(system: list[Json], turns: list[Json], texts: list[Json]) -> None:
    """What its developer tells the model: at the beginning, or as the user's word later on."""
    if not turns:
        system += texts
    elif texts:
        _turn(turns, "user").extend(texts)


def _turn(turns: list[Json], role: str) -> list[Json]:
    """The blocks of the last turn, a new one where another role had the word."""
    if not turns or turns[-1]["role"] != role:
        turns.append({"role": role, "content": []})
    blocks: list[Json] = turns[-1]["content"]
    return blocks


def _said(turns: list[Json], message: Json, due: list[str], names: ToolNames) -> list[str]:
    """A turn of the model's; the ids of its calls."""
    _missing(turns, due)
    blocks = _texts(message, "messages")
    calls = message.get("tool_calls") or ()
    for call in calls:
        function = call["function"]
        try:
            given = decoded(function.get("arguments") or "{}")
        except ValueError:
            given = None
        given = given if isinstance(given, dict) else {"arguments": function["arguments"]}
        use = {"type": "tool_use", "id": tool_id(call["id"])}
        blocks.append({**use, "name": names.add(Tool(function["name"])), "input": given})
    if blocks:
        _turn(turns, "assistant").extend(blocks)
    return [tool_id(call["id"]) for call in calls]


def _result(turns: list[Json], message: Json, due: list[str], place: str) -> None:
    name, blocks = tool_id(message["tool_call_id"]), _turn(turns, "user")
    told = _parts(message.get("content"), place)
    if name in due:
        due.remove(name)
        last = sum(block["type"] == "tool_result" for block in blocks)
        blocks.insert(last, {"type": "tool_result", "tool_use_id": name, "content": told})
    else:  # its call is not in what was sent
        blocks += [_text("Result of an earlier call:"), *told]


def _missing(turns: list[Json], due: list[str]) -> list[str]:
    """Answers the calls that got no result, which Claude insists on."""
    for name in due:
        none = [_text("(no result)")]
        block = {"type": "tool_result", "tool_use_id": name, "content": none}
        _turn(turns, "user").insert(0, block)
    return []


def _texts(message: Json, place: str) -> list[Json]:
    """What a message says, where only text is meant."""
    content = message.get("content") or message.get("refusal") or ()
    if isinstance(content, str):
        return [_text(content)]
    said = [part.get("text") or part.get("refusal") for part in content]
    if not all(isinstance(one, str) or one is None for one in said):
        raise InvalidRequest(f"{place}: expected text.")
    return [_text(one) for one in said if one]


def _parts(content: Any, place: str) -> list[Json]:
    if not content or isinstance(content, str):
        return [_text(content)] if content else []
    return [_part(part, place) for part in content if part.get("text") != ""]


def _part(part: Json, place: str) -> Json:
    kind = part["type"]
    if kind == "text":
        return _text(part["text"])
    if kind == "image_url":
        return {"type": "image", "source": source(part["image_url"]["url"])}
    if kind == "file" and part["file"].get("file_data"):
        told = {"type": "document", "source": source(part["file"]["file_data"])}
        name = part["file"].get("filename")
        return told | {"title": name} if name else told
    raise InvalidRequest(f"{place}: a part of type {kind!r} cannot be told to this model.")


def source(url: str) -> Json:
    """Where an image or a document is: in a data: URL, or at an address."""
    found = _URL.match(url)
    if found:
        return {"type": "base64", "media_type": found[1], "data": url[found.end() :]}
    return {"type": "url", "url": url}


def _text(text: str) -> Json:
    return {"type": "text", "text": text}
