"""Anthropic requests in the words of Gemini, checked as strictly as Google does."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.anthropic_gemini import AnthropicGemini
from bifrost.translate.gemini_request import signed
from bifrost.translate.translation import Traits

SAMPLES = sorted((Path(__file__).parent / "samples").glob("claude-*.json"))
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
DUMMY = "skip_thought_signature_validator"
FIELDS = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}
SETTINGS = {
    "maxOutputTokens", "stopSequences", "temperature", "topP", "topK", "thinkingConfig",
    "responseMimeType", "responseJsonSchema",
}  # fmt: skip
MEANINGS = {"text", "inlineData", "fileData", "functionCall", "functionResponse"}


def translated(traits: Traits | None = None, max_tokens: int | None = None, **asked: Any) -> Any:
    """The Gemini request for a Messages request, checked."""
    whole = {"model": "claude-x", "max_tokens": 100, "messages": [user("Hi")], **asked}
    body = json.dumps(whole).encode()
    made = AnthropicGemini(body, "gemini-x", max_tokens=max_tokens, traits=traits or Traits())
    wanted = json.loads(made.body)
    checked(wanted)
    return wanted


def told(*messages: Any, **asked: Any) -> list[tuple[str, list[Any]]]:
    """(role, parts) of each content for these turns."""
    contents = translated(messages=messages, **asked)["contents"]
    return [(content["role"], content["parts"]) for content in contents]


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [text(b) if isinstance(b, str) else b for b in blocks]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {**user(*blocks), "role": "assistant"}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(name: str, **given_: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": given_}


def result(name: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{name}", "content": content, **more}


def answered(name: str, **response: str) -> dict[str, Any]:
    """The part that answers a call."""
    return {"functionResponse": {"id": f"toolu_{name}", "name": name, "response": response}}


def checked(wanted: dict[str, Any]) -> None:
    """What Google refuses: unknown fields, empty parts, calls that are not answered at once and
    alone or have no signature, a conversation that the model begins or ends."""
    assert wanted.keys() <= FIELDS
    assert wanted.get("generationConfig", {}).keys() <= SETTINGS
    contents = wanted["contents"]
    assert contents[0]["role"] == contents[-1]["role"] == "user"
    due: list[tuple[str, str]] = []
    last = ""
    for content in contents:
        role, parts = content["role"], content["parts"]
        assert role in ("user", "model") and parts
        for part in parts:
            assert len(part.keys() & MEANINGS) == 1
            assert part.keys() <= MEANINGS | {"thoughtSignature"}
            assert part.get("text") != ""
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        assert [(one["id"], one["name"]) for one in answers] == due
        assert not answers or len(answers) == len(parts), "results stand alone"
        assert all(isinstance(one["response"], dict) for one in answers)
        shape = "answers" if answers else role
        assert shape != last
        last = shape
        calls = [part for part in parts if "functionCall" in part]
        assert role == "model" or not calls
        assert not calls or calls[0]["thoughtSignature"]
        due = [(one["functionCall"]["id"], one["functionCall"]["name"]) for one in calls]
        for one in calls:
            assert isinstance(one["functionCall"]["args"], dict)
            assert NAME.fullmatch(one["functionCall"]["name"])
            base64.b64decode(one.get("thoughtSignature", ""), altchars="-_", validate=True)
    for tool in wanted.get("tools", ()):
        for declared in tool["functionDeclarations"]:
            assert NAME.fullmatch(declared["name"])
            assert declared.keys() <= {"name", "description", "parametersJsonSchema"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_claude_code_sends_can_be_told(sample: Path) -> None:
    """The bodies of the real client: system turns, deferred tools, thinking, cache marks."""
    asked = json.loads(sample.read_bytes())
    traits = Traits(reasons=True)
    made = AnthropicGemini(sample.read_bytes(), "gemini-x", max_tokens=None, traits=traits)
    wanted = json.loads(made.body)
    checked(wanted)
    assert b"cache_control" not in made.body and b"billing-header" not in made.body
    assert len(wanted["tools"][0]["functionDeclarations"]) == len(asked["tools"])
    assert wanted["generationConfig"]["thinkingConfig"]["includeThoughts"] is True


def test_later_system_turns_are_the_users() -> None:
    late = {"role": "system", "content": [text("Late.")]}
    billing = text("x-anthropic-billing-header: cc_version=1;")
    wanted = translated(system=[billing, text("You.")], messages=[user("Hi"), late])
    assert wanted["systemInstruction"] == {"parts": [{"text": "You."}]}
    assert wanted["contents"] == [{"role": "user", "parts": [{"text": "Hi"}, {"text": "Late."}]}]


def test_results_stand_alone_and_in_the_order_of_their_calls() -> None:
    """Gemini 3 refuses text or images in one content with them; a screenshot must not be lost."""
    (_, _, (role, answers), (behind, parts)) = told(
        user("Look."),
        assistant("Yes.", use("a"), use("b", path="x")),
        user(
            "And?",
            result("b", "boom", is_error=True),
            result("a", [text("seen"), {"type": "image", "source": PIXEL}]),
        ),
    )
    assert role == behind == "user"
    assert answers == [answered("a", output="seen"), answered("b", error="boom")]
    inline = {"mimeType": "image/png", "data": PIXEL["data"]}
    assert parts == [{"text": "And?"}, {"inlineData": inline}]


def test_turns_of_one_side_are_one() -> None:
    turns = told(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))
    assert [(role, [part["text"] for part in parts]) for role, parts in turns] == [
        ("user", ["a", "b"]),
        ("model", ["c", "d"]),
        ("user", ["e"]),
    ]


def test_a_call_without_its_result_and_a_result_without_its_call() -> None:
    turns = told(
        user("Hi"), assistant(use("a"), use("b")), user(result("b", "late"), result("z", "lost"))
    )
    assert turns[2][1] == [answered("a", output="(no result)"), answered("b", output="late")]
    assert "lost" in turns[3][1][0]["text"]


def test_a_call_without_any_answer_gets_one() -> None:
    assert told(user("Hi"), assistant(use("a")))[-1][1] == [answered("a", output="(no result)")]


def test_the_user_begins_and_ends() -> None:
    """Newer models refuse a conversation that ends with their own words."""
    assert [role for role, _ in told(assistant("Well"))] == ["user", "model", "user"]


def test_a_found_tool_is_named_as_the_host_knows_it() -> None:
    odd = {"name": "9 files", "input_schema": {"type": "object"}}
    found = {"type": "tool_reference", "tool_name": "9 files"}
    turns = [user("Hi"), assistant(use("s")), user(result("s", [found]))]
    wanted = translated(messages=turns, tools=[odd])
    name = wanted["tools"][0]["functionDeclarations"][0]["name"]
    said = wanted["contents"][-1]["parts"][0]["functionResponse"]["response"]["output"]
    assert name in said and name != "9 files"


def test_names_that_gemini_does_not_take_come_back() -> None:
    odd = ["mcp__" + "x" * 70, "a/b", "1st", ""]
    kept = ["files.read", "ns:do-it", "_x"]
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in odd + kept]
    asked = {"model": "c", "max_tokens": 9, "messages": [user("Hi")], "tools": tools}
    made = AnthropicGemini(json.dumps(asked).encode(), "g", max_tokens=None, traits=Traits())
    wanted = json.loads(made.body)
    checked(wanted)
    names = [one["name"] for one in wanted["tools"][0]["functionDeclarations"]]
    assert names[len(odd) :] == kept
    parts = [{"functionCall": {"name": name, "args": {}}} for name in names]
    candidate = {"content": {"parts": parts}, "finishReason": "STOP"}
    _, body = made.answer(200, json.dumps({"candidates": [candidate]}).encode())
    assert [block["name"] for block in json.loads(body)["content"]] == odd + kept


# signatures


def thinking(signature: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": "Hm.", "signature": signature}


def redacted(data: str) -> dict[str, Any]:
    return {"type": "redacted_thinking", "data": data}


def marks(*blocks: Any) -> list[str | None]:
    """The signature of each call in a turn of these blocks."""
    _, parts = told(user("Hi"), assistant(*blocks), user("Go"))[1]
    return [part.get("thoughtSignature") for part in parts if "functionCall" in part]


def test_signatures_go_back_to_their_calls() -> None:
    own, other = signed("U0lH", "toolu_a"), signed("T1RI", "toolu_b")
    assert marks(thinking(own), use("a"), use("c")) == ["U0lH", None]
    assert marks(redacted(own), use("a"), redacted(other), use("b")) == ["U0lH", "T1RI"]
    assert marks("So.", redacted(other), use("a"), use("b")) == [DUMMY, "T1RI"]


@pytest.mark.parametrize(
    "foreign",
    ["EqQBCg==", "bifrost-chat", "bifrost-gemini:", "bifrost-gemini:!", "bifrost-gemini:e30=",
     "bifrost-gemini:W10=", "bifrost-gemini:MQ=="],
)  # fmt: skip
def test_other_signatures_are_dropped(foreign: str) -> None:
    """A conversation that began elsewhere: only the first call of a turn needs the dummy."""
    assert marks(thinking(foreign), redacted(foreign), use("a"), use("b")) == [DUMMY, None]


def test_thoughts_alone_are_no_turn() -> None:
    turns = told(user("a"), assistant(thinking("x")), user("b"))
    assert turns == [("user", [{"text": "a"}, {"text": "b"}])]


# what is asked for


@pytest.mark.parametrize(
    ("traits", "asked", "says"),
    [
        ({}, {}, {"maxOutputTokens": 100}),
        ({"max_output": 50}, {}, {"maxOutputTokens": 50}),
        ({}, {"temperature": 0, "top_p": 1, "top_k": 9}, {"temperature": 0, "topP": 1, "topK": 9}),
        ({"sampling": False}, {"temperature": 0.5}, {"temperature": None}),
        ({}, {"output_config": {"effort": "low"}}, {"thinkingConfig": None}),
        ({"reasons": True}, {}, {"thinkingConfig": None}),
        ({}, {"stop_sequences": list("abcde")}, {"stopSequences": list("abcde")}),
        (
            {},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
    ],
)
def test_what_is_asked_for(traits: Any, asked: Any, says: dict[str, Any]) -> None:
    config = translated(Traits(**traits), **asked)["generationConfig"]
    assert {name: config.get(name) for name in says} == says


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"output_config": {"effort": "low"}}, {"includeThoughts": True, "thinkingLevel": "LOW"}),
        ({"output_config": {"effort": "max"}}, {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ({"thinking": {"type": "adaptive"}}, {"includeThoughts": True}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9_000}},
            {"includeThoughts": True, "thinkingLevel": "MEDIUM"},
        ),
        (
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}},
            {"thinkingLevel": "LOW"},
        ),
    ],
)
def test_how_hard_to_think(asked: Any, says: Any) -> None:
    config = translated(Traits(reasons=True), **asked)["generationConfig"]
    assert config["thinkingConfig"] == says


def test_a_lowered_limit_wins() -> None:
    assert translated(max_tokens=7)["generationConfig"]["maxOutputTokens"] == 7


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"type": "auto"}, {"mode": "AUTO"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"mode": "ANY"}),
        ({"type": "none"}, {"mode": "NONE"}),
        ({"type": "tool", "name": "t"}, {"mode": "ANY", "allowedFunctionNames": ["t"]}),
    ],
)
def test_tool_choices(choice: Any, says: Any) -> None:
    tools = [{"name": "t", "input_schema": {"type": "object"}, "cache_control": {"type": "x"}}]
    wanted = translated(tools=tools, tool_choice=choice)
    assert wanted["toolConfig"] == {"functionCallingConfig": says}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"fallbacks": "default"}, "fallbacks"),
        ({"thread": {"continue": "t"}}, "thread"),
        ({"stop_sequences": list("abcdef")}, "at most 5"),
        ({"messages": [user({"type": "container_upload", "file_id": "f"})]}, "container_upload"),
        ({"messages": [assistant({"type": "server_tool_use"})]}, "server_tool_use"),
        ({"messages": [{"role": "user"}]}, "not a Messages request"),
        ({"messages": []}, "nothing is said"),
        ({"messages": [user("")]}, "nothing is said"),
    ],
)
def test_what_cannot_be_told_is_refused(asked: Any, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        translated(**asked)


def test_a_body_nested_without_end_is_refused() -> None:
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InvalidRequest):
        AnthropicGemini(body, "g", max_tokens=None, traits=Traits())


def test_an_image_for_a_model_without_eyes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        translated(Traits(vision=False), messages=[user({"type": "image", "source": PIXEL})])


@pytest.mark.parametrize(
    ("kind", "source", "part"),
    [
        (
            "document",
            {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
        ),
        ("document", {"type": "text", "data": "words"}, {"text": "words"}),
        ("document", {"type": "content", "content": [text("in")]}, {"text": "in"}),
        (
            "document",
            {"type": "url", "url": "https://h/d"},
            {"fileData": {"fileUri": "https://h/d", "mimeType": "application/pdf"}},
        ),
        (
            "image",
            {"type": "url", "url": "https://h/i.PNG?x=1"},
            {"fileData": {"fileUri": "https://h/i.PNG?x=1", "mimeType": "image/png"}},
        ),
    ],
)
def test_documents_and_images(kind: str, source: Any, part: Any) -> None:
    assert told(user({"type": kind, "source": source})) == [("user", [part])]


names = st.sampled_from(["a", "b", "c d", "e" * 80])
results = st.builds(lambda name, said: result(name, said), names, st.text(max_size=9))
calls = st.builds(lambda name, n: use(name, n=n), names, st.integers())
thoughts = st.builds(lambda name: thinking(signed("U0lH", f"toolu_{name}")), names)
texts = st.builds(text, st.text(max_size=9))
users = st.lists(st.one_of(results, texts), max_size=5).map(lambda blocks: user(*blocks))
assistants = st.lists(st.one_of(calls, texts, thoughts), max_size=4).map(
    lambda blocks: assistant(*blocks)
)


@given(st.lists(st.one_of(users, assistants), max_size=8))
def test_any_conversation_becomes_one_that_gemini_takes(messages: list[Any]) -> None:
    translated(messages=[user("Hi"), *messages])
