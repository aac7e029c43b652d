"""Chat clients on Claude: requests checked as strictly as by the Messages API, and the way back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost.errors import InvalidRequest
from bifrost.translate.chat_anthropic import ChatAnthropic
from bifrost.translate.chat_chat import ChatChat
from bifrost.translate.translation import Traits

KEYS = {
    "model", "max_tokens", "messages", "system", "stop_sequences", "temperature", "top_p",
    "thinking", "output_config", "tools", "tool_choice", "metadata", "stream",
}  # fmt: skip
PIXEL = "data:image/png;base64,iVBORw0KGgo="
CLAUDE = Traits(max_output=64_000, adaptive=True, extra_high=True)


def translated(
    *messages: Any, traits: Traits = CLAUDE, limit: int | None = None, **more: Any
) -> Any:
    """The Messages request for a Chat request, checked."""
    body = json.dumps({"model": "gpt-x", "messages": list(messages), **more}).encode()
    wanted = json.loads(ChatAnthropic(body, "claude-x", max_tokens=limit, traits=traits).body)
    checked(wanted)
    return wanted


def checked(wanted: dict[str, Any]) -> None:
    """What Anthropic refuses: unknown keys, turns out of order, empty texts, calls not answered."""
    assert wanted.keys() <= KEYS
    assert wanted["max_tokens"] > 0
    turns = wanted["messages"]
    assert [turn["role"] for turn in turns[::2]] == ["user"] * len(turns[::2])
    assert [turn["role"] for turn in turns[1::2]] == ["assistant"] * len(turns[1::2])
    due: list[str] = []
    for turn in turns:
        blocks = turn["content"]
        assert blocks
        results = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        assert sorted(results) == sorted(due)
        assert all(block["type"] == "tool_result" for block in blocks[: len(results)])
        for block in blocks:
            assert block["type"] != "text" or block["text"]
        due = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", name) for name in due)
    assert json.dumps(wanted).count('"cache_control"') <= 4


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def called(*calls: tuple[str, str, str]) -> dict[str, Any]:
    made = [
        {"id": i, "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, name, arguments in calls
    ]
    return said("assistant", None, tool_calls=made)


def plain(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]


def test_what_leads_is_the_system_and_the_rest_is_told_in_turn() -> None:
    wanted = translated(
        said("system", "Be brief."),
        said("developer", [{"type": "text", "text": "And kind."}]),
        said("user", "Hi"),
        said("assistant", "Hello."),
        said("developer", "Now in French."),
        said("user", "Hi again"),
    )
    assert [block["text"] for block in wanted["system"]] == ["Be brief.", "And kind."]
    assert [[b["text"] for b in turn["content"]] for turn in wanted["messages"]] == [
        ["Hi"],
        ["Hello."],
        ["Now in French.", "Hi again"],
    ]


def test_calls_are_answered_in_the_next_turn_results_first() -> None:
    wanted = translated(
        said("user", "Go"),
        called(("call_1", "read", '{"path":"a"}'), ("odd.id", "read", "")),
        said("tool", "A", tool_call_id="call_1"),
        said("tool", [{"type": "text", "text": "B"}], tool_call_id="odd.id"),
        said("user", "And now?"),
    )
    first, second = wanted["messages"][1]["content"]
    assert (first["id"], first["input"], second["input"]) == ("call_1", {"path": "a"}, {})
    results = wanted["messages"][2]["content"]
    assert [block["type"] for block in results] == ["tool_result", "tool_result", "text"]
    assert [b["content"][0]["text"] for b in results[:2]] == ["A", "B"]
    assert results[1]["tool_use_id"] == second["id"]


def test_what_is_missing_between_a_call_and_its_result_is_made_up_for() -> None:
    wanted = translated(
        called(("call_1", "read", "not json"), ("call_2", "read", "{}")),
        said("tool", "B", tool_call_id="call_2"),
        said("user", "Next"),
        said("tool", "stray", tool_call_id="call_9"),
    )
    assert wanted["messages"][1]["content"][0]["input"] == {"arguments": "not json"}
    texts = json.dumps(wanted["messages"][2])
    assert "(no result)" in texts and "stray" in texts


def test_images_and_documents_are_told() -> None:
    parts = [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        },
    ]
    blocks = plain(translated(said("user", parts))["messages"][0]["content"])
    assert blocks[1]["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgo=",
    }
    assert blocks[2]["source"] == {"type": "url", "url": "https://example.com/a.png"}
    assert (blocks[3]["type"], blocks[3]["title"]) == ("document", "a.pdf")


def test_tools_and_the_choice_among_them() -> None:
    tool = {
        "type": "function",
        "function": {"name": "read", "description": "Reads.", "strict": True},
    }
    made = translated(said("user", "Go"), tools=[tool], tool_choice="required")
    schema = {"type": "object", "properties": {}}
    assert made["tools"] == [
        {"name": "read", "input_schema": schema, "description": "Reads.", "strict": True}
    ]
    assert made["tool_choice"] == {"type": "any"}
    alone = translated(said("user", "Go"), tools=[tool], parallel_tool_calls=False)
    assert alone["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    free = Traits(forced_tools=False)
    assert "tool_choice" not in translated(
        said("user", "Go"), tools=[tool], tool_choice="required", traits=free
    )


def test_limits_sampling_effort_and_form() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    more = {"temperature": 1.7, "stop": "END", "reasoning_effort": "high", "user": "u1"}
    wanted = translated(said("user", "Go"), max_tokens=9, response_format=form, **more)
    assert (wanted["max_tokens"], wanted["temperature"]) == (9, 1)
    assert wanted["stop_sequences"] == ["END"]
    assert wanted["output_config"]["effort"] == "high"
    assert wanted["output_config"]["format"]["schema"] == {"type": "object"}
    assert wanted["metadata"] == {"user_id": "u1"}
    assert translated(said("user", "Go"))["max_tokens"] == 64_000
    assert translated(said("user", "Go"), limit=7, max_tokens=9)["max_tokens"] == 7
    bare = translated(said("user", "Go"), traits=Traits(sampling=False), **more)
    assert not {"temperature", "output_config", "thinking"} & bare.keys()


@pytest.mark.parametrize(
    "more",
    [
        {"functions": [{"name": "old"}]},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"messages": [said("user", [{"type": "input_audio", "input_audio": {}}])]},
        {"messages": [said("oracle", "Hm")]},
        {"messages": [{"content": "no role"}]},
        {"messages": "none"},
    ],
)
def test_what_claude_cannot_be_told_is_refused(more: dict[str, Any]) -> None:
    body = json.dumps({"model": "gpt-x", "messages": [said("user", "Hi")], **more}).encode()
    with pytest.raises(InvalidRequest):
        ChatAnthropic(body, "claude-x", max_tokens=None, traits=CLAUDE)


TURNS = st.lists(
    st.one_of(
        st.builds(said, st.sampled_from(["system", "developer", "user", "assistant"]), st.text()),
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(
            lambda ids: called(*((i, "read", "{}") for i in ids))
        ),
        st.builds(lambda i, t: said("tool", t, tool_call_id=i), st.sampled_from("abcd"), st.text()),
    ),
    min_size=1,
    max_size=12,
)


@given(TURNS)
def test_any_conversation_is_one_that_claude_takes(turns: list[dict[str, Any]]) -> None:
    translated(*turns)


# -- the way back --------------------------------------------------------------------------------

USED = {
    "input_tokens": 300, "cache_read_input_tokens": 600, "cache_creation_input_tokens": 100,
    "output_tokens": 50, "output_tokens_details": {"thinking_tokens": 20},
}  # fmt: skip
COUNTED = {
    "prompt_tokens": 1_000, "completion_tokens": 50, "total_tokens": 1_050,
    "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 20},
}  # fmt: skip
BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
    {"type": "text", "text": "Grüße 🙂"},
    {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}},
    {"type": "tool_use", "id": "toolu_2", "name": "list", "input": {}},
]
DELTAS: dict[str, Any] = {
    "thinking": lambda b: [
        ("thinking_delta", "thinking", "H"),
        ("thinking_delta", "thinking", "m."),
    ],
    "text": lambda b: [("text_delta", "text", "Grü"), ("text_delta", "text", "ße 🙂")],
    "tool_use": lambda b: [
        ("input_json_delta", "partial_json", piece) for piece in ("", *_cut(b["input"]))
    ],
}


def _cut(given_: dict[str, Any]) -> list[str]:
    whole = json.dumps(given_, separators=(",", ":"))
    return [whole[:4], whole[4:]] if given_ else []


def client(**more: Any) -> ChatAnthropic:
    asked = {"model": "gpt-x", "messages": [said("user", "Hi")], **more}
    return ChatAnthropic(json.dumps(asked).encode(), "claude-x", max_tokens=None, traits=CLAUDE)


def message(**more: Any) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
            "content": BLOCKS, "stop_reason": "tool_use", "usage": USED, **more}  # fmt: skip


def events() -> bytes:
    """The same message as a stream."""
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": message(content=[], stop_reason=None)},
        {"type": "ping"},
    ]
    for number, block in enumerate(BLOCKS):
        start = block | ({"input": {}} if block["type"] == "tool_use" else {})
        told.append({"type": "content_block_start", "index": number, "content_block": start})
        for kind, name, piece in DELTAS[block["type"]](block):
            delta = {"type": kind, name: piece}
            told.append({"type": "content_block_delta", "index": number, "delta": delta})
        told.append({"type": "content_block_stop", "index": number})
    told.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": USED})
    told.append({"type": "message_stop"})
    return b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one, ensure_ascii=False)}\n\n".encode()
        for one in told
    )


def chunks(stream: bytes) -> list[dict[str, Any]]:
    lines = stream.decode().split("\n\n")
    assert lines.pop() == "" and lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_whole_answer_is_a_completion() -> None:
    status, body = client().answer(200, json.dumps(message()).encode())
    told = json.loads(body)
    [choice] = told["choices"]
    assert (status, choice["finish_reason"], told["usage"]) == (200, "tool_calls", COUNTED)
    assert choice["message"]["content"] == "Grüße 🙂"
    assert choice["message"]["reasoning_content"] == "Hm."
    calls = [call["function"] for call in choice["message"]["tool_calls"]]
    assert calls == [
        {"name": "read", "arguments": '{"path":"a"}'},
        {"name": "list", "arguments": "{}"},
    ]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_how_an_answer_ends(stop: str, reason: str) -> None:
    _, body = client().answer(200, json.dumps(message(stop_reason=stop)).encode())
    assert json.loads(body)["choices"][0]["finish_reason"] == reason
    reader = client().stream(9)
    told = chunks(
        reader.feed(events().replace(b'"tool_use"}, "usage"', b'"%b"}, "usage"' % stop.encode()))
    )
    assert told[-1]["choices"][0]["finish_reason"] == reason


def test_names_that_claude_does_not_take_come_back() -> None:
    """Whole and streamed, and the same in the definition, in the choice and in old calls."""
    dotted, long = "files.read", "x" * 129
    tools = [{"type": "function", "function": {"name": name}} for name in (dotted, long, "plain")]
    more: dict[str, Any] = {
        "tools": tools,
        "tool_choice": {"type": "function", "function": {"name": dotted}},
        "messages": [
            said("user", "Hi"),
            called(("c1", long, "{}")),
            said("tool", "ok", tool_call_id="c1"),
        ],
    }
    made = client(**more)
    wanted = json.loads(made.body)
    names = [tool["name"] for tool in wanted["tools"]]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name) for name in names)
    assert names[2] == "plain" and wanted["tool_choice"]["name"] == names[0]
    assert wanted["messages"][1]["content"][0]["name"] == names[1]
    use = {"type": "tool_use", "id": "toolu_1", "name": names[1], "input": {}}
    _, body = made.answer(200, json.dumps(message(content=[use])).encode())
    [call] = json.loads(body)["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == long
    raw = events().replace(b'"name": "read"', b'"name": "%b"' % names[0].encode())
    deltas = [one["choices"][0]["delta"] for one in chunks(made.stream(9).feed(raw))]
    begun = [call for delta in deltas for call in delta.get("tool_calls", ()) if "id" in call]
    assert [call["function"]["name"] for call in begun] == [dotted, "list"]


def test_a_stream_is_the_same_at_every_cut() -> None:
    given_ = events()
    reader = client(stream_options={"include_usage": True}).stream(9)
    whole = reader.feed(given_) + reader.finish()
    created = re.compile(rb'"created":\d+')
    for cut in range(len(given_)):
        other = client(stream_options={"include_usage": True}).stream(9)
        made = other.feed(given_[:cut]) + other.feed(given_[cut:]) + other.finish()
        assert created.sub(b"", made) == created.sub(b"", whole)
    told = chunks(whole)
    deltas = [c["choices"][0]["delta"] for c in told if c["choices"]]
    assert "".join(d.get("content") or "" for d in deltas) == "Grüße 🙂"
    assert "".join(d.get("reasoning_content") or "" for d in deltas) == "Hm."
    arguments: dict[int, str] = {}
    for call in (call for d in deltas for call in d.get("tool_calls", ())):
        arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
    assert arguments == {0: '{"path":"a"}', 1: "{}"}
    assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert (told[-1]["choices"], told[-1]["usage"]) == ([], COUNTED)


def test_a_stream_that_breaks_off_has_no_end() -> None:
    reader = client().stream(9)
    made = reader.feed(events()[:-40]) + reader.finish()
    assert b"[DONE]" not in made


@pytest.mark.parametrize(
    ("status", "kind", "says", "shown", "code"),
    [
        (529, "overloaded_error", "Overloaded", 503, "server_error"),
        (429, "rate_limit_error", "Slow down", 429, "rate_limit_exceeded"),
        (400, "invalid_request_error", "prompt is too long: 9", 400, "context_length_exceeded"),
        (500, "api_error", "", 500, "server_error"),
    ],
)
def test_errors_in_openais_words(status: int, kind: str, says: str, shown: int, code: str) -> None:
    told = {"type": "error", "error": {"type": kind, "message": says}}
    found, body = client().answer(status, json.dumps(told).encode())
    error = json.loads(body)["error"]
    assert (found, error["code"], error["type"]) == (shown, code, kind)
    assert error["message"]
    assert client().answer(200, b"<html>")[0] == 502


# -- Chat clients on Chat hosts ------------------------------------------------------------------


def relay(model: str = "gpt-x", limit: int | None = None, **more: Any) -> ChatChat:
    asked = {"model": "gpt-x", "messages": [said("user", "Hi")], **more}
    body = json.dumps(asked, separators=(",", ":")).encode()
    return ChatChat(body, model, max_tokens=limit, traits=Traits())


def test_only_what_must_change_changes() -> None:
    same = relay(seed=1, stop=None)
    assert json.loads(same.body)["seed"] == 1
    renamed = json.loads(relay("gpt-y", 5, max_tokens=9, max_completion_tokens=8).body)
    assert (renamed["model"], renamed["max_completion_tokens"]) == ("gpt-y", 5)
    assert "max_tokens" not in renamed
    asked = relay(stream=True, stream_options={"include_obfuscation": False})
    options = json.loads(asked.body)["stream_options"]
    assert options == {"include_obfuscation": False, "include_usage": True}


def test_a_field_that_is_given_twice_is_sent_once() -> None:
    body = b'{"model":"gpt-x","max_tokens":99999,"messages":[],"max_tokens":5}'
    made = ChatChat(body, "gpt-x", max_tokens=None, traits=Traits())
    assert made.body == b'{"model":"gpt-x","max_tokens":5,"messages":[]}'


def test_a_usage_that_was_not_asked_for_is_kept_back_at_every_cut() -> None:
    one = b'data: {"choices":[{"index":0,"delta":{"content":"\\"usage\\""}}],"usage":null}\n\n'
    filtered = b'data: {"choices":[],"prompt_filter_results":[],"usage":null}\r\n\r\n'
    used = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    end = b"data: [DONE]\n\n"
    given_ = filtered + one + used + end
    wanted = filtered.replace(b"\r", b"") + one + end
    for cut in range(len(given_)):
        passing = relay(stream=True).passing()
        assert passing is not None
        made = passing.feed(given_[:cut]) + passing.feed(given_[cut:]) + passing.finish()
        assert made == wanted
    assert relay(stream=True, stream_options={"include_usage": True}).passing() is None
