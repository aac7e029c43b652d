"""Messages requests as Converse's, each judged by botocore and by the service's own rules."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_converse import AnthropicConverse
from bifrost.translate.converse_tools import NO_CALLS, plain
from bifrost.translate.translation import Traits
from tests.converse_oracle import checked

Json = dict[str, Any]
NOVA, LLAMA = "us.amazon.nova-pro-v1:0", "us.meta.llama4-maverick-17b-instruct-v1:0"
CLAUDE, MISTRAL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "mistral.mistral-large-2402-v1:0"
CACHES = Traits(caches=True)
PNG = b64encode(b"\x89PNG\r\n").decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
TOOL = {"name": "read", "description": "Reads", "input_schema": {"type": "object"}}
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
POINT = {"cachePoint": {"type": "default"}}
SAMPLES = sorted((Path(__file__).parent / "samples").glob("claude-*.json"))


def told(
    model: str = NOVA, /, traits: Traits = CACHES, betas: tuple[str, ...] = (), **asked: Any
) -> Json:
    """What Converse is asked; its rules hold."""
    body = {"model": "m", "max_tokens": 99, "messages": [user("Hi")]} | asked
    raw = json.dumps(body).encode()
    made = AnthropicConverse(raw, model, max_tokens=None, traits=traits, betas=betas)
    return checked(json.loads(made.body), model)


def user(*content: Any) -> Json:
    return {
        "role": "user",
        "content": [text(one) if isinstance(one, str) else one for one in content],
    }


def assistant(*content: Any) -> Json:
    return user(*content) | {"role": "assistant"}


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def call(number: str = "c1", name: str = "read", **given: Any) -> Json:
    return {"type": "tool_use", "id": number, "name": name, "input": given}


def result(number: str = "c1", content: Any = "ok", **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": number, "content": content, **more}


def test_a_conversation() -> None:
    made = told(
        system=[text("x-anthropic-billing-header: v"), text("Be brief."), text(" ")],
        messages=[
            user("Look"),
            assistant("I look.", call(path="a"), call("c2", path="b")),
            user("And then?", result("c2", "two"), result("c1", [text("one")])),
        ],
        tools=[TOOL],
    )
    assert made["system"] == [{"text": "Be brief."}]
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant", "user"]
    first, *calls = made["messages"][1]["content"]
    assert first == {"text": "I look."}
    assert calls[0] == {"toolUse": {"toolUseId": "c1", "name": "read", "input": {"path": "a"}}}
    answered = made["messages"][2]["content"]
    assert [one["toolResult"]["toolUseId"] for one in answered[:2]] == ["c1", "c2"]
    assert answered[0]["toolResult"]["content"] == [{"text": "one"}]
    assert answered[2] == {"text": "And then?"}
    assert made["inferenceConfig"] == {"maxTokens": 99}
    spec = {"name": "read", "description": "Reads"}
    schema = {"inputSchema": {"json": {"type": "object", "properties": {}}}}
    assert made["toolConfig"] == {"tools": [{"toolSpec": spec | schema}]}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", [NOVA, LLAMA, CLAUDE])
def test_what_claude_code_sends_is_taken(path: Path, model: str) -> None:
    asked = json.loads(path.read_bytes())
    made = told(model, **asked)
    assert len(made["toolConfig"]["tools"]) >= len(asked["tools"])
    assert "billing" not in json.dumps(made["system"])


def test_images_and_failures_in_results() -> None:
    turns = [
        user("Look"),
        assistant(call()),
        user(result(content=[text("see"), IMAGE], is_error=True)),
    ]
    image = {"image": {"format": "png", "source": {"bytes": PNG}}}
    [rich] = told(NOVA, messages=turns)["messages"][2]["content"]
    assert rich["toolResult"] == {
        "toolUseId": "c1", "content": [{"text": "see"}, image], "status": "error",
    }  # fmt: skip
    plain, behind = told(LLAMA, messages=turns)["messages"][2]["content"]
    assert plain["toolResult"]["content"] == [{"text": "Error:"}, {"text": "see"}]
    assert behind == image


def test_a_call_without_its_result_and_a_result_without_its_call() -> None:
    turns = [user("a"), assistant(call()), user(result("lost", "found")), assistant(call("c9"))]
    made = told(messages=turns)["messages"]
    none, *late = made[2]["content"]
    assert none["toolResult"]["content"] == [{"text": "(no result)"}]
    assert late == [{"text": "Result of an earlier call:"}, {"text": "found"}]
    assert made[-1]["content"][0]["toolResult"]["toolUseId"] == "c9"


def test_cache_points_where_the_model_takes_them() -> None:
    asked: Json = {
        "system": [text("Be brief.", **HOUR)],
        "tools": [TOOL | MARK],
        "messages": [user(text("a", **MARK)), assistant(call()), user(result(**HOUR))],
    }
    hour = {"cachePoint": {"type": "default", "ttl": "1h"}}
    claude = told(CLAUDE, **asked)
    assert claude["system"][1] == claude["messages"][2]["content"][1] == hour
    assert claude["messages"][0]["content"][1] == claude["toolConfig"]["tools"][1] == POINT
    old = told("anthropic.claude-3-5-haiku-20241022-v1:0", **asked)
    assert old["system"][1] == POINT
    nova = told(NOVA, **asked)
    assert nova["system"][1] == nova["messages"][2]["content"][1] == POINT
    assert len(nova["toolConfig"]["tools"]) == 1
    for other in (told(LLAMA, **asked), told(NOVA, Traits(), **asked)):
        assert "cachePoint" not in json.dumps(other)
    whole = told(NOVA, **MARK)
    assert whole["messages"][-1]["content"] == [{"text": "Hi"}, POINT]


def test_novas_schemas_have_nothing_but_their_properties() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {
            "tree": {"$ref": "#/$defs/Tree", "description": "All"}, "n": {"type": "number"},
        },
        "required": ["tree"], "additionalProperties": False,
        "$defs": {"Tree": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Tree"}}}},
    }  # fmt: skip
    made = told(tools=[TOOL | {"input_schema": schema}])["toolConfig"]["tools"][0]["toolSpec"]
    tree = {"type": "object", "properties": {"next": {"type": "object"}}, "description": "All"}
    assert made["inputSchema"]["json"] == {
        "type": "object", "required": ["tree"],
        "properties": {"tree": tree, "n": {"type": "number"}},
    }  # fmt: skip
    other = told(LLAMA, tools=[TOOL | {"input_schema": schema}])["toolConfig"]["tools"][0]
    assert other["toolSpec"]["inputSchema"]["json"] == schema
    bomb = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 9} for n in range(9)}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": bomb}
    spec = told(tools=[TOOL | {"input_schema": schema}])["toolConfig"]["tools"][0]["toolSpec"]
    assert spec["inputSchema"]["json"]["properties"] == {"a": {"type": "object"}}


WORDS = {"type": "string", "enum": ["a", "b" * 90]}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["W", "L", "none"]), max_size=5))
def test_no_schema_grows(names: list[str]) -> None:
    """What the request may cost was reserved by the client's size."""
    deep = {"type": "array", "items": {"$ref": "#/$defs/W"}}
    schema = {
        "type": "object", "$defs": {"W": WORDS, "L": deep},
        "properties": {f"p{n}": {"$ref": f"#/$defs/{name}"} for n, name in enumerate(names)},
    }  # fmt: skip
    made = plain(schema)
    assert len(json.dumps(made)) <= len(json.dumps(schema))
    if names in (["W"], ["L"]):
        assert made["properties"]["p0"] == (WORDS if names == ["W"] else deep | {"items": WORDS})


