"""Responses requests, Codex's above all, in the words of Anthropic's Messages API."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.sealed_thinking import PREFIX, seal
from bifrost.translate.translation import Traits
from tests.messages_rules import checked

SAMPLES = sorted((Path(__file__).parent / "samples").glob("codex-*.json"))
THINKS = Traits(reasons=True, max_output=128_000)
PIXEL = "data:image/png;base64,iVBORw0KGgo="
THOUGHT = b'{"type": "thinking", "signature": "c2ln", "thinking": "h\\u00e9 \\/ hm"}'
MARK = {"type": "ephemeral"}
MOST = {"effort": "max"}


def translated(
    *items: Any, traits: Traits | None = None, max_tokens: int | None = None, **asked: Any
) -> Any:
    """The Messages request for a Responses request, checked."""
    whole = {"model": "gpt-x", "input": list(items) or "Hi", **asked}
    made = ResponsesAnthropic(
        json.dumps(whole).encode(), "claude-x", max_tokens=max_tokens, traits=traits or Traits()
    )
    wanted = json.loads(made.body)
    checked(wanted)
    return wanted


def said(role: str, *parts: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": one} if isinstance(one, str) else one for one in parts]
    return {"type": "message", "role": role, "content": content}


def call(name: str, number: str = "1", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{number}", "name": name,
            "arguments": '{"x": 1.0}', **more}  # fmt: skip


def output(result: Any, number: str = "1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": result}


def free(name: str, text: str, number: str = "1", **more: Any) -> dict[str, Any]:
    return {"type": "custom_tool_call", "call_id": f"call_{number}", "name": name,
            "input": text, **more}  # fmt: skip


def thought(sealed: str | None) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, **more}


def texts(blocks: list[Any]) -> list[str]:
    return [block["text"] for block in blocks]


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


def test_the_beginning_stays_the_same_from_turn_to_turn() -> None:
    """Claude's cache is by prefix."""
    asked = json.loads(next(path for path in SAMPLES if "turn26" in path.stem).read_bytes())
    first, second = ({**asked, "input": asked["input"][:end]} for end in (-2, None))
    before, after = (translated(traits=THINKS, **one) for one in (first, second))
    assert (before["tools"], before["system"]) == (after["tools"], after["system"])
    assert len(after["messages"]) == len(before["messages"]) + 2
    assert before["messages"][-1]["content"][-1].pop("cache_control") == MARK
    assert after["messages"][:-2] == before["messages"]


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
    wanted = translated(*items, thought(seal(THOUGHT)), said("user", "Go on."))
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
    head = {"type": "input_text", "text": "Task name: /root/helper"}
    told = [{"type": "encrypted_content", "encrypted_content": one}
            for one in ("Do it.", f"gAAAAAB{'x' * 99}==")]  # fmt: skip
    item = {"type": "agent_message", "author": "/root", "content": [head, *told]}
    turns = translated(thought(seal(THOUGHT)), item)["messages"]
    says = ["Task name: /root/helper", "Do it.", "(encrypted for another model)"]
    assert [texts(turn["content"]) for turn in turns] == [says]


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


# tools


def test_tools() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    exec_ = {"type": "custom", "name": "exec", "description": "Runs.", "format": grammar}
    deep = "x" * 130
    late = {"type": "additional_tools", "role": "developer", "tools": [exec_, function("f")]}
    wanted = translated(
        late,
        said("user", "Hi"),
        tools=[
            function("f", description="Old."),
            {"type": "namespace", "name": "a", "description": "Of A.", "tools": [function("b")]},
            function("a__b"),
            function(deep),
            function("files.read", parameters=None, strict=True),
            {"type": "web_search", "external_web_access": True},
            {"type": "web_search_preview"},
        ],
    )
    names = [tool["name"] for tool in wanted["tools"]]
    assert names[:2] == ["f", "a__b"] and len(names) == 6
    assert "description" not in wanted["tools"][0]
    assert wanted["tools"][-1]["description"].startswith("Runs.\n\n")
    assert wanted["tools"][-1]["description"].endswith("start: WORD")
    assert wanted["tools"][-1]["input_schema"]["required"] == ["input"]
    assert texts(wanted["system"]) == ["Tools named a__…: Of A."]


