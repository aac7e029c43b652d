"""A Gemini request in the words of Anthropic's Messages (types of google-genai 3.6).

The door has put every member under its one JSON name, and the path's model and whether to stream
beside them. Dropped by rule: what Messages has no word for (``safetySettings``, ``labels``,
``store``, seeds, penalties, log probabilities, ``mediaResolution``), thoughts that were not
sealed here, sampling where the model thinks. Refused: what Google runs or keeps.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_request import Names
from bifrost.translate.foreign_thinking import is_foreign
from bifrost.translate.gemini_schema import form, parameters, schema
from bifrost.translate.gemini_turns import Conversation, text
from bifrost.translate.translation import Traits

Json = dict[str, Any]

USUAL_LIMIT = 32_000  # output tokens, where nobody names a limit
LEAST_BUDGET = 1_024  # tokens of thinking; Claude takes no fewer
_EFFORTS = {"LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh"}
_BUDGETS = {"LOW": 2_048, "MEDIUM": 8_192, "HIGH": 24_576, "XHIGH": 32_768}  # tokens
_NONE = "MINIMAL"
_MARK = {"type": "ephemeral"}
_ONLY_JSON = "Answer with one JSON value and nothing else: no sentence around it, no code fence."
_encode = msgspec.json.Encoder().encode


def request(asked: Json, model: str, names: Names, max_tokens: int | None, traits: Traits) -> Json:
    """The Messages request; ``max_tokens`` instead of the client's own limit.

    Raises InvalidRequest for what Claude cannot be told.
    """
    for field in ("cachedContent", "continuationToken"):
        if asked.get(field):
            raise InvalidRequest(f"{field}: it is kept at Google; send the whole input.")
    config = asked.get("generationConfig") or {}
    turns = Conversation(asked["contents"], names, traits).turns
    limits = [
        one for one in (max_tokens or config.get("maxOutputTokens"), traits.max_output) if one
    ]
    wanted: Json = {"model": model, "max_tokens": min(limits, default=USUAL_LIMIT)}
    wanted |= _tools(asked, turns, names, traits)
    shape, sentence = _form(config)
    system = _system(asked, sentence)
    if system:
        wanted["system"] = system
    wanted["messages"] = turns
    _mark(wanted)
    wanted |= _thinking(config, wanted, traits)
    if shape:
        wanted.setdefault("output_config", {})["format"] = shape
    if traits.sampling and "thinking" not in wanted:
        wanted |= _sampling(config)
    stops = [stop for stop in config.get("stopSequences") or () if stop.strip()]
    if stops:
        wanted["stop_sequences"] = stops
    return wanted | {"stream": True} if asked.get("stream") else wanted


def _system(asked: Json, sentence: str | None) -> list[Json]:
    told = asked.get("systemInstruction") or {}
    texts = [part.get("text") or "" for part in told.get("parts") or ()]
    return [text(one) for one in (*texts, sentence or "") if one.strip()]


def _mark(wanted: Json) -> None:
    """Marks what stays from turn to turn for Claude's cache, at most two places."""
    for stable in (wanted.get("system"), wanted.get("tools")):
        if stable:
            stable[-1] = {**stable[-1], "cache_control": _MARK}
            break
    last = wanted["messages"][-1]["content"]
    last[-1] = {**last[-1], "cache_control": _MARK}


def _tools(asked: Json, turns: list[Json], names: Names, traits: Traits) -> Json:
    """The tools and the choice; those of old calls where none is offered, as Claude demands."""
    tools: dict[str, Json] = {}
    for number, tool in enumerate(asked.get("tools") or ()):
        for kind, given in tool.items():
            if kind != "functionDeclarations" and given is not None:
                raise InvalidRequest(f"tools[{number}].{kind}: only Google can run this.")
        for function in tool.get("functionDeclarations") or ():
            told = _tool(function, names)
            tools[told["name"]] = told
    calling = (asked.get("toolConfig") or {}).get("functionCallingConfig") or {}
    mode = calling.get("mode") or "AUTO"
    allowed = [names.to(name) for name in calling.get("allowedFunctionNames") or ()]
    if allowed and mode in ("ANY", "VALIDATED"):
        tools = {name: tool for name, tool in tools.items() if name in allowed}
        if not tools:
            raise InvalidRequest("toolConfig: none of the allowed functions is declared.")
    if not tools:
        called = {name: {"name": name, "input_schema": parameters(None)} for name in _called(turns)}
        tools, mode = called, "NONE"
    if not tools:
        return {}
    wanted: Json = {"tools": list(tools.values())}
    if mode == "NONE":
        return wanted | {"tool_choice": {"type": "none"}}
    if mode == "ANY" and traits.forced_tools:
        only = {"type": "tool", "name": next(iter(tools))}
        return wanted | {"tool_choice": only if len(allowed) == 1 else {"type": "any"}}
    return wanted


