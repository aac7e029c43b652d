"""Claude's whole answers and its errors as Chat Completions has them."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from bifrost.translate.chat_answer import decoded
from bifrost.translate.messages_tools import ToolNames

Json = dict[str, Any]

_REASONS = {"max_tokens": "length", "tool_use": "tool_calls", "refusal": "content_filter",
            "model_context_window_exceeded": "length"}  # fmt: skip
_CODES = {"rate_limit_error": "rate_limit_exceeded", "not_found_error": "model_not_found",
          "authentication_error": "invalid_api_key", "overloaded_error": "server_error",
          "api_error": "server_error", "billing_error": "insufficient_quota"}  # fmt: skip
_encode = msgspec.json.Encoder().encode


def finish_reason(told: str | None) -> str:
    """Chat's reason for one of Claude's."""
    return _REASONS.get(told or "", "stop")


def usage(told: Json) -> Json:
    """Claude's usage, whose buckets are disjoint, as Chat tells it."""
    read = told.get("cache_read_input_tokens") or 0
    wrote = told.get("cache_creation_input_tokens") or 0
    prompt = (told.get("input_tokens") or 0) + read + wrote
    output = told.get("output_tokens") or 0
    thought = (told.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return {
        "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": wrote},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }  # fmt: skip


def completion(status: int, body: bytes, names: ToolNames) -> tuple[int, bytes]:
    """(status, body) for a Chat client, of a Messages answer or an error."""
    try:
        told = decoded(body)
    except ValueError:
        told = {}
    if status >= 400 or not isinstance(told, dict) or told.get("type") != "message":
        status = 503 if status == 529 else status if status >= 400 else 502
        return status, _encode({"error": error(told)})
    said: Json = {"role": "assistant", "content": None, "refusal": None}
    texts, thoughts, calls = [], [], []
    for block in told["content"]:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "thinking":
            thoughts.append(block["thinking"])
        elif block["type"] == "tool_use":
            arguments = _encode(block["input"]).decode()
            function = {"name": names.back(block["name"]).name, "arguments": arguments}
            calls.append({"id": block["id"], "type": "function", "function": function})
    if texts:
        said["content"] = "".join(texts)
    if any(thoughts):
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    reason = finish_reason(told.get("stop_reason"))
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": reason}
    return status, _encode(
        {
            "id": told["id"].replace("msg_", "chatcmpl-", 1), "object": "chat.completion",
            "created": int(time.time()), "model": told["model"], "choices": [choice],
            "usage": usage(told.get("usage") or {}),
        }
    )  # fmt: skip


def error(told: object) -> Json:
    """An error of Claude's in OpenAI's words."""
    found = told.get("error") if isinstance(told, dict) else None
    found = found if isinstance(found, dict) else {}
    kind = str(found.get("type") or "api_error")
    text = str(found.get("message") or "The provider gave no reason.")
    code = "context_length_exceeded" if "prompt is too long" in text else _CODES.get(kind)
    return {"message": text, "type": kind, "param": None, "code": code}
