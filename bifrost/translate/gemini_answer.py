"""Answers of Gemini's generateContent, whole ones and errors, as Anthropic's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from bifrost.translate import chat_answer
from bifrost.translate.chat_answer import completed, decoded, guessed, message, tool_use
from bifrost.translate.chat_request import Names
from bifrost.translate.gemini_request import SIGNED, signed

Json = dict[str, Any]

_STOPS = {
    **{"STOP": "end_turn", "MAX_TOKENS": "max_tokens", "CONTINUATION": "max_tokens"},
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "MODEL_ARMOR",
         "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION",
         "PUP_LIMITED_DISABLED"),
        "refusal",
    ),
}  # fmt: skip
_STATUSES = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400,
             "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404,
             "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}  # fmt: skip
_TOO_LONG = re.compile(r"input token count.*(?:exceeds|supports)", re.I | re.S)
# What names the gateway's account there, which is none of the client's business.
_ACCOUNT = re.compile(
    r"\b(?:projects?|organizations?|folders|billingAccounts)[/=][\w.:-]*\w|"
    r"\bproject(?:[ _](?:number|id))?[: ]+['\"`]?[\w.:-]*\d[\w.:-]*\b|"
    r"\bresource project [\w.:-]*\w|\bAIza[\w-]{10,}|[\w.-]+@[\w.-]+\.gserviceaccount\.com"
)
_encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct, gc=False):
    """What of a part is looked at."""

    text: Any = None
    thought: Any = None
    functionCall: Any = None
    thoughtSignature: Any = None


class Content(msgspec.Struct, gc=False):
    """What a candidate says."""

    parts: list[Part] | None = None


class Candidate(msgspec.Struct, gc=False):
    """One answer."""

    content: Content | None = None
    finishReason: Any = None

    def parts(self) -> Iterable[Part]:
        """Its parts, which need not be there."""
        return (self.content.parts if self.content is not None else None) or ()


def call_of(part: Part, names: Names) -> tuple[Json, str]:
    """(the block of a call, its signature as the client carries it). Signatures of other parts than
    calls are dropped: Gemini does not ask for them, and on any other part than their own it would
    refuse them."""
    call, signature = part.functionCall, part.thoughtSignature
    block = tool_use({"id": call.get("id"), "function": call}, names)
    carried = signed(signature, block["id"]) if signature else ""
    return block | {"input": call.get("args") or {}}, carried


def redacted(signature: str) -> Json:
    """The block that carries the signature of a call without thoughts before it."""
    return {"type": "redacted_thinking", "data": signature}


def blocked(told: Json) -> str | None:
    """Why an answer holds no candidate: its prompt was refused."""
    reason = (told.get("promptFeedback") or {}).get("blockReason")
    return "SAFETY" if reason and not told.get("candidates") else None


def stop_reason(told: str, *, called: bool) -> str | None:
    """Anthropic's reason; None where Gemini gave its answer up, as for a call it garbled."""
    found = _STOPS.get(told)
    return "tool_use" if called and found == "end_turn" else found


def given_up(reason: str) -> Json:
    """The error of an answer that Gemini gave up."""
    return {"type": "api_error", "message": f"The model could not finish its answer: {reason}."}


def counted(told: Json | None, input_estimate: int, output_bytes: int) -> Json:
    """The host's usage in Anthropic's disjoint buckets, in tokens.

    What the host did not count, or counts as nothing although it is there, is guessed by size.
    """
    guess = guessed(input_estimate, output_bytes)
    if not told:
        return guess
    cached, thought = (told.get(f"{kind}TokenCount") or 0 for kind in ("cachedContent", "thoughts"))
    fresh = max(0, (told.get("promptTokenCount") or 0) - cached)
    used = fresh + (told.get("toolUsePromptTokenCount") or 0)
    shown = {
        "input_tokens": used,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": (told.get("candidatesTokenCount") or 0) + thought,
        "output_tokens_details": {"thinking_tokens": thought},
    }
    return completed(shown, guess, counts_input=bool(told.get("promptTokenCount")))


def answer(
    status: int, body: bytes, model: str, names: Names, input_estimate: int
) -> tuple[int, bytes]:
    """(status, body) of a whole answer or an error for the client, who asked for ``model``."""
    try:
        told = decoded(body)
    except ValueError:
        told = {}
    refused = blocked(told) if status < 400 and isinstance(told, dict) else None
    if status >= 400 or not isinstance(told, dict) or not (told.get("candidates") or refused):
        status, error = failure(status if status >= 400 else 502, told)
        return status, _encode({"type": "error", "error": error})
    candidate = {"finishReason": refused} if refused else told["candidates"][0]
    blocks = _blocks(msgspec.convert(candidate, Candidate), names)
    called = any(block["type"] == "tool_use" for block in blocks)
    said = candidate.get("finishReason") or "STOP"
    reason = stop_reason(said, called=called)
    if reason is None:
        return 502, _encode({"type": "error", "error": given_up(said)})
    size = len(_encode(blocks)) if blocks else 0
    used = counted(told.get("usageMetadata"), input_estimate, size)
    whole = message(told.get("responseId"), model, used)
    return status, _encode(whole | {"content": blocks, "stop_reason": reason})


def _blocks(candidate: Candidate, names: Names) -> list[Json]:
    blocks: list[Json] = []
    last = ""
    for part in candidate.parts():
        kind = "tool_use" if part.functionCall else "thinking" if part.thought else "text"
        if part.functionCall:
            call, signature = call_of(part, names)
            if signature and last == "thinking":
                blocks[-1]["signature"] = signature
            elif signature:
                blocks.append(redacted(signature))
            blocks.append(call)
        elif not part.text:
            continue
        elif kind == last:
            blocks[-1][kind] += part.text
        else:
            block = {"type": kind, kind: part.text}
            blocks.append(block | {"signature": SIGNED} if kind == "thinking" else block)
        last = kind
    return blocks


def masked(body: bytes) -> bytes:
    """An error as its host told it, without the names of the gateway's account there."""
    return _ACCOUNT.sub("(hidden)", body.decode("utf-8", "replace")).encode()


def failure(status: int, told: object) -> tuple[int, Json]:
    """(status, error) in Anthropic's words; a prompt that is too long makes an agent compact."""
    told = told[0] if isinstance(told, list) and told else told
    status, error = chat_answer.failure(status, told)
    text = _ACCOUNT.sub("(hidden)", error["message"])
    if status == 400 and _TOO_LONG.search(text) and not text.startswith("prompt is too long"):
        text = f"prompt is too long: {text}"
    return status, error | {"message": text}


def broken(told: Json) -> Json:
    """The error of a stream that a host ends with one."""
    error = told.get("error")
    error = error if isinstance(error, dict) else {}
    code = error.get("code")
    if not isinstance(code, int) or not 400 <= code < 600:
        code = _STATUSES.get(str(error.get("status")), 500)
    return failure(code, told)[1]