def _called(turns: list[Json]) -> list[str]:
    blocks = (block for turn in turns for block in turn["content"])
    return [block["name"] for block in blocks if block["type"] == "tool_use"]


def _tool(given: Json, names: Names) -> Json:
    shape = given.get("parametersJsonSchema") or given.get("parameters")
    try:
        told: Json = {"name": names.to(given["name"]), "input_schema": parameters(shape)}
    except ValueError as error:
        raise InvalidRequest(f"The function {given['name']!r}: {error}.") from None
    if given.get("description"):
        told["description"] = given["description"]
    return told


def _form(config: Json) -> tuple[Json | None, str | None]:
    """(the form of the answer, or a sentence that asks for it) where one is wanted."""
    texts = [one["text"] for one in config.get("responseFormat") or () if one.get("text")]
    told: Json = texts[0] if texts else {}
    media = config.get("responseMimeType") or told.get("mimeType") or "text/plain"
    media = "application/json" if media == "APPLICATION_JSON" else media
    given = config.get("responseJsonSchema") or config.get("responseSchema") or told.get("schema")
    if media == "text/x.enum":
        values = ", ".join(str(one) for one in (given or {}).get("enum") or ())
        return None, f"Answer with one of these values and nothing else: {values}"
    if media != "application/json" and not given:
        return None, None
    if not given:
        return None, _ONLY_JSON
    shape = form(given)
    if shape is not None and shape.get("type") == "object":
        return {"type": "json_schema", "schema": shape}, None
    said = _encode(schema(given)).decode()
    return None, f"{_ONLY_JSON} It must fit this JSON Schema: {said}"


def _thinking(config: Json, wanted: Json, traits: Traits) -> Json:
    """How hard to think; Claude does not think where it is made to call a tool."""
    asked = config.get("thinkingConfig") or {}
    level, budget = asked.get("thinkingLevel"), asked.get("thinkingBudget")
    forced = (wanted.get("tool_choice") or {}).get("type") in ("any", "tool")
    thinks = traits.adaptive or traits.reasons
    if not thinks or not asked or forced or level == _NONE or budget == 0:
        return {}
    shown = {"display": "summarized"} if asked.get("includeThoughts") else {}
    if traits.adaptive:
        effort = _EFFORTS.get(level or "") or _effort(budget)
        if effort == "xhigh" and not traits.extra_high:
            effort = "high"
        told: Json = {"thinking": {"type": "adaptive", **shown}}
        return told | {"output_config": {"effort": effort}} if effort else told
    wish = _BUDGETS.get(level or "") or max(budget or 0, 0) or _BUDGETS["MEDIUM"]
    tokens = min(wish, wanted["max_tokens"] // 2)
    if tokens < LEAST_BUDGET or not _thought(wanted["messages"]):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def _effort(budget: int | None) -> str | None:
    """How hard to think for a budget in tokens; none for one that the model may choose."""
    if not budget or budget < 0:
        return None
    return next((_EFFORTS[name] for name in _BUDGETS if budget <= _BUDGETS[name]), "high")


def _thought(turns: list[Json]) -> bool:
    """Whether a model that thinks by a budget may: it refuses earlier calls without thoughts."""
    if turns[-1]["content"][0]["type"] != "tool_result":
        return True
    first = turns[-2]["content"][0]
    foreign = is_foreign(first["type"], first.get("signature"), first.get("data"))
    return "thinking" in first["type"] and not foreign


def _sampling(config: Json) -> Json:
    """One of temperature and topP, within Claude's bounds, and topK."""
    told: Json = {}
    if config.get("temperature") is not None:
        told["temperature"] = min(1, config["temperature"])
    elif config.get("topP") is not None:
        told["top_p"] = config["topP"]
    if config.get("topK"):
        told["top_k"] = int(config["topK"])
    return told
