"""The mock provider: what SDKs see, what it counts, and how it fails on demand."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from bifrost.mock import MockOptions, MockServer, running
from tests.mock_client import (
    ASK,
    CHAT,
    GEMINI,
    STEER,
    account,
    ask,
    call,
    events,
    eventually,
    post,
    raw,
    sdk,
)


@pytest.fixture(scope="module")
def plain() -> Iterator[MockServer]:
    with running(MockOptions()) as server:
        yield server


# the Anthropic dialect through its SDK


def test_sdk_message(plain: MockServer) -> None:
    with sdk(plain) as client:
        one = client.messages.with_raw_response.create(**ASK)
        two = client.messages.create(**ASK)
    message = one.parse()
    assert message.model == ASK["model"] and message.stop_reason == "end_turn"
    assert message.usage == two.usage and message.usage.output_tokens == 64
    assert message.id != two.id and one.headers["request-id"].startswith("req_")
    assert one.headers["anthropic-organization-id"]
    assert one.headers["anthropic-ratelimit-tokens-remaining"]


def test_sdk_stream(plain: MockServer) -> None:
    with sdk(plain) as client:
        with client.messages.stream(**ASK, extra_headers=STEER) as stream:
            kinds = [event.type for event in stream if event.type != "text"]
            final = stream.get_final_message()
        whole = client.messages.create(**ASK, extra_headers=STEER)
    assert kinds.count("content_block_delta") == 4
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert [b.to_dict() for b in final.content] == [b.to_dict() for b in whole.content]
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage == whole.usage
    assert final.usage.cache_creation is not None
    assert final.usage.cache_creation.ephemeral_1h_input_tokens == 24
    assert (final.usage.input_tokens, final.usage.output_tokens) == (412, 287)


def test_stream_events_and_framing(plain: MockServer) -> None:
    _, headers, data = call(plain, "/any/prefix/v1/messages?beta=true", {**ASK, "stream": True})
    names = [line[7:] for line in data.decode().splitlines() if line.startswith("event: ")]
    told = events(data)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert names == [event["type"] for event in told]
    assert names == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    first, last = told[0]["message"]["usage"], told[-2]["usage"]
    assert first["output_tokens"] == 1 and first["service_tier"] == "standard"
    assert last["output_tokens"] == 64 and last["input_tokens"] == first["input_tokens"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (402, anthropic.APIStatusError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.InternalServerError),
    ],
)
def test_sdk_errors(plain: MockServer, status: int, kind: type[anthropic.APIStatusError]) -> None:
    headers = {"x-mock-fail": str(status), "x-mock-retry-after": "7"}
    with sdk(plain) as client, pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**ASK, extra_headers=headers)
    error = caught.value
    assert error.status_code == status and (isinstance(error, kind) or status == 529)
    assert error.request_id == error.body["request_id"]  # type: ignore[index,call-overload]
    assert error.response.headers.get("retry-after") == ("7" if status in (429, 529) else None)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "not valid JSON"),
        ({**ASK, "model": None}, "model: Field required"),
        ({"model": "m", "max_tokens": 1}, "messages: Field required"),
        ({"model": "m", "messages": []}, "max_tokens: Field required"),
        ({**ASK, "max_tokens": "many"}, "max_tokens"),
    ],
)
def test_bad_requests_are_told_why(plain: MockServer, body: object, text: str) -> None:
    status, _, data = call(plain, "/v1/messages", body)
    error = json.loads(data)["error"]
    assert (status, error["type"]) == (400, "invalid_request_error") and text in error["message"]


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/chat/completions", "/v1/responses", GEMINI + "generateContent"]
)
def test_a_credential_is_needed(plain: MockServer, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: m\r\ncontent-length: 2\r\nconnection: close\r\n\r\n"
    assert raw(plain, head.encode() + b"{}").startswith(b"HTTP/1.1 401 Unauthorized\r\n")


def test_counts_and_models(plain: MockServer) -> None:
    with sdk(plain) as client:
        counted = client.messages.count_tokens(model=ASK["model"], messages=ASK["messages"])
        listed = client.models.list()
        assert client.models.retrieve("claude-opus-5-5").line == "opus"
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("claude-none")
    assert counted.input_tokens > 0 and len(listed.data) == 3
    assert ask(plain, "/v1/models", None)["object"] == "list"
    assert ask(plain, "/genai/v1beta/models", None)["models"][0]["name"] == "models/gemini-3-pro"
    assert ask(plain, GEMINI + "countTokens", {"contents": []})["totalTokens"] == 4
    body = {"model": "m", "input": "hi"}
    assert ask(plain, "/v1/responses/input_tokens", body)["input_tokens"] == 8


# the other dialects


def test_chat_usage_and_stream(plain: MockServer) -> None:
    whole = ask(plain, "/openai/v1/chat/completions", CHAT, **STEER)
    assert whole["usage"]["prompt_tokens"] == 412 + 1024 + 12288
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 12288
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 40
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    told = events(call(plain, "/v1/chat/completions", asked, STEER)[2])
    assert told[-1] == "[DONE]" and told[-2]["choices"] == []
    assert told[-2]["usage"] == whole["usage"] and told[0]["usage"] is None
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in told[:-2])
    assert text == whole["choices"][0]["message"]["content"]
    quiet = events(call(plain, "/v1/chat/completions", {**CHAT, "stream": True})[2])
    assert all("usage" not in chunk for chunk in quiet[:-1])
    limited = ask(plain, "/v1/chat/completions", {**CHAT, "max_completion_tokens": 5})
    assert limited["choices"][0]["finish_reason"] == "length"
    assert limited["usage"]["completion_tokens"] == 5


def test_responses_usage_and_stream(plain: MockServer) -> None:
    body = {"model": "gpt-6.1-sol", "input": "hello"}
    whole = ask(plain, "/v1/responses", body, **STEER)
    told = events(call(plain, "/v1/responses", {**body, "stream": True}, STEER)[2])
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[0]["type"] == "response.created" and told[-1]["type"] == "response.completed"
    assert told[-1]["response"]["usage"] == whole["usage"]
    assert whole["usage"]["input_tokens_details"]["cache_write_tokens"] == 1024
    deltas = [e["delta"] for e in told if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == whole["output"][0]["content"][0]["text"]
    cut = ask(plain, "/v1/responses", {**body, "max_output_tokens": 3})
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}


def test_gemini_usage_and_stream(plain: MockServer) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    whole = ask(plain, GEMINI + "generateContent", body, **STEER)
    data = call(plain, GEMINI + "streamGenerateContent?alt=sse", body, STEER)[2]
    told = events(data)
    assert (
        whole["usageMetadata"]
        == told[-1]["usageMetadata"]
        == {
            "promptTokenCount": 412 + 1024 + 12288,
            "cachedContentTokenCount": 12288,
            "candidatesTokenCount": 247,
            "thoughtsTokenCount": 40,
            "totalTokenCount": 412 + 1024 + 12288 + 287,
        }
    )
    assert told[-1]["candidates"][0]["finishReason"] == "STOP"
    listed = json.loads(call(plain, GEMINI + "streamGenerateContent", body)[2])
    assert len(listed) == len(told) == 4


# the account and the faults


def test_the_account_is_exact() -> None:
    with running(MockOptions(input_tokens=7)) as server:
        for stream in (False, True):
            call(server, "/v1/messages", {**ASK, "stream": stream}, STEER)
            call(server, "/x/v1/messages", {**ASK, "stream": stream})
        call(server, "/v1/chat/completions", CHAT)
        call(server, "/v1/messages", ASK, {"x-mock-fail": "529"})
        told = account(server)
        assert told["total"]["requests"] == 6 and told["total"]["failures"] == 1
        by_model = {(row["dialect"], row["model"]): row for row in told["models"]}
        assert by_model["anthropic", ASK["model"]]["served"] == {
            "input_tokens": 2 * 412 + 2 * 7,
            "cache_read_tokens": 2 * 12288,
            "cache_5m_tokens": 2 * 1000,
            "cache_1h_tokens": 2 * 24,
            "output_tokens": 2 * 287 + 2 * 64,
        }
        assert by_model["anthropic", ASK["model"]]["failures"] == 1
        assert by_model["openai", "gpt-5.1"]["served"]["input_tokens"] == 7
        assert {row["path"] for row in told["paths"]} == {
            "/v1/messages",
            "/x/v1/messages",
            "/v1/chat/completions",
        }
        call(server, "/__mock/reset", b"")
        assert account(server)["total"]["requests"] == 0


def test_each_request_is_billed_under_its_id() -> None:
    with running(MockOptions(record=True, output_tokens=64, input_tokens=9)) as server:
        call(server, "/v1/messages", ASK, {"x-request-id": "whole"})
        call(server, "/v1/messages", ASK, {"x-request-id": "failed", "x-mock-fail": "529"})
        streamed = {**ASK, "stream": True}
        with pytest.raises(http.client.IncompleteRead):
            call(server, "/v1/messages", streamed, {"x-request-id": "cut", "x-mock-cut-after": "5"})
        bills = json.loads(call(server, "/__mock/bills")[2])["bills"]
        found = [(one["request_id"], one["outcome"], one["usage"]["output"]) for one in bills]
        assert found == [("whole", "completed", 64), ("failed", "failed", 0), ("cut", "cut", 32)]
        assert json.loads(call(server, "/__mock/bills?last=1")[2])["bills"] == bills[-1:]
        call(server, "/__mock/reset", b"")
        assert json.loads(call(server, "/__mock/bills")[2])["bills"] == []
    with running(MockOptions()) as server:
        told = json.loads(call(server, "/__mock/bills")[2])
        assert told == {"recording": False, "bills": []}


@pytest.mark.parametrize(("rate", "failed"), [(1.0, 8), (0.25, 2), (0.375, 3)])
def test_failures_come_evenly(rate: float, failed: int) -> None:
    with running(MockOptions(fail=529, fail_rate=rate)) as server:
        first = [call(server, "/v1/messages", ASK)[0] for _ in range(8)]
        second = [call(server, "/v1/messages", ASK)[0] for _ in range(8)]
        assert first == second and first.count(529) == failed
        assert call(server, "/v1/messages", ASK, {"x-mock-fail": "0"})[0] == 200
        counted = {"model": "m", "messages": []}
        assert call(server, "/v1/messages/count_tokens", counted)[0] == 200


def test_a_stream_is_cut_after_k_events(plain: MockServer) -> None:
    before = len(account(plain)["cut"])
    data = raw(plain, post({**ASK, "stream": True}, "x-mock-cut-after: 5"))
    assert data.count(b"event: ") == 5 and not data.endswith(b"0\r\n\r\n")
    entry = account(plain)["cut"][before:][0]
    assert (entry["reason"], entry["events"], entry["delta_bytes"]) == ("cut", 5, 128)
    assert entry["served"]["output"] == 32 and entry["full"]["output"] == 64
    assert entry["served"]["input"] == entry["full"]["input"] > 0


def test_a_json_body_is_cut_in_half(plain: MockServer) -> None:
    head, _, body = raw(plain, post(ASK, "x-mock-cut-after: 1")).partition(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1])
    assert len(body) == length // 2


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/chat/completions", "/v1/responses", GEMINI + "stream"]
)
def test_an_error_event_ends_the_stream(plain: MockServer, path: str) -> None:
    body = {**ASK, "stream": True, "input": "x", "contents": [{}]}
    where = path + "GenerateContent?alt=sse" if path.startswith(GEMINI) else path
    status, _, data = call(plain, where, body, {"x-mock-error-event": "1"})
    last = events(data)[-1]
    assert status == 200 and ("error" in last or last.get("type") == "error")


def test_a_client_that_leaves_is_noticed() -> None:
    with running(MockOptions(chunk_interval_ms=60_000)) as server:
        raw(
            server,
            post({**ASK, "stream": True}),
            end=b'provider builds is made of plain words and"}}\n\n\r\n',
        )
        told = eventually(server, "disconnects", 1)
        entry = told["cut"][0]
        assert (entry["reason"], entry["events"], entry["delta_bytes"]) == ("client", 4, 64)
        assert entry["since_last_write_ns"] > 0 and told["total"]["cut"] == 1
        assert told["total"]["cut_served"]["output_tokens"] == 16


def test_slow_replies_keep_their_order(plain: MockServer) -> None:
    slow = ("x-mock-latency-ms: 30", "x-mock-chunk-interval-ms: 1", "x-mock-chunks: 3")
    one = post({**ASK, "stream": True}, *slow)
    two = post({**ASK, "model": "second"}, "connection: close")
    data = raw(plain, one + two)
    first, _, second = data.partition(b"0\r\n\r\nHTTP/1.1 200 OK")
    assert first.count(b"content_block_delta\ndata") == 3
    assert b'"model":"second"' in second and b"connection: close" in second


# the tool script

BASH = {"type": "object", "properties": {"command": {"type": "string"}, "description": {}}}
RESULT = "x" * 300
FINAL = f"MOCK_FINAL_OK <<<{'x' * 200}>>>"


@pytest.fixture(scope="module")
def scripted() -> Iterator[MockServer]:
    with running(MockOptions(script="tool", tool_command='echo "hi"')) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_sdk_tool_script(scripted: MockServer, stream: bool) -> None:
    tools: Any = [{"name": "Read", "input_schema": {}}, {"name": "Bash", "input_schema": BASH}]
    turns: list[Any] = [{"role": "user", "content": "go"}]

    def turn(client: anthropic.Anthropic) -> Any:
        request: Any = {**ASK, "messages": turns, "tools": tools}
        if not stream:
            return client.messages.create(**request)
        with client.messages.stream(**request) as events_:
            return events_.get_final_message()

    with sdk(scripted) as client:
        asked = turn(client)
        (block,) = asked.content
        assert asked.stop_reason == "tool_use" and block.name == "Bash"
        assert block.input == {"command": 'echo "hi"', "description": "Say hello"}
        turns.append({"role": "assistant", "content": [block.to_dict()]})
        parts = [{"type": "text", "text": RESULT}]
        result = {"type": "tool_result", "tool_use_id": block.id, "content": parts}
        turns.append({"role": "user", "content": [result]})
        assert turn(client).content[0].text == FINAL
        turns += [{"role": "assistant", "content": FINAL}, {"role": "user", "content": "more"}]
        assert "MOCK_FINAL_OK" not in turn(client).content[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_chat_tool_script(scripted: MockServer, stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "shell", "parameters": BASH}}
    body = {**CHAT, "tools": [tool], "stream": stream}
    data = call(scripted, "/v1/chat/completions", body)[2]
    if stream:
        calls = [c["choices"][0]["delta"].get("tool_calls") for c in events(data)[:-1]]
        arguments = "".join(c[0]["function"]["arguments"] for c in calls if c)
    else:
        message = json.loads(data)["choices"][0]["message"]
        arguments = message["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments)["command"] == 'echo "hi"'
    turns = [*CHAT["messages"], {"role": "tool", "tool_call_id": "c", "content": RESULT}]
    final = ask(scripted, "/v1/chat/completions", {**CHAT, "messages": turns})
    assert final["choices"][0]["message"]["content"] == FINAL


def test_responses_tool_script(scripted: MockServer) -> None:
    classic = {"type": "function", "name": "exec_command"}
    classic["parameters"] = {"properties": {"cmd": {"type": "string"}}}  # type: ignore[assignment]
    body: dict[str, Any] = {"model": "m", "input": "go", "tools": [classic]}
    (item,) = ask(scripted, "/v1/responses", body)["output"]
    assert json.loads(item["arguments"]) == {"cmd": 'echo "hi"'}
    space = {"type": "namespace", "name": "f", "tools": [{"type": "custom", "name": "exec"}]}
    lite = [{"type": "additional_tools", "tools": [space]}, {"role": "user", "content": "go"}]
    (item,) = ask(scripted, "/v1/responses", {"model": "m", "input": lite})["output"]
    assert item["type"] == "custom_tool_call" and "tools.exec_command" in item["input"]
    lite.append({"type": "custom_tool_call_output", "call_id": "c", "output": RESULT})
    (item,) = ask(scripted, "/v1/responses", {"model": "m", "input": lite})["output"]
    assert item["content"][0]["text"] == FINAL


def test_gemini_tool_script(scripted: MockServer) -> None:
    shell = {"name": "run_shell_command", "parametersJsonSchema": BASH}
    turns: list[Any] = [{"role": "user", "parts": [{"text": "go"}]}]
    body = {"contents": turns, "tools": [{"functionDeclarations": [shell]}]}
    asked = ask(scripted, GEMINI + "generateContent", body)
    part = asked["candidates"][0]["content"]["parts"][0]
    assert part["functionCall"]["args"]["command"] == 'echo "hi"' and part["thoughtSignature"]
    response = {"functionResponse": {"name": "run_shell_command", "response": {"output": RESULT}}}
    turns += [{"role": "model", "parts": [part]}, {"role": "user", "parts": [response]}]
    final = ask(scripted, GEMINI + "generateContent", body)
    assert final["candidates"][0]["content"]["parts"][0]["text"] == FINAL