def test_old_calls_are_told_where_no_tool_is_offered() -> None:
    """As when Codex asks for a summary; Claude wants the tools of calls to be there."""
    wanted = translated(call("f"), output("ok"), said("user", "Sum up."))
    assert [tool["name"] for tool in wanted["tools"]] == ["f"]
    assert wanted["tool_choice"] == {"type": "none"}
    assert "tool_choice" not in translated(tool_choice="auto", parallel_tool_calls=False)


ONE, TWO = function("one"), {"type": "custom", "name": "two"}


@pytest.mark.parametrize(
    ("choice", "says", "names"),
    [
        ("auto", None, ["one", "two"]),
        ("none", {"type": "none"}, ["one", "two"]),
        ("required", {"type": "any"}, ["one", "two"]),
        ({"type": "function", "name": "one"}, {"type": "tool", "name": "one"}, ["one", "two"]),
        ({"type": "custom", "name": "two"}, {"type": "tool", "name": "two"}, ["one", "two"]),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "two"}]},
            None,
            ["two"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [ONE, {"type": "web_search"}]},
            {"type": "any"},
            ["one"],
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, {"type": "none"}, ["one", "two"]),
    ],
)
def test_tool_choices(choice: Any, says: Any, names: list[str]) -> None:
    wanted = translated(tools=[ONE, TWO], tool_choice=choice)
    assert wanted.get("tool_choice") == says
    assert [tool["name"] for tool in wanted["tools"]] == names
    single = translated(tools=[ONE, TWO], tool_choice=choice, parallel_tool_calls=False)
    if says != {"type": "none"}:
        says = {**(says or {"type": "auto"}), "disable_parallel_tool_use": True}
    assert single["tool_choice"] == says


# what is asked for


@pytest.mark.parametrize(
    ("traits", "asked", "says"),
    [
        ({}, {}, {"max_tokens": 32_000, "stream": None, "metadata": None}),
        ({"max_output": 64_000}, {}, {"max_tokens": 64_000}),
        ({"max_output": 50}, {"max_output_tokens": 100}, {"max_tokens": 50}),
        ({}, {"max_output_tokens": 100}, {"max_tokens": 100}),
        ({}, {"temperature": 1.5, "top_p": 0.5}, {"temperature": 1, "top_p": None}),
        ({}, {"top_p": 0.5}, {"top_p": 0.5}),
        ({"sampling": False}, {"temperature": 0.5}, {"temperature": None}),
        ({}, {"reasoning": {"effort": "low"}}, {"output_config": None, "thinking": None}),
        (
            {"reasons": True},
            {"reasoning": {"effort": "high", "summary": "auto"}, "temperature": 0.5},
            {"output_config": {"effort": "high"},
             "thinking": {"type": "adaptive", "display": "summarized"}, "temperature": None},
        ),
        ({"reasons": True}, {"reasoning": {"effort": "none"}}, {"thinking": None}),
        ({"reasons": True}, {"reasoning": {"effort": "minimal"}}, {"output_config": None}),
        ({"reasons": True}, {"reasoning": {"effort": "xhigh"}}, {"output_config": MOST}),
        (
            {"reasons": True, "extra_high": True},
            {"reasoning": {"effort": "xhigh"}},
            {"output_config": {"effort": "xhigh"}},
        ),
        (
            {"reasons": True},
            {"reasoning": {"effort": "low"}, "tool_choice": "required", "tools": [ONE]},
            {"thinking": None, "output_config": {"effort": "low"}},
        ),
        (
            {},
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"x": 1}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"x": 1}}}},
        ),
        ({}, {"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"output_config": None}),
        ({}, {"stream": True, "store": True, "include": ["x"]}, {"stream": True}),
        ({}, {"safety_identifier": "u" * 300}, {"metadata": {"user_id": "u" * 256}}),
    ],
)  # fmt: skip
def test_what_is_asked_for(traits: Any, asked: Any, says: dict[str, Any]) -> None:
    wanted = translated(traits=Traits(**traits), **asked)
    assert {name: wanted.get(name) for name in says} == says


