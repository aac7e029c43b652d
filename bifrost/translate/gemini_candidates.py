"""Claude's whole answers and its errors as Gemini's generateContent has them."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.translate import anthropic_anthropic
from bifrost.translate.chat_answer import decoded
from bifrost.translate.chat_request import Names
from bifrost.translate.gemini_signature import seal

Json = dict[str, Any]

LIMITS = ("max_tokens", "model_context_window_exceeded")
_REASONS = {**dict.fromkeys(LIMITS, "MAX_TOKENS"), "refusal": "SAFETY"}
_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION",
             403: "PERMISSION_DENIED", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT",
             429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 503: "UNAVAILABLE",
             504: "DEADLINE_EXCEEDED"}  # fmt: skip
# By Claude's error, inside of a stream.
_CODES = {"invalid_request_error": 400, "authentication_error": 401, "billing_error": 402,
          "permission_error": 403, "not_found_error": 404, "request_too_large": 413,
          "rate_limit_error": 429, "timeout_error": 504, "overloaded_error": 503}  # fmt: skip
_encode = msgspec.json.Encoder().encode


def encoded(told: Json) -> bytes:
    """An object as Google's clients read it."""
    return one_line(_encode(told))


def one_line(made: bytes) -> bytes:
    """JSON without two characters that JavaScript's clients take for the end of a line."""
    if b"\xe2\x80" in made:
        made = made.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return made


def finish(reason: str | None, details: Json | None) -> Json:
    """How an answer ended, as members of its candidate."""
    told = {"finishReason": _REASONS.get(reason or "", "STOP")}
    why = (details or {}).get("explanation")
    return told | {"finishMessage": why} if why else told


def usage(told: Json) -> Json:
    """Claude's usage, whose buckets are disjoint, as Gemini tells it."""
    read = told.get("cache_read_input_tokens") or 0
    wrote = told.get("cache_creation_input_tokens") or 0
    prompt = (told.get("input_tokens") or 0) + read + wrote
    output = told.get("output_tokens") or 0
    thought = (told.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    shown = {"promptTokenCount": prompt, "candidatesTokenCount": output - thought,
             "totalTokenCount": prompt + output}  # fmt: skip
    if read:
        shown["cachedContentTokenCount"] = read
    return shown | {"thoughtsTokenCount": thought} if thought else shown


def call(block: Json, given: Json, names: Names) -> Json:
    """The part of a call."""
    return {"functionCall": {"id": block["id"], "name": names.back(block["name"]), "args": given}}


def response(content: list[Json], ended: Json, used: Json | None, number: str, model: str) -> Json:
    """A GenerateContentResponse of one candidate with these parts."""
    candidate = {"content": {"parts": content, "role": "model"}, **ended, "index": 0}
    told: Json = {"candidates": [candidate]}
    if used is not None:
        told["usageMetadata"] = usage(used)
    return told | {"modelVersion": model, "responseId": number}


def candidates(
    status: int, body: bytes, names: Names, *, shows_thoughts: bool
) -> tuple[int, bytes]:
    """(status, body) for a Gemini client, of a Messages answer or an error."""
    try:
        told = decoded(body)
    except ValueError:
        told = {}
    if status >= 400 or not isinstance(told, dict) or told.get("type") != "message":
        status = 503 if status == 529 else status if status >= 400 else 502
        return status, _encode({"error": error(told, status)})
    content: list[Json] = []
    thoughts: list[Json] = []
    for block in told["content"]:
        kind = block["type"]
        if kind in ("thinking", "redacted_thinking"):
            thoughts.append(block)
            if shows_thoughts and block.get("thinking"):
                content.append({"text": block["thinking"], "thought": True})
            continue
        if kind == "text" and block["text"]:
            part = {"text": block["text"]}
        elif kind == "tool_use":
            part = call(block, block["input"], names)
        else:
            continue
        content.append(part | {"thoughtSignature": seal(thoughts)} if thoughts else part)
        thoughts = []
    ended = finish(told.get("stop_reason"), told.get("stop_details"))
    used = told.get("usage") or {}
    whole = response(content or [{"text": ""}], ended, used, told["id"], told["model"])
    return status, encoded(whole)


def error(told: object, status: int | None = None) -> Json:
    """An error of Claude's as Google words them; its code follows from its type where ``status``
    is not known."""
    found = told.get("error") if isinstance(told, dict) else None
    found = found if isinstance(found, dict) else {}
    code = status or _CODES.get(str(found.get("type")), 500)
    said = str(found.get("message") or "The provider gave no reason.")
    text = anthropic_anthropic.error(said.encode()).decode()
    kind = _STATUSES.get(code, "INTERNAL" if code >= 500 else "FAILED_PRECONDITION")
    return {"code": code, "message": text, "status": kind}


def broken(told: Json) -> bytes:
    """What ends a stream that broke off: bare, as Google sends it, and its clients look for it."""
    return b'{"error":%b}\n\n' % _encode(error(told))
