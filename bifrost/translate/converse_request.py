"""A Messages request in the words of Bedrock's Converse (botocore's ``bedrock-runtime``, 1.44.8).

Dropped by rule: ``cache_control`` where the model takes no cache points, thinking of earlier turns
for models that are not Claude's (and what others signed, for Claude), the volatile billing line of
Claude Code, ``metadata``, ``strict``, ``disable_parallel_tool_use``, ``top_k`` and ``thinking`` but
for Claude, context edits, a forced choice of tools where the model knows none. Refused: what only
Claude's own service runs or holds, what lies at a URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.translate.chat_request import BILLING, Names, blocks, effort, refuse_held
from bifrost.translate.converse_families import Family, family
from bifrost.translate.converse_tools import NO_CALLS, Marks, tool_config
from bifrost.translate.converse_turns import Conversation
from bifrost.translate.translation import Traits

Json = dict[str, Any]

STOPPED_BY = "/stop_sequence"  # where a model's own answer says which sequence ended it
_SAMPLING = {"temperature": "temperature", "top_p": "topP"}
# Betas of Claude's that change what Converse carries.
_BETAS = frozenset({
    "context-1m-2025-08-07", "fine-grained-tool-streaming-2025-05-14",
    "interleaved-thinking-2025-05-14",
})  # fmt: skip
# High would have no output limit on Nova: what it costs could not be reserved.
_NOVA_EFFORTS = {"low": "low"}
_OSS_EFFORTS = {"xhigh": "high"}
_FORM = "Answer with one JSON value and nothing else, of this JSON Schema: "
_encode = msgspec.json.Encoder().encode


def request(
    asked: Json,
    model: str,
    names: Names,
    max_tokens: int | None,
    traits: Traits,
    betas: Sequence[str] = (),
) -> Json:
    """The Converse request for a Messages request; ``max_tokens`` lowers the client's own limit.

    Raises InvalidRequest for what the model cannot be told.
    """
    refuse_held(asked, model)
    kind = family(model)
    marks = Marks(kind.marks if traits.caches else frozenset(), hour=kind.hour)
    told = Conversation(asked["messages"], names, traits, kind, marks)
    if asked.get("cache_control"):
        told.turns[-1]["content"] += marks.behind(asked, "messages")
    forced = traits.forced_tools
    config, silent = tool_config(asked, told.called, names, kind, marks, forced=forced)
    system = _system(asked, marks)
    form = (asked.get("output_config") or {}).get("format") or {}
    schema = _encode(form["schema"]).decode() if form.get("type") == "json_schema" else None
    if silent:
        system.append({"text": NO_CALLS})
    if schema is not None and not traits.structured:
        system.append({"text": _FORM + schema})
    wanted: Json = {"messages": told.turns}
    if system:
        wanted["system"] = system
    wanted["inferenceConfig"] = _inference(asked, max_tokens, traits)
    if config:
        wanted["toolConfig"] = config
    if asked.get("stop_sequences"):
        wanted["additionalModelResponseFieldPaths"] = [STOPPED_BY]
    output: Json = {}
    if schema is not None and traits.structured:
        named = {"schema": schema, "name": "answer"}
        output["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": named}}
    hard = (
        (asked.get("output_config") or {}).get("effort") if kind.claude else effort(asked, traits)
    )
    if hard and kind.claude:
        output["effort"] = hard
    if output:
        wanted["outputConfig"] = output
    more = _additional(asked, hard, kind, traits, betas)
    return wanted | {"additionalModelRequestFields": more} if more else wanted


def _system(asked: Json, marks: Marks) -> list[Json]:
    told: list[Json] = []
    for block in blocks(asked.get("system") or []):
        text = block["text"]
        if text.strip() and not text.startswith(BILLING):
            told += [{"text": text}, *marks.behind(block, "system")]
    return told


def _inference(asked: Json, max_tokens: int | None, traits: Traits) -> Json:
    config: Json = {}
    limits = [one for one in (asked.get("max_tokens"), max_tokens, traits.max_output) if one]
    if limits:
        config["maxTokens"] = min(limits)
    if traits.sampling:
        known = {name: asked[key] for key, name in _SAMPLING.items() if asked.get(key) is not None}
        config |= known
    stops = [stop for stop in asked.get("stop_sequences") or () if stop]
    return config | {"stopSequences": stops} if stops else config


def _additional(
    asked: Json, hard: str | None, kind: Family, traits: Traits, betas: Sequence[str]
) -> Json:
    """What a model takes beyond Converse's own words, in its maker's."""
    if kind.claude:
        more: Json = {"thinking": asked["thinking"]} if asked.get("thinking") else {}
        if traits.sampling and asked.get("top_k") is not None:
            more["top_k"] = asked["top_k"]
        known = [beta for beta in dict.fromkeys(betas) if beta in _BETAS]
        return more | {"anthropic_beta": known} if known else more
    if not hard:
        return {}
    if kind.effort == "reasoning_config":
        level = _NOVA_EFFORTS.get(hard, "medium")
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
    if kind.effort == "reasoning_effort":
        return {"reasoning_effort": _OSS_EFFORTS.get(hard, hard)}
    return {"reasoning": {"effort": hard}} if kind.effort == "reasoning" else {}
