"""Answers of Chat Completions backends as Anthropic clients see them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bifrost.translate.chat_answer import answer

USAGE = {"prompt_tokens": 100, "completion_tokens": 7,
         "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
         "completion_tokens_details": {"reasoning_tokens": 3}}  # fmt: skip


def told(finish: str, **said: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "choices": [choice], "usage": USAGE}
    status, shown = answer(200, json.dumps(body).encode(), "claude-x")
    assert status == 200
    return json.loads(shown)


def test_thought_text_call_and_disjoint_usage() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "Bash", "arguments": ""}}
    shown = told("tool_calls", content="hi", reasoning_content="hm", tool_calls=[call])
    assert [block["type"] for block in shown["content"]] == ["thinking", "text", "tool_use"]
    assert shown["content"][2]["input"] == {} and shown["stop_reason"] == "tool_use"
    assert shown["model"] == "claude-x"
    assert shown["usage"] == {
        "input_tokens": 10, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30,
        "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")],
)
def test_stop_reasons(finish: str, stop: str) -> None:
    assert told(finish, content="x")["stop_reason"] == stop


def test_refusal() -> None:
    shown = told("stop", content=None, refusal="I will not.")
    assert shown["stop_reason"] == "refusal" and shown["content"][0]["text"] == "I will not."


@pytest.mark.parametrize(
    ("status", "code", "kept", "kind"),
    [(400, "context_length_exceeded", 400, "invalid_request_error"),
     (429, None, 429, "rate_limit_error"), (503, None, 529, "overloaded_error")],
)  # fmt: skip
def test_errors(status: int, code: str | None, kept: int, kind: str) -> None:
    body = json.dumps({"error": {"message": "No.", "code": code}}).encode()
    found, shown = answer(status, body, "claude-x")
    error = json.loads(shown)["error"]
    assert (found, error["type"]) == (kept, kind)
    assert error["message"].startswith("prompt is too long: ") == bool(code)
