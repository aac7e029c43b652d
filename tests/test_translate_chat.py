"""Anthropic requests in the words of OpenAI Chat Completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_chat import request
from bifrost.translate.translation import Traits

TOOL = {"name": "Bash", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}


def chat(traits: Traits | None = None, **asked: Any) -> Any:
    body = {"model": "claude-x", "max_tokens": 9, "messages": [], **asked}
    return json.loads(request(json.dumps(body).encode(), "gpt", max_tokens=None,
                              traits=traits or Traits()))  # fmt: skip


def test_system_without_the_billing_block() -> None:
    blocks = [{"type": "text", "text": t} for t in ("x-anthropic-billing-header: 1", "a", "b")]
    later = {"role": "system", "content": "later"}
    assert chat(system=blocks, messages=[later])["messages"] == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "system", "content": "later"},
    ]


def test_results_come_first_and_their_images_behind() -> None:
    image = {"type": "image",
             "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}  # fmt: skip
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    thought = {"type": "thinking", "thinking": "?", "signature": "s"}
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True,
              "content": [{"type": "text", "text": "no"}, image]}  # fmt: skip
    said = {"type": "text", "text": "go on"}
    turns = [{"role": "assistant", "content": [thought, call]},
             {"role": "user", "content": [result, said]}]  # fmt: skip
    assistant, tool, user = chat(messages=turns)["messages"]
    assert assistant["content"] is None
    assert assistant["tool_calls"][0]["function"] == {"name": "Bash", "arguments": "{}"}
    assert tool == {"role": "tool", "tool_call_id": "t1", "content": "Error: no"}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]


@pytest.mark.parametrize(
    ("choice", "told"),
    [({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none"),
     ({"type": "tool", "name": "Bash"}, {"type": "function", "function": {"name": "Bash"}})],
)  # fmt: skip
def test_tool_choice(choice: Any, told: Any) -> None:
    asked = chat(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert asked["tool_choice"] == told and asked["parallel_tool_calls"] is False
    assert asked["tools"] == [
        {"type": "function", "function": {"name": "Bash", "parameters": {"type": "object"}}}
    ]


def test_limits_effort_and_usage_of_streams() -> None:
    asked = chat(Traits(reasons=True, legacy_limit=True, max_output=5), stream=True,
                 output_config={"effort": "max"}, stop_sequences=["x"])  # fmt: skip
    assert asked["max_tokens"] == 5 and asked["reasoning_effort"] == "xhigh"
    assert asked["stop"] == ["x"] and asked["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "asked",
    [{"tools": [{"type": "web_search_20260101", "name": "web_search"}]},
     {"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]},
     {"messages": None}],
)  # fmt: skip
def test_what_chat_cannot_be_told_is_refused(asked: Any) -> None:
    with pytest.raises(InvalidRequest):
        chat(**asked)
