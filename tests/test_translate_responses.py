"""Anthropic requests in the words of Responses, checked as strictly as OpenAI does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_responses import AnthropicResponses
from bifrost.translate.responses_request import SEAL, Reasoning, opened
from bifrost.translate.translation import Traits

SAMPLES = sorted((Path(__file__).parent / "samples").glob("claude-*.json"))
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
THINKS = Traits(reasons=True)
KEYS = {
    "model", "input", "instructions", "store", "include", "max_output_tokens", "temperature",
    "top_p", "reasoning", "text", "tools", "tool_choice", "parallel_tool_calls", "stream",
}  # fmt: skip
ITEMS = {
    "message": {"type", "role", "content", "phase"},
    "function_call": {"type", "call_id", "name", "arguments"},
    "function_call_output": {"type", "call_id", "output"},
    "reasoning": {"type", "id", "summary", "encrypted_content"},
}
PARTS = {
    "input_text": [{"type", "text"}],
    "input_image": [{"type", "image_url", "detail"}],
    "input_file": [{"type", "filename", "file_data"}, {"type", "file_url"}],
}


def translated(traits: Traits | None = None, lowered: int | None = None, **asked: Any) -> Any:
    """The Responses request for a Messages request, checked."""
    whole = {"model": "claude-x", "max_tokens": 100, "messages": [user("Hi")], **asked}
    body = json.dumps(whole).encode()
    made = AnthropicResponses(body, "gpt-x", max_tokens=lowered, traits=traits or Traits())
    wanted = json.loads(made.body)
    checked(wanted)
    return wanted


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [text(b) if isinstance(b, str) else b for b in blocks]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return user(*blocks) | {"role": "assistant"}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(name: str, **given_: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": given_}


def result(name: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{name}", "content": content, **more}


def seal(name: str, model: str = "gpt-x", phase: str | None = None) -> str:
    return Reasoning(f"rs_{name}", f"secret of {name}", model, phase).sealed()


def thinking(said: str, signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": said, "signature": signature}


def checked(wanted: dict[str, Any]) -> None:
    """What OpenAI refuses: unknown keys, bad names, calls without an answer, lonely reasoning."""
    assert wanted.keys() <= KEYS
    assert wanted["store"] is False
    assert wanted.get("max_output_tokens", 16) >= 16
    assert wanted.get("reasoning", {"effort": "low"}).keys() <= {"effort", "summary"}
    due: set[str] = set()
    for item, behind in zip(wanted["input"], [*wanted["input"][1:], {}], strict=True):
        kind = item["type"]
        assert item.keys() <= ITEMS[kind]
        if kind == "message":
            checked_message(item)
        elif kind == "reasoning":
            assert item.keys() == ITEMS[kind] and item["id"] and item["encrypted_content"]
            assert all(part.keys() == {"type", "text"} for part in item["summary"])
            leads = behind["type"] in ("reasoning", "function_call")
            assert leads or behind["role"] == "assistant"
        elif kind == "function_call":
            assert item.keys() == ITEMS[kind] and item["call_id"] not in due
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", item["call_id"])
            assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", item["name"])
            assert isinstance(json.loads(item["arguments"]), dict)
            due.add(item["call_id"])
        else:
            due.remove(item["call_id"])
            checked_parts(item["output"])
    assert not due, "a call has no answer"
    checked_tools(wanted)


def checked_message(item: dict[str, Any]) -> None:
    assert item["role"] in ("user", "developer", "assistant")
    assert item.get("phase", "commentary") in ("commentary", "final_answer")
    assert item["content"]
    if item["role"] == "user":
        checked_parts(item["content"])
    else:
        assert isinstance(item["content"], str)
    assert item["role"] == "assistant" or "phase" not in item


def checked_parts(content: Any) -> None:
    for part in [] if isinstance(content, str) else content:
        assert part.keys() in PARTS[part["type"]]
        assert all(isinstance(value, str) for value in part.values())


def checked_tools(wanted: dict[str, Any]) -> None:
    known = set()
    for tool in wanted.get("tools", ()):
        needed = {"type", "name", "parameters", "strict"}
        assert needed <= tool.keys() <= needed | {"description"}
        assert tool["type"] == "function" and tool["strict"] is False
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool["name"])
        assert "properties" in tool["parameters"]
        known.add(tool["name"])
    choice = wanted.get("tool_choice", "auto")
    if isinstance(choice, dict):
        assert choice == {"type": "function", "name": choice["name"]} and choice["name"] in known
    else:
        assert choice in ("auto", "required", "none")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_claude_code_sends_can_be_told(sample: Path) -> None:
    """The bodies of the real client: system turns, deferred tools, thinking, cache marks."""
    asked = json.loads(sample.read_bytes())
    made = AnthropicResponses(sample.read_bytes(), "gpt-x", max_tokens=None, traits=THINKS)
    wanted = json.loads(made.body)
    checked(wanted)
    assert b"cache_control" not in made.body and b"billing-header" not in made.body
    assert len(wanted["tools"]) == len(asked["tools"])
    assert wanted["reasoning"] == {"effort": "medium", "summary": "auto"}
    assert wanted["include"] == ["reasoning.encrypted_content"]
    uses = sample.read_text().count('"type":"tool_use"')
    assert sum(item["type"] == "function_call" for item in wanted["input"]) == uses


def test_system_turns_stay_in_their_place() -> None:
    late = {"role": "system", "content": [text("Late.")]}
    billing = text("x-anthropic-billing-header: cc_version=1;")
    wanted = translated(system=[billing, text("You.")], messages=[user("Hi"), late])
    assert wanted["instructions"] == "You."
    assert [(one["role"], one["content"]) for one in wanted["input"]] == [
        ("user", [{"type": "input_text", "text": "Hi"}]),
        ("developer", "Late."),
    ]
    assert "instructions" not in translated(system=[billing])


def test_results_come_first_with_their_images() -> None:
    asked = [
        user("Look."),
        assistant("Yes.", use("a"), use("b", path="x")),
        user(
            "And?",
            result("a", [text("seen"), {"type": "image", "source": PIXEL}]),
            result("b", [text("boom"), text("bang")], is_error=True),
        ),
    ]
    _, said, first, second, seen, failed, behind = translated(messages=asked)["input"]
    assert (said["role"], said["content"]) == ("assistant", "Yes.")
    assert [first["arguments"], second["arguments"]] == ["{}", '{"path":"x"}']
    assert seen["output"][0] == {"type": "input_text", "text": "seen"}
    assert seen["output"][1]["image_url"] == "data:image/png;base64,iVBORw0KGgo="
    assert (failed["call_id"], failed["output"]) == ("toolu_b", "Error: boom\nbang")
    assert [part["text"] for part in behind["content"]] == ["And?"]


def test_a_failed_result_that_is_an_image() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    asked = [assistant(use("a")), user(result("a", [image], is_error=True))]
    said, shown = translated(messages=asked)["input"][1]["output"]
    assert (said["text"], shown["image_url"]) == ("Error: ", "https://x/y.png")


def test_a_call_without_its_result_and_a_result_without_its_call() -> None:
    asked = [
        assistant(use("a"), use("b")),
        user(result("b", "late"), result("z", "lost"), result("b", "again")),
    ]
    *_, late, missing, lost = translated(messages=asked)["input"]
    assert (late["output"], missing["output"]) == ("late", "(no result)")
    texts = [part["text"] for part in lost["content"]]
    assert texts == [texts[0], "lost", texts[0], "again"]


def test_results_that_come_late_still_stand_behind_their_calls() -> None:
    told = {"role": "system", "content": "Mind."}
    asked = [assistant(use("a")), told, user("Wait."), user(result("a", "done")), assistant("So.")]
    found = [one.get("output") or one.get("role") for one in translated(messages=asked)["input"]]
    assert found == [None, "done", "developer", "user", "assistant"]


def test_a_found_tool_is_named_as_the_host_knows_it() -> None:
    dotted = {"name": "files.read", "input_schema": {"type": "object"}}
    found = {"type": "tool_reference", "tool_name": "files.read"}
    turns = [assistant(use("s")), user(result("s", [found]))]
    wanted = translated(messages=turns, tools=[dotted])
    assert wanted["tools"][0]["name"] in wanted["input"][1]["output"]


@pytest.mark.parametrize("name", ["functions.Bash:0", "x" * 65])
def test_ids_that_the_host_does_not_take(name: str) -> None:
    turns = [assistant(use(name)), user(result(name, "ok"))]
    call, answer = translated(messages=turns)["input"]
    assert call["call_id"] == answer["call_id"]


def test_reasoning_comes_back_in_its_place() -> None:
    asked = [
        assistant(
            thinking("Hm.", seal("a")),
            "Yes.",
            {"type": "redacted_thinking", "data": seal("b")},
            use("t"),
            thinking("Too late.", seal("c")),
        ),
        user(result("t", "ok")),
    ]
    first, said, second, call, _ = translated(THINKS, messages=asked)["input"]
    assert first["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert (first["id"], first["encrypted_content"]) == ("rs_a", "secret of a")
    assert (said["content"], second["summary"], call["name"]) == ("Yes.", [], "t")


def test_the_phase_of_a_message_comes_back() -> None:
    before = thinking("Hm.", seal("a", phase="commentary"))
    turns = [assistant(before, "Let me see.", use("t"), "Odd.")]
    items = translated(THINKS, messages=turns)["input"]
    assert [one.get("phase") for one in items if one.get("role")] == ["commentary", None]


@pytest.mark.parametrize(
    "signature",
    [
        seal("a", model="gpt-y"),
        "bifrost-chat",
        "EqQBCgIYAhIM",
        SEAL,
        SEAL + "bm8=",
        SEAL + "\u00e9",
        None,
        7,
        SEAL + "W" * 9_999,
    ],
)
def test_what_another_signed_is_dropped(signature: Any) -> None:
    asked = [
        assistant(thinking("Hm.", signature), {"type": "redacted_thinking", "data": signature}, "x")
    ]
    assert len(translated(THINKS, messages=asked)["input"]) == 1


def test_a_model_that_does_not_reason_gets_no_reasoning() -> None:
    asked = [assistant(thinking("Hm.", seal("a")), "So.")]
    assert len(translated(messages=asked)["input"]) == 1


EFFORT = {"output_config": {"effort": "low"}}
REASONS = {"reasons": True}
BOTH = {"effort": "low", "summary": "auto"}


@pytest.mark.parametrize(
    ("traits", "asked", "says"),
    [
        ({}, {}, {"max_output_tokens": 100, "stream": None, "include": None, "reasoning": None}),
        ({"max_output": 50}, {}, {"max_output_tokens": 50}),
        ({}, {"max_tokens": 1}, {"max_output_tokens": 16}),
        ({}, {"max_tokens": 0}, {"max_output_tokens": 16}),
        ({}, {"temperature": 0.5, "top_p": 1}, {"temperature": 0.5, "top_p": 1}),
        ({"sampling": False}, {"temperature": 0.5}, {"temperature": None}),
        ({}, EFFORT, {"reasoning": None, "include": None}),
        (REASONS, {}, {"reasoning": None, "include": None}),
        (REASONS, EFFORT, {"reasoning": BOTH, "include": ["reasoning.encrypted_content"]}),
        (REASONS, {"thinking": {"type": "adaptive"}}, {"reasoning": {"summary": "auto"}}),
        (
            REASONS,
            {**EFFORT, "thinking": {"type": "disabled"}},
            {"reasoning": {"effort": "low"}, "include": None},
        ),
        (
            REASONS,
            {"thinking": {"type": "enabled", "budget_tokens": 31_999}},
            {"reasoning": {"effort": "high", "summary": "auto"}},
        ),
        (
            {**REASONS, "extra_high": True},
            {"output_config": {"effort": "max"}},
            {"reasoning": {"effort": "xhigh", "summary": "auto"}},
        ),
        ({}, {"stream": True}, {"stream": True}),
        (
            {},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "answer",
                        "schema": {"type": "object"},
                    }
                }
            },
        ),
    ],
)
def test_what_is_asked_for(traits: Any, asked: Any, says: dict[str, Any]) -> None:
    wanted = translated(Traits(**traits), **asked)
    assert {name: wanted.get(name) for name in says} == says


def test_a_lowered_limit_wins() -> None:
    assert translated(lowered=70)["max_output_tokens"] == 70


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "t.t"}, None),
    ],
)
def test_tool_choices(choice: Any, says: Any) -> None:
    tools = [{"name": "t.t", "input_schema": {"type": "object"}, "cache_control": {"type": "x"}}]
    wanted = translated(tools=tools, tool_choice=choice | {"disable_parallel_tool_use": True})
    named = {"type": "function", "name": wanted["tools"][0]["name"]}
    assert wanted["tool_choice"] == says or (says is None and wanted["tool_choice"] == named)
    assert wanted["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"stop_sequences": ["a"]}, "stop_sequences"),
        ({"messages": [user({"type": "container_upload", "file_id": "f"})]}, "container_upload"),
        ({"messages": [assistant({"type": "server_tool_use"})]}, "server_tool_use"),
        ({"messages": []}, "messages: "),
        ({"messages": [assistant("", thinking("Hm.", "x"))]}, "messages: "),
        ({"messages": [{"role": "user"}]}, "not a Messages request"),
        ({"messages": [user({"type": "image", "source": {"type": "file"}})]}, "image"),
    ],
)
def test_what_cannot_be_told_is_refused(asked: Any, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        translated(**asked)


def test_a_body_nested_without_end_is_refused() -> None:
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InvalidRequest):
        AnthropicResponses(body, "g", max_tokens=None, traits=Traits())


def test_an_image_for_a_model_without_eyes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        translated(Traits(vision=False), messages=[user({"type": "image", "source": PIXEL})])


def test_documents() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    far = {"type": "url", "url": "https://x/y.pdf"}
    blocks = [{"type": "document", "source": one} for one in (pdf, plain, far)]
    file, words, linked = translated(messages=[user(*blocks)])["input"][0]["content"]
    assert file["file_data"] == "data:application/pdf;base64,JVBERi0="
    assert words == {"type": "input_text", "text": "words"}
    assert linked["file_url"] == "https://x/y.pdf"


ids = st.sampled_from(["a", "b", "c.d", "e" * 80])
said = st.text(max_size=9)
results = st.builds(result, ids, st.one_of(said, st.just([{"type": "image", "source": PIXEL}])))
calls = st.builds(lambda name, n: use(name, n=n), ids, st.integers())
seals = st.one_of(said, st.builds(seal, said.filter(bool)))
thoughts = st.builds(thinking, said, seals)
texts = st.builds(text, said)
users = st.lists(st.one_of(results, texts), min_size=1, max_size=5).map(lambda one: user(*one))
assistants = st.lists(
    st.one_of(calls, texts, thoughts),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.get("id", id(one)),
).map(lambda one: assistant(*one))


@given(st.lists(st.one_of(users, assistants), min_size=1, max_size=8))
def test_any_conversation_becomes_one_that_the_host_takes(messages: list[Any]) -> None:
    translated(THINKS, messages=[user("Hi"), *messages])


@given(said, said, said, st.one_of(st.none(), said))
def test_what_is_sealed_can_be_opened(
    name: str, secret: str, model: str, phase: str | None
) -> None:
    kept = Reasoning(name, secret, model, phase)
    assert opened(kept.sealed()) == kept
