"""Answers of OpenAI's Responses, whole ones and errors, as Anthropic's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from bifrost.translate import chat_answer
from bifrost.translate.chat_answer import decoded, failure, message, tool_input, tool_use
from bifrost.translate.chat_request import Names
from bifrost.translate.responses_request import Reasoning
from bifrost.translate.translation import Traits

Json = dict[str, Any]

# Reasoning that cannot go back to its host; the field must not be empty.
UNSEALED = "bifrost-responses"
PARTS = "\n\n"  # between the parts of a summary
# Codes of failures that asking again does not mend.
_ASKED = re.compile(r"invalid_prompt|policy|misalign|data_residency|image")
_encode = msgspec.json.Encoder().encode


def usage(told: Json) -> Json:
    """Responses' usage in Anthropic's disjoint buckets, in tokens."""
    return chat_answer.usage(_in_chat(told), Traits())


def counted(told: Json | None, input_estimate: int, output_bytes: int) -> Json:
    """``usage``; what the host did not count is guessed by size."""
    return chat_answer.counted(_in_chat(told or {}), Traits(), input_estimate, output_bytes)


def _in_chat(told: Json) -> Json:
    """A usage by the names of Chat, which counts the same: caches in the input, thoughts in the
    output."""
    return {
        "prompt_tokens": told.get("input_tokens"),
        "prompt_tokens_details": told.get("input_tokens_details"),
        "completion_tokens": told.get("output_tokens"),
        "completion_tokens_details": told.get("output_tokens_details"),
    }


def stop_reason(response: Json, *, called: bool, refused: bool) -> str:
    """Anthropic's reason for the end of a response.

    Raises ValueError for one that its host did not finish.
    """
    status = response.get("status") or "completed"
    if status == "incomplete":
        why = (response.get("incomplete_details") or {}).get("reason")
        told = "content_filter" if why == "content_filter" else "length"
    else:
        told = "stop" if status == "completed" else "error"
    return chat_answer.stop_reason(told, called=called, refused=refused)


def failed(error: object) -> tuple[int, Json]:
    """(status, error) for what a host says of a response that failed."""
    told = error if isinstance(error, dict) else {"error": error}
    if _ASKED.search(str(told.get("code"))):
        told = {**told, "status": 400}
    return chat_answer.given_up(told)


def answer(
    status: int, body: bytes, asked: str, model: str | None, names: Names, input_estimate: int
) -> tuple[int, bytes]:
    """(status, body) of a whole answer or an error for the client, who asked for ``asked``.

    ``model``: the host's name of the model, which reasoning is kept for; None: it is not shown.
    """
    try:
        told = decoded(body)
    except ValueError:
        told = {}
    whole = isinstance(told, dict) and isinstance(told.get("output"), list)
    if status >= 400 or not whole or told.get("status") == "failed":
        if status < 400 and whole:
            status, error = failed(told.get("error"))
        else:
            status, error = failure(status if status >= 400 else 502, told)
        return status, _encode({"type": "error", "error": error})
    said = _blocks(told["output"], model, names)
    used = counted(told.get("usage"), input_estimate, len(_encode(said)) if said else 0)
    reason = stop_reason(
        told,
        called=any(block["type"] == "tool_use" for block in said),
        refused=any(refuses(item) for item in told["output"]),
    )
    made = message(told.get("id"), asked, used)
    return status, _encode(made | {"content": said, "stop_reason": reason})


def _blocks(items: list[Json], model: str | None, names: Names) -> list[Json]:
    """The blocks of items; none for what this gateway asks no host for."""
    made: list[Json] = []
    for item, behind in zip(items, [*items[1:], {}], strict=False):
        kind = item["type"]
        if kind == "reasoning" and model is not None:
            text, seal = summary(item), sealed(item, model, behind.get("phase"))
            if text:
                made.append({"type": "thinking", "thinking": text, "signature": seal or UNSEALED})
            elif seal:
                made.append(redacted(seal))
        elif kind == "message":
            made += [{"type": "text", "text": text} for text in texts(item) if text]
        elif kind == "function_call":
            made.append(call(item, names) | {"input": tool_input(item.get("arguments") or "{}")})
    return made


def texts(item: Json) -> Iterator[str]:
    """What the parts of a message say, refusals too."""
    for part in item["content"]:
        yield part.get("text") or part.get("refusal") or ""


def call(item: Json, names: Names) -> Json:
    """The block that a call begins, its input still empty."""
    return tool_use({"id": item.get("call_id"), "function": {"name": item["name"]}}, names)


def summary(item: Json) -> str:
    """What a reasoning item shows; the reasoning itself where a host shows that instead."""
    return PARTS.join(part["text"] for part in item.get("summary") or item.get("content") or ())


def sealed(item: Json, model: str, phase: str | None) -> str | None:
    """A reasoning item for its way to the client and back; None if its host would not know it.

    ``phase``: of the message behind it.
    """
    if not item.get("encrypted_content") or not item.get("id"):
        return None
    return Reasoning(item["id"], item["encrypted_content"], model, phase).sealed()


def redacted(seal: str) -> Json:
    """The block of reasoning that shows nothing."""
    return {"type": "redacted_thinking", "data": seal}


def refuses(item: Json) -> bool:
    """Whether an item is a message that holds a refusal."""
    parts = item["content"] if item["type"] == "message" else ()
    return any(part["type"] == "refusal" for part in parts)
