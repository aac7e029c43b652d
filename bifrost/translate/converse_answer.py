"""Answers of Bedrock's Converse, whole ones and errors, as Anthropic's."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

import msgspec

from bifrost.translate import bedrock_answer
from bifrost.translate.chat_answer import completed, decoded, guessed, message, tool_use
from bifrost.translate.chat_request import Names
from bifrost.translate.converse_turns import SIGNED

Json = dict[str, Any]

_STOPS = {
    "max_tokens": "max_tokens", "stop_sequence": "stop_sequence",
    "guardrail_intervened": "refusal", "content_filtered": "refusal",
    "model_context_window_exceeded": "model_context_window_exceeded",
}  # fmt: skip
_GIVEN_UP = ("malformed_model_output", "malformed_tool_use")
_encode = msgspec.json.Encoder().encode


def stop_reason(told: object, *, called: bool) -> str:
    """Anthropic's reason for one of Converse's."""
    found = _STOPS.get(str(told))
    if found is not None:
        return found
    return "tool_use" if called else "end_turn"


def stopped_by(fields: object) -> str | None:
    """The stop sequence that ended an answer, where the model said which."""
    found = fields.get("stop_sequence") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def given_up(told: object) -> str | None:
    """What is said of an answer that the model could not finish; it was made, and is paid."""
    return f"(The model gave its answer up: {told}.)" if told in _GIVEN_UP else None


def counted(told: object, input_estimate: int, output_bytes: int) -> Json:
    """The host's usage in Anthropic's disjoint buckets, in tokens; ``inputTokens`` has no cached
    ones in it. What the host did not count, or counts as nothing, is guessed by size."""
    guess = guessed(input_estimate, output_bytes)
    if not isinstance(told, dict) or not told:
        return guess
    read, wrote = (_count(told.get(f"cache{kind}InputTokens")) for kind in ("Read", "Write"))
    kept: dict[object, int] = {}
    for detail in told.get("cacheDetails") or ():
        kept[detail.get("ttl")] = kept.get(detail.get("ttl"), 0) + _count(detail.get("inputTokens"))
    wrote = max(wrote, sum(kept.values()))
    hour = kept.get("1h", 0)
    fresh = _count(told.get("inputTokens"))
    used = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": wrote,
        "cache_creation": {
            "ephemeral_5m_input_tokens": wrote - hour, "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": _count(told.get("outputTokens")),
    }  # fmt: skip
    return completed(used, guess, counts_input=bool(fresh or read or wrote))


def _count(told: object) -> int:
    return told if isinstance(told, int) and told > 0 else 0


def answer(
    status: int, body: bytes, model: str, names: Names, input_estimate: int, *, claude: bool
) -> tuple[int, bytes]:
    """(status, body) of a whole answer or an error for the client, who asked for ``model``.

    ``claude``: it was Claude, whose signatures hold. Raises what is in SENSELESS for what is no
    answer.
    """
    if status >= 400:
        return bedrock_answer.answer(status, body)
    told = decoded(body)
    blocks = [
        block
        for part in told["output"]["message"]["content"]
        if (block := _block(part, names, claude=claude)) is not None
    ]
    ended = told.get("stopReason")
    why = given_up(ended)
    if why is not None:
        blocks.append({"type": "text", "text": why})
    called = any(block["type"] == "tool_use" for block in blocks)
    used = counted(told.get("usage"), input_estimate, len(_encode(blocks)) if blocks else 0)
    reason = stop_reason(ended, called=called and why is None)
    sequence = stopped_by(told.get("additionalModelResponseFields"))
    whole = message(token_hex(12), model, used)
    ending = {"content": blocks, "stop_reason": reason, "stop_sequence": sequence}
    return status, _encode(whole | ending)


def _block(part: Json, names: Names, *, claude: bool) -> Json | None:
    if part.get("text"):
        return {"type": "text", "text": part["text"]}
    if part.get("toolUse"):
        call = part["toolUse"]
        function = {"id": call.get("toolUseId"), "function": {"name": call["name"]}}
        given = call.get("input")
        given = given if isinstance(given, dict) else {"arguments": given} if given else {}
        return tool_use(function, names) | {"input": given}
    if part.get("citationsContent"):
        said = part["citationsContent"].get("content") or ()
        text = "".join(one.get("text") or "" for one in said)
        return {"type": "text", "text": text} if text else None
    thought = part.get("reasoningContent") or {}
    if thought.get("reasoningText"):
        said = thought["reasoningText"]
        signature = said.get("signature") if claude else None
        if not signature and not said.get("text"):
            return None
        block = {"type": "thinking", "thinking": said.get("text") or ""}
        return block | {"signature": signature or SIGNED}
    if claude and thought.get("redactedContent"):
        return {"type": "redacted_thinking", "data": thought["redactedContent"]}
    return None