def test_settings_that_change_on_the_way() -> None:
    late = {"type": "configuration_update", "id": "cu_1", "reasoning": {"effort": "high"}}
    wanted = translated(late, said("user", "Hi"), traits=THINKS, reasoning={"summary": "auto"})
    assert wanted["output_config"] == {"effort": "high"}
    assert wanted["thinking"]["display"] == "summarized"


def test_a_lowered_limit_wins() -> None:
    assert translated(max_tokens=7)["max_tokens"] == 7


def test_json_without_a_schema_is_asked_for_in_words() -> None:
    assert "JSON" in translated(text={"format": {"type": "json_object"}})["system"][0]["text"]


def part(**fields: Any) -> dict[str, Any]:
    return said("user", fields)


def test_files() -> None:
    plain = base64.b64encode("wörter".encode()).decode()
    wanted = translated(
        part(type="input_file", filename="a.pdf", file_data="data:application/pdf;base64,JVBERi0="),
        part(type="input_file", file_data="JVBERi0="),
        part(type="input_file", filename="a.txt", file_data=f"data:text/plain;base64,{plain}"),
        part(type="input_file", file_data=PIXEL),
        part(type="input_file", file_url="https://x.test/a.pdf"),
    )
    sources = [block["source"] for block in wanted["messages"][0]["content"]]
    assert sources[0] == {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert sources[1] == sources[0] and sources[2]["data"] == "wörter"
    assert sources[3]["media_type"] == "image/png" and sources[4]["type"] == "url"


@pytest.mark.parametrize(
    ("items", "asked", "word"),
    [
        ([], {"previous_response_id": "resp_1"}, "previous_response_id: .*whole input"),
        ([], {"conversation": "conv_1"}, "conversation: .*store: false"),
        ([], {"prompt": {"id": "pmpt_1"}}, "prompt: "),
        ([], {"background": True}, "background: "),
        ([], {"tools": [{"type": "file_search"}]}, r"tools\[0\]: .*'file_search'"),
        ([], {"tools": [{"type": "mcp", "server_label": "x"}]}, "'mcp'"),
        ([], {"tools": [{"type": "function"}]}, "no Responses request"),
        ([], {"tool_choice": {"type": "function", "name": "f"}}, "no tool 'f'"),
        ([], {"tool_choice": {"type": "image_generation"}}, "tool_choice: .*'image_generation'"),
        ([], {"tool_choice": "any"}, "tool_choice: 'any'"),
        ([], {"reasoning": {"effort": "huge"}}, "reasoning.effort: 'huge'"),
        ([], {"temperature": "hot"}, "no Responses request"),
        ([], {"input": 5}, "no Responses request"),
        ([said("user", "Hi"), {"type": "item_reference", "id": "x"}], {}, r"input\[1\]: nothing"),
        ([{"type": "compaction", "encrypted_content": "x"}], {}, r"input\[0\]: .*'compaction'"),
        ([{"role": "tool", "content": "x"}], {}, r"input\[0\]: .*'tool'"),
        ([{"role": "user"}], {}, "no Responses request"),
        ([part(type="input_audio")], {}, r"input\[0\].content\[0\]: .*'input_audio'"),
        ([part(type="input_image", file_id="f")], {}, "data URL"),
        ([part(type="input_image", image_url="ftp://x")], {}, "neither"),
        ([part(type="input_image", image_url="data:image/tiff;base64,x")], {}, "'image/tiff'"),
        ([part(type="input_file", file_id="f")], {}, "file_data"),
        ([part(type="input_file", filename="a.bin", file_data="/w==")], {}, "PDF and UTF-8"),
        ([call("f"), output([{"type": "encrypted"}])], {}, r"input\[1\].output\[0\]"),
    ],
)
def test_what_cannot_be_told_is_refused(items: Any, asked: Any, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        translated(*items, **asked)


def test_an_image_for_a_model_without_eyes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="images"):
        translated(part(type="input_image", image_url=PIXEL), traits=Traits(vision=False))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"input":' + b"[" * 100_000, b'{"input":"\xff"}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ResponsesAnthropic(body, "c", max_tokens=None, traits=Traits())


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
