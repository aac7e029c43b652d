"""A Responses request as a Messages request (types of openai 3.57 and anthropic 2.12).

Dropped by rule: ``web_search`` tools and the calls of them (they run at OpenAI), ``strict`` (Claude
takes few strict tools, of smaller schemas), reasoning of other models, and the fields that Claude
has no word for: ``store``, ``include``, ``prompt_cache_key``, ``client_metadata``, ``metadata``,
``service_tier``, ``truncation``, ``text.verbosity`` and their like. Refused: what only OpenAI keeps
or runs. Marked for Claude's cache: the end of the system prompt and of the user's last two turns.
"""

from __future__ import annotations

from typing import Any

from bifrost.errors import InvalidRequest
from bifrost.translate.messages_tools import ToolNames, chosen, tools
from bifrost.translate.messages_turns import Conversation
from bifrost.translate.translation import Traits

Json = dict[str, Any]

OUTPUT = 32_000  # tokens of an answer where neither the client nor the catalogue says how many
_HELD = {
    "previous_response_id": "no response is kept here; send the whole input with store: false",
    "conversation": "no conversation is kept here; send the whole input with store: false",
    "prompt": "prompt templates are kept at OpenAI; send instructions and input",
    "background": "an answer comes at once; send background: false",
}
_EFFORTS = {"none": None, "minimal": None, "low": "low", "medium": "medium", "high": "high",
            "xhigh": "max", "max": "max"}  # fmt: skip
_MARK = {"type": "ephemeral"}
_MOST_USER_ID = 256  # characters
_ONLY_JSON = "Answer with one JSON object and nothing else: no sentence around it, no code fence."


def request(
    asked: Json, model: str, names: ToolNames, max_tokens: int | None, traits: Traits
) -> Json:
    """The Messages request; ``max_tokens`` lowers the client's own limit.

    Raises InvalidRequest for what Claude cannot be told.
    """
    for field, remedy in _HELD.items():
        if asked.get(field):
            raise InvalidRequest(f"{field}: {remedy}.")
    given = asked.get("input") or []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    asked = _updated(asked, items)
    offered = tools(asked, items, names)
    told = Conversation(items, names, traits)
    wanted: Json = {"model": model, "max_tokens": _limit(asked, max_tokens, traits)}
    wanted |= _tools(asked, offered, told.turns, names, traits)
    system = _system(asked, told, names)
    if system:
        wanted["system"] = system
    wanted["messages"] = told.turns
    _marked(wanted)
    wanted |= _thinking(asked, wanted.get("tool_choice") or {}, traits)
    form = _format(asked)
    if form:
        wanted.setdefault("output_config", {})["format"] = form
    wanted |= _sampling(asked, traits, thinks="thinking" in wanted)
    if asked.get("safety_identifier"):
        wanted["metadata"] = {"user_id": asked["safety_identifier"][:_MOST_USER_ID]}
    if asked.get("stream"):
        wanted["stream"] = True
    return wanted


def _updated(asked: Json, items: list[Json]) -> Json:
    """The request with the settings that its input changes on the way."""
    for item in items:
        if item.get("type") == "configuration_update":
            settings = [key for key in ("reasoning", "text") if item.get(key)]
            asked = {**asked, **{key: {**(asked.get(key) or {}), **item[key]} for key in settings}}
    return asked


def _limit(asked: Json, max_tokens: int | None, traits: Traits) -> int:
    own = asked.get("max_output_tokens") or traits.max_output or OUTPUT
    return min(one for one in (own, max_tokens, traits.max_output) if one)


def _tools(
    asked: Json, offered: list[Json], turns: list[Json], names: ToolNames, traits: Traits
) -> Json:
    """The tools and the choice; those of old calls where none is offered, as Claude demands."""
    allowed, choice = chosen(asked, offered, names)
    if choice and choice["type"] in ("any", "tool") and not traits.forced_tools:
        choice = {**choice, "type": "auto"}  # of its other fields one may be about parallel calls
        choice.pop("name", None)
    if not allowed:
        allowed = list({tool["name"]: tool for tool in offered or _called(turns)}.values())
        choice = {"type": "none"}
    if not allowed:
        return {}
    return {"tools": allowed, "tool_choice": choice} if choice else {"tools": allowed}


def _called(turns: list[Json]) -> list[Json]:
    return [
        {"name": block["name"], "input_schema": {"type": "object"}}
        for turn in turns
        for block in turn["content"]
        if isinstance(block, dict) and block["type"] == "tool_use"
    ]


def _system(asked: Json, told: Conversation, names: ToolNames) -> list[Json]:
    about = [f"Tools named {name}__…: {text}" for name, text in names.about.items()]
    texts = ["\n".join(about), asked.get("instructions") or "", *told.system]
    if _form(asked).get("type") == "json_object":
        texts.append(_ONLY_JSON)
    return [{"type": "text", "text": text} for text in texts if text.strip()]


def _marked(wanted: Json) -> None:
    """Marks what stays from turn to turn for Claude's cache, at most three places.

    Claude looks for what it has cached in the 20 blocks before a mark: many calls at once are more,
    so the place that was the last one a request ago keeps its mark.
    """
    for stable in (wanted.get("system"), wanted.get("tools")):
        if stable:
            stable[-1] = {**stable[-1], "cache_control": _MARK}
            break
    for turn in wanted["messages"][:-4:-2]:  # the user's
        turn["content"][-1] = {**turn["content"][-1], "cache_control": _MARK}


def _thinking(asked: Json, choice: Json, traits: Traits) -> Json:
    """How hard to think; Claude does not think where it is made to call a tool."""
    reasoning = asked.get("reasoning") or {}
    effort = reasoning.get("effort")
    if effort is not None and effort not in _EFFORTS:
        raise InvalidRequest(f"reasoning.effort: {effort!r} is none of {', '.join(_EFFORTS)}.")
    if not traits.adaptive or not reasoning or effort in ("none", "minimal"):
        return {}
    wanted: Json = {}
    if effort:
        same = effort == "xhigh" and traits.extra_high
        wanted["output_config"] = {"effort": effort if same else _EFFORTS[effort]}
    if choice.get("type") not in ("any", "tool"):
        wanted["thinking"] = {"type": "adaptive"}
        if reasoning.get("summary") or reasoning.get("generate_summary"):
            wanted["thinking"]["display"] = "summarized"
    return wanted


def _form(asked: Json) -> Json:
    return (asked.get("text") or {}).get("format") or {}


def _format(asked: Json) -> Json | None:
    form = _form(asked)
    return {"type": "json_schema", "schema": form["schema"]} if "schema" in form else None


def _sampling(asked: Json, traits: Traits, *, thinks: bool) -> Json:
    """One of temperature and top_p, within Claude's bounds; neither where it thinks."""
    if not traits.sampling or thinks:
        return {}
    if asked.get("temperature") is not None:
        return {"temperature": min(1, asked["temperature"])}
    return {"top_p": asked["top_p"]} if asked.get("top_p") is not None else {}
