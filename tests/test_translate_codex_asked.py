"""What Responses clients ask of Claude: tools, limits, effort, files; what is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bifrost.errors import InvalidRequest
from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.translation import Traits
from tests.codex import MOST, PIXEL, THINKS, call, function, output, said, texts, translated


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
            {"adaptive": True},
            {"reasoning": {"effort": "high", "summary": "auto"}, "temperature": 0.5},
            {"output_config": {"effort": "high"},
             "thinking": {"type": "adaptive", "display": "summarized"}, "temperature": None},
        ),
        ({"adaptive": True}, {"reasoning": {"effort": "none"}}, {"thinking": None}),
        ({"adaptive": True}, {"reasoning": {"effort": "minimal"}}, {"output_config": None}),
        ({"adaptive": True}, {"reasoning": {"effort": "xhigh"}}, {"output_config": MOST}),
        (
            {"adaptive": True, "extra_high": True},
            {"reasoning": {"effort": "xhigh"}},
            {"output_config": {"effort": "xhigh"}},
        ),
        (
            {"adaptive": True},
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
