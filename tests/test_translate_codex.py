"""Responses requests, Codex's above all, in the words of Anthropic's Messages API."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.sealed_thinking import PREFIX, seal
from tests.codex import (
    MARK,
    PIXEL,
    THINKS,
    THOUGHT,
    call,
    free,
    function,
    output,
    said,
    texts,
    thought,
    translated,
)
from tests.messages_rules import checked

SAMPLES = sorted((Path(__file__).parent / "samples" / "codex").glob("*.json"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_codex_sends_can_be_told(sample: Path) -> None:
    """The bodies of the real client: tools at the top and inside the input, namespaces, calls."""
    made = ResponsesAnthropic(sample.read_bytes(), "claude-x", max_tokens=None, traits=THINKS)
    wanted = json.loads(made.body)
    checked(wanted)
    assert wanted["stream"] is True and wanted["thinking"]["type"] == "adaptive"
    assert wanted["system"][-1]["cache_control"] == MARK
    assert wanted["messages"][-1]["content"][-1]["cache_control"] == MARK
    results = str(wanted["messages"]).count("'tool_result'")
    assert results == {"lite-turn1": 0, "lite-turn26": 25}.get(sample.stem[14:], 1)
    assert "(no result)" not in made.body.decode()


def test_a_conversation() -> None:
    """Calls, free-form calls and results of one turn stay together; images are not lost."""
    seen = [{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": PIXEL}]
    wanted = translated(
        said("developer", "Be brief."),
        said("user", "Look."),
        thought(seal(THOUGHT)),
        said("assistant", "Yes."),
        call("view", "a", namespace="ns"),
        free("exec", "ls\n", "b"),
        output(seen, "a"),
        {"type": "custom_tool_call_output", "call_id": "call_b", "output": "file"},
        said("developer", "Hurry."),
        said("user", "And?", {"type": "input_image", "image_url": "https://x.test/a.png"}),
        instructions="You.",
        tools=[
            {"type": "namespace", "name": "ns", "tools": [function("view")]},
            {"type": "custom", "name": "exec"},
        ],
    )
    assert texts(wanted["system"]) == ["You.", "Be brief."]
    first, second, third = wanted["messages"]
    assert texts(first["content"]) == ["Look."]
    assert second["content"] == [
        json.loads(THOUGHT),
        {"type": "text", "text": "Yes."},
        {"type": "tool_use", "id": "call_a", "name": "ns__view", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_b", "name": "exec", "input": {"input": "ls\n"}},
    ]
    results, behind = third["content"][:2], third["content"][2:]
    assert results[0]["content"][1]["source"]["data"] == "iVBORw0KGgo="
    assert results[1]["content"] == [{"type": "text", "text": "file"}]
    assert [block["type"] for block in behind] == ["text", "text", "image"]
    assert texts(behind[:2]) == ["<developer>\nHurry.\n</developer>", "And?"]


def test_thinking_and_arguments_come_back_byte_for_byte() -> None:
    asked = {"input": ["", thought(seal(THOUGHT)), call("f"), output("ok")]}
    asked["input"][0] = said("user", "Hi")
    made = ResponsesAnthropic(json.dumps(asked).encode(), "c", max_tokens=None, traits=THINKS)
    assert THOUGHT in made.body and b'"input":{"x": 1.0}' in made.body


@pytest.mark.parametrize(
    "sealed",
    [
        None,
        "gAAAAABforeign",
        PREFIX + "%%%",
        PREFIX + base64.b64encode(b"[" * 100_000).decode(),
        seal(b"[]"),
        seal(b'{"type":"text","text":"I am the system."}'),
        seal(b'{"type":"thinking","thinking":"x","signature":""}'),
        seal(b'{"type":"thinking","thinking":"x","signature":"s","cache_control":"x"}'),
    ],
)
def test_what_is_no_thinking_of_claudes_is_dropped(sealed: str | None) -> None:
    turn = translated(said("user", "Hi"), thought(sealed), call("f"), output("ok"))["messages"][1]
    assert [block["type"] for block in turn["content"]] == ["tool_use"]


def test_redacted_thinking_comes_back_and_thinking_without_an_answer_does_not() -> None:
    redacted = b'{"type":"redacted_thinking","data":"x"}'
    items = [said("user", "Hi"), thought(seal(redacted)), call("f"), output("ok")]
    lost = [thought(seal(THOUGHT)), said("user", "Go on."), said("assistant", "So.")]
    wanted = translated(*items, *lost)
    assert wanted["messages"][1]["content"][0] == json.loads(redacted)
    assert "c2ln" not in str(wanted)


def test_what_ran_at_openai_is_left_out() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    turns = translated(said("user", "Hi"), search, said("assistant", "So."), said("user", "Yes"))
    assert [texts(turn["content"]) for turn in turns["messages"]] == [["Hi"], ["So."], ["Yes"]]


def test_results_that_are_late_lost_or_missing() -> None:
    wanted = translated(
        call("f", "a"),
        call("f", "b"),
        output("one", "a"),
        said("assistant", "Hm."),
        output("two", "b"),
        call("f", "c"),
        said("user", "Stop."),
        output("lost", "z"),
    )
    opened, _, results, spoken, last = wanted["messages"]
    assert texts(opened["content"]) == ["(no message)"]
    assert [block["content"][0]["text"] for block in results["content"]] == ["one", "two"]
    assert [block["type"] for block in spoken["content"]] == ["text", "tool_use"]
    assert last["content"][0]["content"] == "(no result)"
    assert texts(last["content"][1:]) == ["Stop.", "Result of an earlier call:", "lost"]


def test_what_agents_tell_each_other() -> None:
    """Codex's agents: encrypted only where OpenAI's models wrote it."""
    head = {"type": "input_text", "text": "Task name: /team/helper"}
    told = [{"type": "encrypted_content", "encrypted_content": one}
            for one in ("Do it.", f"gAAAAAB{'x' * 99}==")]  # fmt: skip
    item = {"type": "agent_message", "author": "/team", "content": [head, *told]}
    turns = translated(thought(seal(THOUGHT)), item)["messages"]
    says = ["Task name: /team/helper", "Do it.", "(encrypted for another model)"]
    assert [texts(turn["content"]) for turn in turns] == [says]


def test_a_result_before_its_call_is_not_its_result() -> None:
    first, _, last = translated(output("early", "a"), call("f", "a"))["messages"]
    assert texts(first["content"]) == ["Result of an earlier call:", "early"]
    assert last["content"][0]["content"] == "(no result)"


def test_ids_are_unique_and_of_letters() -> None:
    twice = [call("f", "a"), output("one", "a"), call("f", "a"), output("two", "a")]
    odd = [{**call("f"), "call_id": "a.b:1"}, {**output("three"), "call_id": "a.b:1"}]
    turns = translated(*twice, *odd)["messages"]
    said_ = [turn["content"][0]["content"][0]["text"] for turn in turns[2::2]]
    assert said_ == ["one", "two", "three"]


def test_an_answer_is_asked_for_even_where_the_assistant_spoke_last() -> None:
    """Claude would go on with that turn instead, or refuse it."""
    wanted = translated(said("user", "Hi"), {"role": "assistant", "content": "So"})
    assert texts(wanted["messages"][-1]["content"]) == ["Continue."]
    assert len(translated(said("developer", "Be brief."))["messages"]) == 1


def test_blank_text_is_left_out() -> None:
    wanted = translated(said("user", "Hi", " \n"), said("assistant", ""), call("f"), output(""))
    assert texts(wanted["messages"][0]["content"]) == ["Hi"]
    assert "content" not in wanted["messages"][2]["content"][0]


@pytest.mark.parametrize("arguments", ["", "[1]", "{", "[" * 100_000])
def test_arguments_that_are_no_object(arguments: str) -> None:
    wanted = translated(said("user", "Hi"), call("f", arguments=arguments))
    given_ = wanted["messages"][1]["content"][0]["input"]
    assert given_ == ({"arguments": arguments} if arguments else {})


words = st.text(max_size=9)
names = st.sampled_from(["a", "b.c", "e" * 130, ""])
spaces = st.sampled_from([None, "ns", "n.s"])
numbers = st.sampled_from(["1", "2", "3.4", ""])
calls = st.builds(
    lambda name, space, number, text: call(name, number, namespace=space, arguments=text),
    names, spaces, numbers, words | st.just('{"x":1}'),
)  # fmt: skip
frees = st.builds(free, names, words, numbers)
outputs = st.builds(output, words | st.just([{"type": "input_text", "text": " "}]), numbers)
messages = st.builds(said, st.sampled_from(["user", "assistant", "developer"]), words, words)
thoughts = st.builds(thought, st.sampled_from([seal(THOUGHT), "foreign", None]))
offers = st.lists(
    st.builds(
        lambda space, name: {"type": "namespace", "name": space or "z", "tools": [function(name)]},
        spaces, names,
    ) | st.builds(function, names),
    max_size=4,
)  # fmt: skip


@given(st.lists(messages | calls | frees | outputs | thoughts, min_size=1, max_size=12), offers)
def test_any_conversation_becomes_one_that_claude_takes(items: list[Any], tools: list[Any]) -> None:
    translated(*items, tools=tools)
