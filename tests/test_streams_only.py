"""Hosts that answer in streams only: clients that asked for none get the answer whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import openai
import pytest

from bifrost.translate.gathered import GATHERED, streaming
from tests.running import KEY, RunningGateway, RunningMock, bearer, message
from tests.test_passages import CHAT, COST, INPUT, OUTPUT, RESPONSES, Kind, mapped

COUNTS = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT), "--streams-only")
KINDS = [CHAT, RESPONSES]


def quirky(upstream: str, kind: Kind) -> dict[str, Any]:
    config = mapped(upstream, kind)
    config["providers"]["openai"]["quirks"] = {"streams_only": True}
    return config


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path_factory.mktemp("mock"), *COUNTS)
    yield running
    running.stop()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.api)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def gateway(mock: RunningMock, kind: Kind, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, quirky(mock.url, kind))
    yield running
    running.stop()


def test_without_the_quirk_it_refuses(mock: RunningMock, tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, mapped(mock.url, CHAT))
    try:
        answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
        assert answer.status_code == 400
        assert "Stream must be set to true" in answer.text
    finally:
        gateway.stop()


def test_an_anthropic_client_gets_the_whole_answer(gateway: RunningGateway) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    answer = client.messages.create(**message(model="claude-sonnet-5-5"))
    assert answer.content[0].type == "text" and answer.content[0].text
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() == COST


def test_a_chat_client_gets_the_whole_answer(gateway: RunningGateway, kind: Kind) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=KEY, max_retries=0)
    answer = client.chat.completions.create(
        model=kind.model, messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() == COST


def test_a_responses_client_gets_the_whole_answer(gateway: RunningGateway, kind: Kind) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=KEY, max_retries=0)
    answer = client.responses.create(model=kind.model, input="Hello")
    assert answer.status == "completed" and answer.output_text
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() == COST


def test_a_gemini_client_gets_the_whole_answer(gateway: RunningGateway, kind: Kind) -> None:
    asked = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    url = f"{gateway.url}/genai/v1beta/models/{kind.model}:generateContent"
    answer = httpx.post(url, json=asked, headers=bearer()).json()
    assert answer["candidates"][0]["content"]["parts"][0]["text"]
    assert answer["usageMetadata"]["promptTokenCount"] == INPUT
    assert gateway.settled() == COST


def test_who_asks_for_a_stream_gets_one(gateway: RunningGateway) -> None:
    asked = message(stream=True)
    answer = httpx.post(f"{gateway.url}/v1/messages", json=asked, headers=bearer())
    assert b"event: message_stop" in answer.content
    assert gateway.settled() == COST


def test_a_stream_that_is_cut_is_an_error_and_paid_as_one_that_was_cut(
    tmp_path: Path, kind: Kind
) -> None:
    mock = RunningMock(tmp_path, *COUNTS, "--cut-after", "5", "--chunks", "9")
    gateway = RunningGateway(tmp_path / "g", quirky(mock.url, kind))
    try:
        answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
        assert answer.status_code == 529
        assert "Try again" in answer.json()["error"]["message"]
        assert 0 < gateway.settled() < COST
        assert gateway.command("logs")["outcome"] == "broken"
    finally:
        gateway.stop()
        mock.stop()


def test_an_error_of_the_host_keeps_its_status(tmp_path: Path, kind: Kind) -> None:
    mock = RunningMock(tmp_path, *COUNTS, "--fail", "429")
    gateway = RunningGateway(tmp_path / "g", quirky(mock.url, kind))
    try:
        answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
        assert answer.status_code == 429
        assert gateway.settled() == 0
    finally:
        gateway.stop()
        mock.stop()


# -- putting a stream together -------------------------------------------------------------------


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]}


def call(index: int | None, arguments: str, name: str | None = None) -> dict[str, Any]:
    begun = {"id": f"call_{name}", "type": "function"} if name else {}
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"index": index, **begun, "function": function}


def ended(reason: str = "stop") -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in events)


def gathered(api: Any, given: bytes, step: int = 1 << 20) -> Any:
    found = GATHERED[api]()
    for place in range(0, len(given), step):
        found.feed(given[place : place + step])
    found.finish()
    return found


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_parallel_calls_thinking_and_usage_are_put_together(step: int) -> None:
    given = b": comment\n\n" + stream(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Let me "),
        chunk(reasoning_content="see."),
        chunk(content="Hé"),
        chunk(content="llo"),
        chunk(tool_calls=[call(0, "", "one"), call(1, '{"b"', "two")]),
        chunk(tool_calls=[call(1, ":2}")]),
        chunk(tool_calls=[call(0, '{"a":1}')]),
        ended("tool_calls"),
        {"id": "c", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}},
    )
    status, body = gathered("chat", given + b"data: [DONE]\n\n", step).whole
    told = json.loads(body)
    said = told["choices"][0]["message"]
    assert (status, told["object"], told["usage"]["completion_tokens"]) == (
        200, "chat.completion", 9,
    )  # fmt: skip
    assert (said["role"], said["content"], said["reasoning_content"]) == (
        "assistant", "Héllo", "Let me see.",
    )  # fmt: skip
    assert [(one["id"], one["function"]) for one in said["tool_calls"]] == [
        ("call_one", {"name": "one", "arguments": '{"a":1}'}),
        ("call_two", {"name": "two", "arguments": '{"b":2}'}),
    ]
    assert told["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_without_numbers_and_contents_in_parts() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
    given = stream(
        chunk(content=parts), chunk(content="So."), chunk(tool_calls=[call(None, "{", "one")]),
        chunk(tool_calls=[call(None, "}")]), chunk(tool_calls=[call(None, "{}", "two")]), ended(),
    )  # fmt: skip
    said = json.loads(gathered("chat", given).whole[1])["choices"][0]["message"]
    assert said["content"] == [*parts, {"type": "text", "text": "So."}]
    assert [one["function"]["arguments"] for one in said["tool_calls"]] == ["{}", "{}"]


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n"])
def test_a_stream_that_says_no_reason_was_cut(end: bytes) -> None:
    assert gathered("chat", stream(chunk(content="Hel")) + end).whole is None
    begun = stream({"type": "response.output_text.delta", "delta": "Hel"})
    assert gathered("responses", begun).whole is None


def test_an_error_in_place_of_an_answer_has_its_status_and_one_behind_a_part_breaks_it() -> None:
    error = {"error": {"message": "Too many", "code": 429}}
    status, body = gathered("chat", stream(error)).whole
    assert (status, json.loads(body)) == (429, error)
    bare = {"type": "error", "code": "rate_limit_exceeded", "message": "Too many"}
    status, body = gathered("responses", stream(bare)).whole
    assert (status, json.loads(body)["error"]["message"]) == (429, "Too many")
    with pytest.raises(ValueError, match="Too many"):
        gathered("chat", stream(chunk(content="Hel"), error))
    delta = {"type": "response.output_text.delta", "delta": "Hel"}
    with pytest.raises(ValueError, match="Too many"):
        gathered("responses", stream(delta, bare))


def test_a_response_without_output_gets_the_items_that_were_done() -> None:
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    end = {"type": "response.completed", "response": {"id": "r", "output": [], "usage": None}}
    done = {"type": "response.output_item.done", "item": item}
    status, body = gathered("responses", stream(done, end)).whole
    assert (status, json.loads(body)["output"]) == (200, [item])


def test_of_a_request_only_the_stream_is_changed() -> None:
    body = b'{"model": "m", "messages": [ {"role":"user"} ], "stream": false}'
    asked = streaming("chat", body)
    assert b'[ {"role":"user"} ]' in asked
    assert msgspec.json.decode(asked) == msgspec.json.decode(body) | {
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert msgspec.json.decode(streaming("responses", b'{"input":"a"}')) == {
        "input": "a", "stream": True,
    }  # fmt: skip


def test_what_it_paid_is_exact_to_the_nano_dollar(gateway: RunningGateway) -> None:
    answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
    assert Decimal(answer.headers["x-bf-cost-usd"]) == COST == gateway.settled()
    assert answer.headers["content-type"] == "application/json"