def choice(model: str, **asked: Any) -> Any:
    made = told(model, tools=[TOOL, TOOL | {"name": "write"}], **asked)
    return made["toolConfig"].get("toolChoice")


def test_the_choice_of_a_tool() -> None:
    named, some = {"type": "tool", "name": "read"}, {"type": "any"}
    assert choice(NOVA, tool_choice=named) == {"tool": {"name": "read"}}
    assert choice(NOVA, tool_choice=some) == choice(MISTRAL, tool_choice=some) == {"any": {}}
    one = told(MISTRAL, tools=[TOOL, TOOL | {"name": "write"}], tool_choice=named)["toolConfig"]
    assert one["toolChoice"] == {"any": {}} and len(one["tools"]) == 1
    assert choice(LLAMA, tool_choice=some) is None
    assert choice(NOVA, tool_choice={"type": "auto"}) is None
    assert choice(NOVA, tool_choice=some, traits=Traits(forced_tools=False)) is None


def test_no_tool_is_to_be_called() -> None:
    """Converse cannot say so: none is offered, or where there were calls, the model is told."""
    none = {"type": "none"}
    assert "toolConfig" not in told(tools=[TOOL], tool_choice=none)
    turns = [user("a"), assistant(call()), user(result())]
    made = told(tools=[TOOL], tool_choice=none, messages=turns)
    assert made["toolConfig"]["tools"] and made["system"] == [{"text": NO_CALLS}]
    left = told(messages=turns)  # the tools are gone, their calls are not
    assert left["toolConfig"]["tools"][0]["toolSpec"]["name"] == "read"
    assert left["system"] == [{"text": NO_CALLS}]


