"""Anthropic requests in the words of Chat Completions, checked as strictly as OpenAI does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_chat import AnthropicChat
from bifrost.translate.translation import Traits

SAMPLES = sorted((Path(__file__).parent / "samples").glob("claude-*.json"))
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
ROLES = {"system", "user", "assistant", "tool"}
KEYS = {
    "model", "messages", "max_completion_tokens", "max_tokens", "stop", "temperature", "top_p",
    "reasoning_effort", "response_format", "tools", "tool_choice", "parallel_tool_calls", "stream",
    "stream_options",
}  # fmt: skip


def translated(traits: Traits | None = None, max_tokens: int | None = None, **asked: Any) -> Any:
    """The Chat request for a Messages request, checked."""
    whole = {"model": "claude-x", "max_tokens": 100, "messages": [user("Hi")], **asked}
    body = json.dumps(whole).encode()
    made = AnthropicChat(body, "gpt-x", max_tokens=max_tokens, traits=traits or Traits())
    wanted = json.loads(made.body)
    checked(wanted)
    return wanted


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [text(b) if isinstance(b, str) else b for b in blocks]}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(name: str, **given_: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": given_}


def result(name: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{name}", "content": content, **more}


def checked(wanted: dict[str, Any]) -> None:
    """What OpenAI refuses: unknown keys, bad names, calls that are not answered at once."""
    assert wanted.keys() <= KEYS
    due: set[str] = set()
    for message in wanted["messages"]:
        assert message["role"] in ROLES
        if message["role"] == "tool":
            assert isinstance(message["content"], str)
            due.remove(message["tool_call_id"])
            continue
        assert not due, "a call has no answer"
        calls = message.get("tool_calls", [])
        due = {call["id"] for call in calls}
        assert len(due) == len(calls)
        for call in calls:
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", call["function"]["name"])
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
        content = message["content"]
        assert content is not None or calls
        for part in content if isinstance(content, list) else ():
            assert part["type"] in ("text", "image_url", "file") and part["type"] in part
    assert not due, "a call has no answer"
    for tool in wanted.get("tools", ()):
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool["function"]["name"])
        assert tool["function"].keys() <= {"name", "description", "parameters", "strict"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_claude_code_sends_can_be_told(sample: Path) -> None:
    """The bodies of the real client: system turns, deferred tools, thinking, cache marks."""
    traits = Traits(reasons=True)
    asked = json.loads(sample.read_bytes())
    made = AnthropicChat(sample.read_bytes(), "gpt-x", max_tokens=None, traits=traits)
    wanted = json.loads(made.body)
    checked(wanted)
    assert b"cache_control" not in made.body and b"billing-header" not in made.body
    assert len(wanted["tools"]) == len(asked["tools"])
    assert wanted["stream_options"] == {"include_usage": True}


def test_system_turns_stay_in_their_place() -> None:
    late = {"role": "system", "content": [text("Late.")]}
    billing = text("x-anthropic-billing-header: cc_version=1;")
    wanted = translated(system=[billing, text("You.")], messages=[user("Hi"), late])
    assert [(m["role"], m["content"]) for m in wanted["messages"]] == [
        ("system", "You."),
        ("user", [text("Hi")]),
        ("system", "Late."),
    ]


def test_results_come_first_and_their_images_behind() -> None:
    """Chat's tool messages hold text only: a screenshot must not be lost."""
    asked = [
        user("Look."),
        {"role": "assistant", "content": [text("Yes."), use("a"), use("b", path="x")]},
        user(
            text("And?"),
            result("a", [text("seen"), {"type": "image", "source": PIXEL}]),
            result("b", "boom", is_error=True),
        ),
    ]
    _, call, first, second, behind = translated(messages=asked)["messages"]
    assert [one["function"]["arguments"] for one in call["tool_calls"]] == ["{}", '{"path":"x"}']
    assert (first["tool_call_id"], first["content"]) == ("toolu_a", "seen")
    assert (second["tool_call_id"], second["content"]) == ("toolu_b", "Error: boom")
    assert [part["type"] for part in behind["content"]] == ["text", "image_url"]
    assert behind["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_call_without_its_result_and_a_result_without_its_call() -> None:
    asked = [
        {"role": "assistant", "content": [use("a"), use("b")]},
        user(result("b", "late"), result("z", "lost")),
    ]
    wanted = translated(messages=asked)["messages"]
    assert [m["role"] for m in wanted] == ["assistant", "tool", "tool", "user"]
    assert wanted[2]["content"] == "(no result)"
    assert "lost" in wanted[3]["content"]


def test_a_found_tool_is_named() -> None:
    found = {"type": "tool_reference", "tool_name": "mcp__gw__echo"}
    asked = [{"role": "assistant", "content": [use("s")]}, user(result("s", [found]))]
    assert "mcp__gw__echo" in translated(messages=asked)["messages"][1]["content"]


def test_a_found_tool_is_named_as_the_host_knows_it() -> None:
    dotted = {"name": "files.read", "input_schema": {"type": "object"}}
    found = {"type": "tool_reference", "tool_name": "files.read"}
    turns = [{"role": "assistant", "content": [use("s")]}, user(result("s", [found]))]
    wanted = translated(messages=turns, tools=[dotted])
    assert wanted["tools"][0]["function"]["name"] in wanted["messages"][1]["content"]


@pytest.mark.parametrize("name", ["functions.Bash:0", "x" * 65])
def test_ids_that_chat_does_not_take(name: str) -> None:
    turns = [{"role": "assistant", "content": [use(name)]}, user(result(name, "ok"))]
    call, answer = translated(messages=turns)["messages"]
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", answer["tool_call_id"])


def test_names_that_chat_does_not_take_come_back() -> None:
    long, dotted = "mcp__" + "x" * 70, "files.read"
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in (long, dotted)]
    asked = {"model": "c", "max_tokens": 9, "messages": [user("Hi")], "tools": tools}
    made = AnthropicChat(json.dumps(asked).encode(), "g", max_tokens=None, traits=Traits())
    told = [tool["function"]["name"] for tool in json.loads(made.body)["tools"]]
    checked(json.loads(made.body))
    calls = [
        {"id": f"c.{n}", "type": "function", "function": {"name": name, "arguments": ""}}
        for n, name in enumerate(told)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    whole = {"id": "1", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    _, body = made.answer(200, json.dumps(whole).encode())
    blocks = json.loads(body)["content"]
    assert [block["name"] for block in blocks] == [long, dotted]
    assert [(block["id"], block["input"]) for block in blocks] == [("c_0", {}), ("c_1", {})]


@pytest.mark.parametrize(
    ("traits", "asked", "says"),
    [
        ({}, {}, {"max_completion_tokens": 100}),
        ({"legacy_limit": True}, {}, {"max_tokens": 100}),
        ({"max_output": 50}, {}, {"max_completion_tokens": 50}),
        ({}, {"temperature": 0.5, "top_p": 1}, {"temperature": 0.5, "top_p": 1}),
        ({"sampling": False}, {"temperature": 0.5}, {"temperature": None}),
        ({"reasons": True}, {"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasons": True}, {"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        (
            {"reasons": True, "extra_high": True},
            {"output_config": {"effort": "max"}},
            {"reasoning_effort": "xhigh"},
        ),
        ({}, {"output_config": {"effort": "low"}}, {"reasoning_effort": None}),
        (
            {"reasons": True},
            {"thinking": {"type": "enabled", "budget_tokens": 31_999}},
            {"reasoning_effort": "high"},
        ),
        ({}, {"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_what_is_asked_for(traits: Any, asked: Any, says: dict[str, Any]) -> None:
    wanted = translated(Traits(**traits), **asked)
    assert {name: wanted.get(name) for name in says} == says


def test_a_lowered_limit_wins() -> None:
    assert translated(max_tokens=7)["max_completion_tokens"] == 7


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "t"}, {"type": "function", "function": {"name": "t"}}),
    ],
)
def test_tool_choices(choice: Any, says: Any) -> None:
    tools = [{"name": "t", "input_schema": {"type": "object"}, "cache_control": {"type": "x"}}]
    choice["disable_parallel_tool_use"] = True
    wanted = translated(tools=tools, tool_choice=choice)
    assert wanted["tool_choice"] == says and wanted["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"stop_sequences": list("abcde")}, "at most 4"),
        ({"messages": [user({"type": "container_upload", "file_id": "f"})]}, "container_upload"),
        ({"messages": [{"role": "user"}]}, "not a Messages request"),
    ],
)
def test_what_cannot_be_told_is_refused(asked: Any, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        translated(**asked)


def test_a_body_nested_without_end_is_refused() -> None:
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InvalidRequest):
        AnthropicChat(body, "g", max_tokens=None, traits=Traits())


def test_an_image_for_a_model_without_eyes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        translated(Traits(vision=False), messages=[user({"type": "image", "source": PIXEL})])


def test_documents() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    blocks = [{"type": "document", "source": pdf}, {"type": "document", "source": plain}]
    file, words = translated(messages=[user(*blocks)])["messages"][0]["content"]
    assert file["file"]["file_data"] == "data:application/pdf;base64,JVBERi0="
    assert words == text("words")


names = st.sampled_from(["a", "b", "c.d", "e" * 80])
results = st.builds(lambda name, said: result(name, said), names, st.text(max_size=9))
calls = st.builds(lambda name, n: use(name, n=n), names, st.integers())
texts = st.builds(text, st.text(max_size=9))
users = st.lists(st.one_of(results, texts), min_size=1, max_size=5).map(
    lambda blocks: {"role": "user", "content": blocks}
)
assistants = st.lists(st.one_of(calls, texts), min_size=1, max_size=4).map(
    lambda blocks: {
        "role": "assistant",
        "content": [
            {**block, "id": f"{block['id']}_{n}"} if "id" in block else block
            for n, block in enumerate(blocks)
        ],
    }
)


@given(st.lists(st.one_of(users, assistants), min_size=1, max_size=8))
def test_any_conversation_becomes_one_that_chat_takes(messages: list[Any]) -> None:
    translated(messages=messages)
