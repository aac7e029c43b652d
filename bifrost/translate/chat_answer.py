"""Answers of OpenAI Chat Completions backends for Anthropic clients, whole or streamed."""

from __future__ import annotations

from typing import Any

import msgspec

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use",
          "function_call": "tool_use", "content_filter": "refusal"}  # fmt: skip
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error",
          403: "permission_error", 404: "not_found_error", 413: "request_too_large",
          429: "rate_limit_error", 529: "overloaded_error"}  # fmt: skip
_SIGNATURE = "bifrost-chat"  # never sent back: thinking is dropped on the way there
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Json = dict[str, Any]


def usage(told: Json) -> Json:
    """Chat's usage in Anthropic's disjoint buckets, in tokens."""
    prompt = told.get("prompt_tokens_details") or {}
    read, wrote = prompt.get("cached_tokens") or 0, prompt.get("cache_write_tokens") or 0
    thought = (told.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": max(0, (told.get("prompt_tokens") or 0) - read - wrote),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": wrote,
        "output_tokens": told.get("completion_tokens") or 0,
        "output_tokens_details": {"thinking_tokens": thought},
    }


def answer(status: int, body: bytes, model: str) -> tuple[int, bytes]:
    """(status, body) of a whole answer or an error for the client, who asked for ``model``."""
    try:
        told = _decode(body)
    except msgspec.DecodeError:
        told = {}
    if status >= 400 or not isinstance(told, dict) or not told.get("choices"):
        return _error(status if status >= 400 else 502, told)
    choice = told["choices"][0]
    said = choice["message"]
    blocks: list[Json] = []
    thought = said.get("reasoning_content") or said.get("reasoning")
    if thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": _SIGNATURE})
    text = said.get("content") or said.get("refusal")
    if text:
        blocks.append({"type": "text", "text": text})
    for call in said.get("tool_calls") or ():
        given = call["function"]
        blocks.append({"type": "tool_use", "id": call["id"], "name": given["name"],
                       "input": _decode(given.get("arguments") or "{}")})  # fmt: skip
    message = _message(told.get("id") or "", model, usage(told.get("usage") or {}))
    stop = "refusal" if said.get("refusal") else _STOPS.get(choice["finish_reason"], "end_turn")
    return status, _encode(message | {"content": blocks, "stop_reason": stop})


def _message(name: str, model: str, used: Json) -> Json:
    return {"id": f"msg_{name}", "type": "message", "role": "assistant", "model": model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": used}  # fmt: skip


def _error(status: int, told: Any) -> tuple[int, bytes]:
    error = told.get("error") if isinstance(told, dict) else None
    error = error if isinstance(error, dict) else {}
    text = str(error.get("message") or "The provider gave no reason.")
    if error.get("code") == "context_length_exceeded":
        status, text = 400, f"prompt is too long: {text}"
    status = 529 if status == 503 else status
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return status, _encode({"type": "error", "error": {"type": kind, "message": text}})