def test_names_and_ids_that_converse_does_not_take() -> None:
    name, number = "mcp__" + "x" * 90, "toolu/" + "1" * 90
    turns = [user("a"), assistant(call(number, name)), user(result(number))]
    made = told(messages=turns, tools=[TOOL | {"name": name}])
    spec = made["toolConfig"]["tools"][0]["toolSpec"]["name"]
    use = made["messages"][1]["content"][0]["toolUse"]
    assert spec == use["name"] != name
    assert made["messages"][2]["content"][0]["toolResult"]["toolUseId"] == use["toolUseId"]


THOUGHTS = [
    {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "c2VjcmV0"},
    {"type": "thinking", "thinking": "theirs", "signature": "bifrost-chat"},
    {"type": "redacted_thinking", "data": "bifrost-gemini:xx"},
]


def test_thinking_goes_back_to_claude_alone() -> None:
    turns = [user("a"), assistant(*THOUGHTS, "b"), user("c")]
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    made = told(
        CLAUDE, messages=turns, thinking=thinking, betas=("interleaved-thinking-2025-05-14", "x")
    )
    said = [one.get("reasoningContent") for one in made["messages"][1]["content"]]
    kept = {"reasoningText": {"text": "Hm", "signature": "c2ln"}}
    assert said == [kept, {"redactedContent": "c2VjcmV0"}, None]
    more = {"thinking": thinking, "anthropic_beta": ["interleaved-thinking-2025-05-14"]}
    assert made["additionalModelRequestFields"] == more
    nova = told(NOVA, messages=turns, thinking=thinking, betas=("interleaved-thinking-2025-05-14",))
    assert nova["messages"][1]["content"] == [{"text": "b"}]
    assert "additionalModelRequestFields" not in nova


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        (
            "us.amazon.nova-2-lite-v1:0",
            "high",
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}},
        ),
        ("openai.gpt-oss-120b-1:0", "max", {"reasoning_effort": "high"}),
        ("us.openai.gpt-5.4", "low", {"reasoning": {"effort": "low"}}),
        ("deepseek.v3.2", "low", None),
    ],
)
def test_how_hard_to_think(model: str, effort: str, sent: Any) -> None:
    asked = {"output_config": {"effort": effort}}
    made = told(model, Traits(reasons=True), **asked)
    assert made.get("additionalModelRequestFields") == sent
    assert "additionalModelRequestFields" not in told(model, Traits(), **asked)
    assert told(CLAUDE, Traits(), **asked)["outputConfig"] == asked["output_config"]


