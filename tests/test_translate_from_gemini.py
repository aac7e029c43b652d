"""Gemini clients on Claude: requests, checked as strictly as by the Messages API."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.gemini_anthropic import GeminiAnthropic
from bifrost.translate.gemini_signature import PREFIX, opened, seal
from bifrost.translate.translation import Traits

SAMPLES = Path(__file__).parent / "samples" / "gemini"
KEYS = {
    "model", "max_tokens", "messages", "system", "stop_sequences", "temperature", "top_p", "top_k",
    "thinking", "output_config", "tools", "tool_choice", "stream",
}  # fmt: skip
BLOCKS = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use"},
}
CLAUDE = Traits(max_output=64_000, reasons=True, adaptive=True, extra_high=True)
BUDGETED = Traits(max_output=64_000, reasons=True)
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
PIXEL = b"\x89PNG\r\n\xfb\xff\xfe"
FUNCTION = {
    "name": "bash",
    "description": "Runs it.",
    "parameters": {"type": "OBJECT", "properties": {"cmd": {"type": "STRING"}}},
}
TOOLS = [{"functionDeclarations": [FUNCTION]}]


def translated(
    *contents: Any, traits: Traits = CLAUDE, limit: int | None = None, **more: Any
) -> Any:
    """The Messages request for a Gemini request, checked."""
    body = json.dumps({"model": "gemini-x", "contents": list(contents), **more}).encode()
    wanted = json.loads(GeminiAnthropic(body, "claude-x", max_tokens=limit, traits=traits).body)
    checked(wanted)
    return wanted


def checked(wanted: dict[str, Any]) -> None:
    """What Anthropic refuses."""
    assert wanted.keys() <= KEYS
    assert wanted["max_tokens"] > 0
    turns = wanted["messages"]
    due: list[str] = []
    every: list[str] = []
    for number, turn in enumerate(turns):
        assert turn["role"] == ("assistant" if number % 2 else "user")
        kinds = [block["type"] for block in turn["content"]]
        assert kinds and set(kinds) <= BLOCKS[turn["role"]]
        results = [b["tool_use_id"] for b in turn["content"] if b["type"] == "tool_result"]
        assert sorted(results) == sorted(due)
        assert kinds[: len(results)] == ["tool_result"] * len(results)
        assert "thinking" not in kinds[-1]
        for block in turn["content"]:
            assert block["type"] != "text" or block["text"].strip()
        due = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in due)
        every += due
    assert len(turns) % 2 == 1 and len(set(every)) == len(every)
    assert "tools" in wanted or not every
    for tool in wanted.get("tools", ()):
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", tool["name"])
        assert tool["input_schema"]["type"] == "object"
    thinks = "thinking" in wanted
    assert not (thinks and wanted.keys() & {"temperature", "top_p", "top_k"})
    assert not (thinks and wanted.get("tool_choice", {}).get("type") in ("any", "tool"))
    assert not {"temperature", "top_p"} <= wanted.keys()
    assert 1 <= json.dumps(wanted["messages"] + wanted.get("system", [])).count("_control") <= 4


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "parts": [{"text": p} if isinstance(p, str) else p for p in parts]}


def model(*parts: Any) -> dict[str, Any]:
    return {**user(*parts), "role": "model"}


def call(name: str = "bash", number: str | None = None, **more: Any) -> dict[str, Any]:
    told = {"name": name, "args": {"cmd": "ls"}} | ({"id": number} if number else {})
    return {"functionCall": told, **more}


def result(
    response: Any, name: str = "bash", number: str | None = None, **more: Any
) -> dict[str, Any]:
    told = {"name": name, "response": response, **more} | ({"id": number} if number else {})
    return {"functionResponse": told}


def bare(blocks: list[Any]) -> list[Any]:
    """Blocks without the marks for the cache."""
    return [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]


def texts(blocks: list[Any]) -> list[str]:
    return [block["text"] for block in blocks if block["type"] == "text"]


def test_the_simplest_request() -> None:
    wanted = translated({"parts": [{"text": "Hi"}]}, limit=100)
    assert (wanted["model"], wanted["max_tokens"]) == ("claude-x", 100)
    assert texts(wanted["messages"][0]["content"]) == ["Hi"]
    assert "stream" not in wanted and translated(user("Hi"), stream=True)["stream"] is True


def test_what_gemini_cli_sends_on_its_second_turn() -> None:
    asked = json.loads((SAMPLES / "gemini-0.61.0-turn2.json").read_bytes())
    wanted = translated(*asked.pop("contents"), **asked, stream=True)
    first, said, told = (bare(turn["content"]) for turn in wanted["messages"])
    assert len(texts(first)) == 2
    assert (said[0]["name"], said[0]["input"]["command"]) == (
        "run_shell_command",
        "cat mock_secret.txt",
    )
    assert told[0]["tool_use_id"] == said[0]["id"] and told[0]["content"][0]["text"]
    names = [one["name"] for one in asked["tools"][0]["functionDeclarations"]]
    assert [tool["name"] for tool in wanted["tools"]] == names and len(names) > 10
    assert wanted["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert wanted["output_config"] == {"effort": "high"}
    assert len(wanted["system"]) == 1


def test_the_form_of_gemini_clis_router() -> None:
    asked = json.loads((SAMPLES / "gemini-0.61.0-router.json").read_bytes())
    wanted = translated(*asked.pop("contents"), **asked)
    schema = wanted["output_config"]["format"]["schema"]
    assert schema["properties"]["complexity_score"]["type"] == "integer"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["complexity_reasoning", "complexity_score"]


def test_results_are_found_by_id_else_by_name_and_order() -> None:
    by_id = [call(number="a"), call(number="b")], [result("B", number="b"), result("A", number="a")]
    by_name = (
        [call("f"), call("g"), call("f")],
        [result("1", "f"), result("2", "f"), result("g", "g")],
    )
    for (calls, results), order in ((by_id, "AB"), (by_name, "1g2")):
        wanted = translated(user("Go"), model(*calls), user("Behind", *results), tools=TOOLS)
        told = wanted["messages"][2]["content"]
        assert [block["content"][0]["text"] for block in told[:-1]] == list(order)
        assert texts(told) == ["Behind"]


def test_a_call_without_result_gets_one_and_a_result_without_call_is_told() -> None:
    wanted = translated(user("Go"), model(call()), user("Never mind."), tools=TOOLS)
    missing, said = wanted["messages"][2]["content"]
    assert missing["content"][0]["text"] == "(no result)" and said["text"] == "Never mind."
    wanted = translated(user("Go", result({"output": "late"})))
    assert texts(wanted["messages"][0]["content"]) == ["Go", "Result of an earlier call:", "late"]


def test_ids_of_calls_are_unique_and_of_letters() -> None:
    turns = [user("Go"), *[model(call(number="a.b")), user(result("x", number="a.b"))] * 2]
    wanted = translated(*turns, model(call()), user(result("y")), tools=TOOLS)
    assert len(wanted["messages"]) == 7
    assert wanted == translated(*turns, model(call()), user(result("y")), tools=TOOLS)


def test_what_a_function_answers() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": b64encode(PIXEL).decode()}}
    for response, more, words, failed in (
        ({"output": "fine"}, {}, ["fine"], False),
        ({"output": {"a": 1}}, {}, ['{"a":1}'], False),
        ({"error": "no such file"}, {}, ["no such file"], True),
        ({"a": 1, "b": [2]}, {}, ['{"a":1,"b":[2]}'], False),
        ({"output": ""}, {"parts": [picture]}, [], False),
        ({}, {}, ["{}"], False),
    ):
        wanted = translated(user("Go"), model(call()), user(result(response, **more)), tools=TOOLS)
        [told] = wanted["messages"][2]["content"]
        assert texts(told.get("content", [])) == words
        assert told.get("is_error", False) is failed
        if more:
            assert told["content"][0]["source"]["data"] == b64encode(PIXEL).decode()


def test_claudes_thinking_comes_back_whole_before_what_carried_it() -> None:
    sealed = seal([THOUGHT])
    assert urlsafe_b64encode(PREFIX).decode() == sealed[:20]
    for mark in (sealed, sealed.rstrip("="), sealed.translate(str.maketrans("+/", "-_"))):
        spoken = model({"text": "Hm.", "thought": True}, call(thoughtSignature=mark))
        wanted = translated(user("Go"), spoken, user(result("x")), tools=TOOLS)
        assert wanted["messages"][1]["content"][0] == THOUGHT
        assert [block["type"] for block in wanted["messages"][1]["content"]] == [
            "thinking",
            "tool_use",
        ]


@pytest.mark.parametrize(
    "mark",
    [
        "bW9jaw==", "skip_thought_signature_validator", seal([THOUGHT])[:-6] + "AAAA==", 7,
        seal([{**THOUGHT, "signature": ""}]), seal([{**THOUGHT, "more": "x"}]),
    ],
)  # fmt: skip
def test_what_was_not_sealed_here_is_dropped(mark: Any) -> None:
    spoken = model({"text": "Thought.", "thought": True}, call(thoughtSignature=mark))
    wanted = translated(user("Go"), spoken, user(result("x")), tools=TOOLS)
    assert [block["type"] for block in wanted["messages"][1]["content"]] == ["tool_use"]


def test_the_pieces_of_a_stream_are_one_text() -> None:
    signed = {"text": "So", "thoughtSignature": seal([THOUGHT])}
    pieces = [model(signed), model(" "), model({"text": "it is."}, {"text": ""})]
    wanted = translated(user("Go"), *pieces, user("Thanks"))
    assert wanted["messages"][1]["content"] == [THOUGHT, {"type": "text", "text": "So it is."}]


def test_the_user_has_the_first_and_the_last_word() -> None:
    wanted = translated(model("Hello"))
    assert [texts(turn["content"]) for turn in wanted["messages"]] == [
        ["(no message)"],
        ["Hello"],
        ["Continue."],
    ]


def test_images_and_documents() -> None:
    data = urlsafe_b64encode(PIXEL).decode()
    assert "_" in data or "-" in data

    def told(part: Any, traits: Traits = CLAUDE) -> Any:
        return bare(translated(user("See", part), traits=traits)["messages"][0]["content"])[1]

    image = told({"inlineData": {"mimeType": "image/png", "data": data}})
    assert image["source"] == {
        "type": "base64", "media_type": "image/png", "data": b64encode(PIXEL).decode(),
    }  # fmt: skip
    pdf = told({"inlineData": {"mimeType": "application/pdf", "data": data}})
    assert (pdf["type"], pdf["source"]["media_type"]) == ("document", "application/pdf")
    plain = told({"inlineData": {"mimeType": "text/csv; charset=utf-8", "data": "YTti"}})
    assert plain["source"] == {"type": "text", "media_type": "text/plain", "data": "a;b"}
    link = {"fileUri": "https://example.com/a.png", "mimeType": "image/png"}
    assert told({"fileData": link})["source"]["url"] == link["fileUri"]
    for part, says in (
        ({"inlineData": {"mimeType": "video/mp4", "data": data}}, "video/mp4"),
        ({"inlineData": {"mimeType": "text/plain", "data": data}}, "UTF-8"),
        ({"fileData": {"fileUri": "gs://bucket/a.png", "mimeType": "image/png"}}, "inlineData"),
        ({"executableCode": {"code": "1"}}, "executableCode"),
    ):
        with pytest.raises(InvalidRequest, match=rf"contents\[0\]\.parts\[1\].*{says}"):
            told(part)
    with pytest.raises(InvalidRequest, match="PDF and text"):
        told({"inlineData": {"mimeType": "image/png", "data": data}}, Traits(vision=False))


def test_tools_in_either_schema() -> None:
    odd = {
        "name": "a.b:c",
        "parameters": {
            "type": "OBJECT",
            "properties": {
                "n": {"type": "INTEGER", "nullable": True, "example": 1},
                "l": {"type": "ARRAY", "items": {"type": "STRING"}, "minItems": "1"},
                "e": {"any_of": [{"type": "STRING", "enum": ["a"]}, {"type": "BOOLEAN"}]},
                "example": {"type": "TYPE_UNSPECIFIED", "description": "kept"},
            },
            "propertyOrdering": ["n", "l"],
        },
    }
    raw = {"name": "raw", "parametersJsonSchema": {"type": "object", "properties": {"x": {}}}}
    none = {"name": "none"}
    wanted = translated(user("Go"), tools=[{"functionDeclarations": [odd, raw]}, {
        "functionDeclarations": [none]}])  # fmt: skip
    first, second, third = wanted["tools"]
    assert first["input_schema"]["properties"] == {
        "n": {"type": ["integer", "null"]},
        "l": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "e": {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "boolean"}]},
        "example": {"description": "kept"},
    }
    assert second["input_schema"] == raw["parametersJsonSchema"]
    assert third["input_schema"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("calling", "choice", "names"),
    [
        ({}, None, ["bash", "g"]),
        ({"mode": "AUTO"}, None, ["bash", "g"]),
        ({"mode": "NONE"}, {"type": "none"}, ["bash", "g"]),
        ({"mode": "ANY"}, {"type": "any"}, ["bash", "g"]),
        ({"mode": "ANY", "allowedFunctionNames": ["g"]}, {"type": "tool", "name": "g"}, ["g"]),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["g"]}, None, ["g"]),
    ],
)
def test_which_functions_may_be_called(calling: Any, choice: Any, names: list[str]) -> None:
    tools = [{"functionDeclarations": [FUNCTION, {"name": "g"}]}]
    config = {"thinkingConfig": {"thinkingLevel": "HIGH"}}
    given = {"functionCallingConfig": calling}
    wanted = translated(user("Go"), tools=tools, toolConfig=given, generationConfig=config)
    assert wanted.get("tool_choice") == choice
    assert [tool["name"] for tool in wanted["tools"]] == names


def test_old_calls_without_tools() -> None:
    wanted = translated(user("Go"), model(call()), user(result("x")))
    assert wanted["tool_choice"] == {"type": "none"}
    assert [tool["name"] for tool in wanted["tools"]] == ["bash"]


@pytest.mark.parametrize(
    ("config", "traits", "thinking", "effort"),
    [
        ({"thinkingLevel": "LOW"}, CLAUDE, {"type": "adaptive"}, "low"),
        ({"thinkingLevel": "XHIGH"}, CLAUDE, {"type": "adaptive"}, "xhigh"),
        ({"thinkingLevel": "XHIGH"}, Traits(adaptive=True), {"type": "adaptive"}, "high"),
        ({"thinkingLevel": "MINIMAL"}, CLAUDE, None, None),
        ({"thinkingBudget": 0}, CLAUDE, None, None),
        ({"thinkingBudget": -1}, CLAUDE, {"type": "adaptive"}, None),
        ({"thinkingBudget": 5000}, CLAUDE, {"type": "adaptive"}, "medium"),
        ({"includeThoughts": True}, CLAUDE, {"type": "adaptive", "display": "summarized"}, None),
        ({"thinkingBudget": 5000}, BUDGETED, {"type": "enabled", "budget_tokens": 5000}, None),
        ({"thinkingLevel": "HIGH"}, Traits(), None, None),
        ({}, CLAUDE, None, None),
    ],
)
def test_how_hard_to_think(config: Any, traits: Traits, thinking: Any, effort: Any) -> None:
    more = {"thinkingConfig": config, "maxOutputTokens": 16_000}
    wanted = translated(user("Hi"), traits=traits, generationConfig=more)
    assert wanted.get("thinking") == thinking
    assert wanted.get("output_config", {}).get("effort") == effort


def test_a_budget_leaves_room_and_needs_the_thoughts_of_calls() -> None:
    more = {"thinkingConfig": {"thinkingLevel": "HIGH"}, "maxOutputTokens": 4_000}
    wanted = translated(user("Hi"), traits=BUDGETED, generationConfig=more)
    assert wanted["thinking"]["budget_tokens"] == 2_000
    others = seal([{**THOUGHT, "signature": "bifrost-chat"}])
    for mark, thinks in ((seal([THOUGHT]), True), ("x", False), (others, False)):
        turns = [user("Go"), model(call(thoughtSignature=mark)), user(result("x"))]
        wanted = translated(*turns, traits=BUDGETED, tools=TOOLS, generationConfig=more)
        assert ("thinking" in wanted) is thinks


def test_sampling_stops_and_limits() -> None:
    config = {"temperature": 1.7, "topP": 0.9, "topK": 40.0, "stopSequences": ["END", " "],
              "maxOutputTokens": 99, "seed": 7, "presencePenalty": 1}  # fmt: skip
    wanted = translated(user("Hi"), generationConfig=config)
    assert (wanted["temperature"], wanted["top_k"]) == (1, 40)
    assert wanted["stop_sequences"] == ["END"] and wanted["max_tokens"] == 99
    assert translated(user("Hi"), generationConfig={"topP": 0.9})["top_p"] == 0.9
    fixed = translated(user("Hi"), generationConfig=config, traits=Traits(sampling=False))
    assert not fixed.keys() & {"temperature", "top_p", "top_k"}
    assert translated(user("Hi"), traits=Traits())["max_tokens"] == 32_000
    assert translated(user("Hi"), generationConfig={"maxOutputTokens": 90_000})[
        "max_tokens"
    ] == 64_000  # fmt: skip


def test_forms_of_answers() -> None:
    def asked(schema: Any, key: str = "responseSchema") -> Any:
        config = {"responseMimeType": "application/json", key: schema}
        return translated(user("Hi"), generationConfig=config)

    person = {"type": "OBJECT", "properties": {
        "age": {"type": "INTEGER", "minimum": 0, "description": "Years."},
        "tags": {"type": "ARRAY", "items": {"type": "STRING"}, "maxItems": "3"},
    }}  # fmt: skip
    schema = asked(person)["output_config"]["format"]["schema"]
    assert schema["properties"]["age"] == {
        "type": "integer", "description": "Years. (minimum: 0)",
    }  # fmt: skip
    assert schema["properties"]["tags"]["description"] == "(maxItems: 3)"
    newer = {"responseFormat": [{"text": {"mimeType": "APPLICATION_JSON", "schema": person}}]}
    assert translated(user("Hi"), generationConfig=newer) == asked(person)
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}
    used = {"type": "object", "properties": {"p": {"$ref": "#/$defs/s"}},
            "$defs": {"s": {"type": "string"}}}  # fmt: skip
    schema = asked(used, "responseJsonSchema")["output_config"]["format"]["schema"]
    assert schema["properties"] == {"p": {"type": "string"}} and "$defs" not in schema
    for untold in (
        {**node, "$defs": {"n": node}},
        {"type": "OBJECT"},
        {"type": "ARRAY", "items": person},
        {"type": "object", "properties": {"m": {"type": "object", "additionalProperties": {}}}},
    ):
        wanted = asked(untold)
        assert "output_config" not in wanted
        assert "It must fit this JSON Schema: {" in wanted["system"][-1]["text"]
    assert "one JSON value" in asked(None)["system"][-1]["text"]
    choice = {"responseMimeType": "text/x.enum", "responseSchema": {"enum": ["a", "b"]}}
    assert "else: a, b" in translated(user("Hi"), generationConfig=choice)["system"][-1]["text"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"continuationToken": "AA=="}, "continuationToken"),
        ({"tools": [{"googleSearch": {}}]}, "googleSearch"),
        ({"contents": [{"role": "robot", "parts": []}]}, "robot"),
        ({"contents": 7}, "not a Gemini request"),
        ({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "STRING"}}]}]},
         "object"),
        ({"tools": TOOLS, "toolConfig": {"functionCallingConfig": {
            "mode": "ANY", "allowedFunctionNames": ["h"]}}}, "none of the allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(more: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        body = json.dumps({"contents": [user("Hi")], **more}).encode()
        GeminiAnthropic(body, "claude-x", max_tokens=None, traits=CLAUDE)


PARTS = st.one_of(
    st.sampled_from(["", " ", "word", "two words"]).map(lambda words: {"text": words}),
    st.just({"text": "thought", "thought": True}),
    st.just({"text": "signed", "thoughtSignature": seal([THOUGHT])}),
)
CALLS = st.builds(
    lambda name, number, mark: call(name, number, **({"thoughtSignature": mark} if mark else {})),
    st.sampled_from(["f", "g"]), st.sampled_from([None, "1", "2", "ä"]),
    st.sampled_from([None, seal([THOUGHT])]),
)  # fmt: skip
RESULTS = st.builds(
    lambda name, number: result({"output": "x"}, name, number),
    st.sampled_from(["f", "g"]), st.sampled_from([None, "1", "2", "ä"]),
)  # fmt: skip
TURNS = st.one_of(
    st.lists(st.one_of(PARTS, CALLS), max_size=4).map(lambda parts: model(*parts)),
    st.lists(st.one_of(PARTS, RESULTS), max_size=4).map(lambda parts: user(*parts)),
)


@given(st.lists(TURNS, max_size=6))
def test_any_conversation_becomes_one_that_claude_takes(turns: list[Any]) -> None:
    translated(*turns)


@given(st.lists(st.fixed_dictionaries({"type": st.just("thinking"), "thinking": st.text(),
                                       "signature": st.text(min_size=1)})))  # fmt: skip
def test_what_is_sealed_is_opened(blocks: list[dict[str, str]]) -> None:
    assert opened(seal(blocks)) == blocks