def test_limits_sampling_and_stops() -> None:
    made = told(temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["END", ""])
    assert made["inferenceConfig"] == {
        "maxTokens": 99, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"],
    }  # fmt: skip
    assert made["additionalModelResponseFieldPaths"] == ["/stop_sequence"]
    few = told(traits=Traits(max_output=50, sampling=False), temperature=0.5)
    assert few["inferenceConfig"] == {"maxTokens": 50}
    assert told(CLAUDE, top_k=5)["additionalModelRequestFields"] == {"top_k": 5}


def test_an_answer_of_a_form() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    form = told(traits=Traits(structured=True), **asked)["outputConfig"]["textFormat"]
    assert json.loads(form["structure"]["jsonSchema"]["schema"]) == schema
    asked_for = told(**asked)
    assert "outputConfig" not in asked_for
    assert json.loads(asked_for["system"][0]["text"].partition(": ")[2]) == schema


def test_documents_have_names_of_their_own_and_a_text_beside_them() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": PNG}
    page = {"type": "document", "title": "My  file.v1.pdf", "source": source}
    content = told(messages=[user(page, page)])["messages"][0]["content"]
    names = [one["document"]["name"] for one in content[:2]]
    assert names == ["My file-v1-pdf", "My file-v1-pdf (2)"]
    assert content[2:] == [{"text": "See the document."}]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        (
            {
                "messages": [
                    user({"type": "image", "source": {"type": "url", "url": "https://a/b"}})
                ]
            },
            "URL",
        ),
        ({"messages": [user({"type": "server_tool_use"})]}, "server_tool_use"),
        ({"messages": []}, "nothing is said"),
        ({"messages": [user(" ")]}, "nothing is said"),
        ({"messages": 5}, "not a Messages request"),
    ],
)
def test_what_cannot_be_told_is_refused(asked: Json, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        told(**asked)


def test_images_for_a_model_without_eyes() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        told(traits=Traits(vision=False), messages=[user(IMAGE)])


def test_the_last_word_is_the_users_unless_claude_goes_on() -> None:
    turns = [assistant("Hello"), user("Go"), assistant("{")]
    roles = [turn["role"] for turn in told(messages=turns)["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert told(CLAUDE, messages=turns)["messages"][-1]["role"] == "assistant"


BLOCKS = st.one_of(
    st.builds(text, st.sampled_from(["", " ", "a", "b\n"])),
    st.builds(
        call, st.sampled_from(["c1", "c2", "toolu/3"]), st.sampled_from(["read", "bad name"])
    ),
    st.builds(
        result, st.sampled_from(["c1", "c2", "toolu/3"]), st.sampled_from(["", "x", [IMAGE]])
    ),
    st.sampled_from([*THOUGHTS, IMAGE]),
)
USERS, MODELS = (
    ("text", "tool_result", "image"),
    ("text", "tool_use", "thinking", "redacted_thinking"),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(BLOCKS, max_size=4)), max_size=6),
    st.sampled_from([NOVA, LLAMA, CLAUDE, MISTRAL]),
)
def test_any_conversation_becomes_one_that_converse_takes(
    said: list[tuple[bool, list[Json]]], model: str
) -> None:
    turns = []
    calls: set[str] = set()  # no two have the same id
    for is_user, content in said:
        kept = [one for one in content if one["type"] in (USERS if is_user else MODELS)]
        fresh = []
        for one in kept:
            if one["type"] != "tool_use" or one["id"] not in calls:
                calls.add(one.get("id", ""))
                fresh.append(one)
        turns.append({"role": "user" if is_user else "assistant", "content": fresh})
    told(model, messages=[user("Go"), *turns])
