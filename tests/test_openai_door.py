"""OpenAI's clients through the gateway: on hosts of their own dialect and on Claude."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration

INPUT, OUTPUT = 1_234, 321
GPT, CLAUDE = "gpt-5.1", "claude-sonnet-4-5"
COSTS = {  # USD, at the catalogue's prices
    GPT: Decimal(INPUT * 1_250 + OUTPUT * 10_000) / 10**9,
    CLAUDE: Decimal(INPUT * 3_000 + OUTPUT * 15_000) / 10**9,
}
SHELL = {
    "type": "function",
    "function": {
        "name": "bash",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    },
}


def both(upstream: str, **key: Any) -> dict[str, Any]:
    """A host of OpenAI's and one of Anthropic's."""
    config = configuration(upstream, **key)
    config["providers"]["openai"] = {
        "type": "openai",
        "keys": [{"name": "main", "value": "sk-openai-secret"}],
        "network": {"base_url": f"{upstream}/v1"},
    }
    return config


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    options = (
        "--record-bodies",
        "--input-tokens",
        str(INPUT),
        "--output-tokens",
        str(OUTPUT),
        "--chunks",
        "5",
    )
    running = RunningMock(tmp_path_factory.mktemp("mock"), *options)
    yield running
    running.stop()


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, both(mock.url))
    yield running
    running.stop()


def sdk(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=KEY, max_retries=0)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": GPT, "messages": [{"role": "user", "content": "Say hello."}], **more}


def posted(gateway: RunningGateway, body: Any, path: str = "/openai/v1/chat/completions") -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(gateway.url + path, content=content, headers=bearer(), timeout=30)


def told(mock: RunningMock) -> bytes:
    """The body of the last request that the host got."""
    return base64.b64decode(mock.requests()[0]["body"])


@pytest.mark.parametrize("model", [GPT, CLAUDE])
def test_the_sdk_completes_on_either_host_and_every_level_pays(
    gateway: RunningGateway, model: str
) -> None:
    answer = sdk(gateway).chat.completions.create(**chat(model=model, max_completion_tokens=500))
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() == COSTS[model]


@pytest.mark.parametrize("model", [GPT, CLAUDE])
@pytest.mark.parametrize("tells", [True, False])
def test_a_stream_tells_its_usage_only_to_those_who_ask(
    gateway: RunningGateway, model: str, tells: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if tells else {}
    stream = sdk(gateway).chat.completions.create(
        **chat(model=model, stream=True, max_completion_tokens=500, **options)
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    used = [chunk.usage for chunk in chunks if chunk.usage]
    assert text
    assert [chunk for chunk in chunks if not chunk.choices] == ([chunks[-1]] if tells else [])
    assert [(one.prompt_tokens, one.completion_tokens) for one in used] == (
        [(INPUT, OUTPUT)] if tells else []
    )
    assert gateway.settled() == COSTS[model]


def test_the_sdk_gets_a_response_and_every_level_pays(gateway: RunningGateway) -> None:
    answer = sdk(gateway).responses.create(model=GPT, input="Say hello.", max_output_tokens=500)
    assert answer.output_text
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() == COSTS[GPT]


def test_a_response_is_streamed_and_paid(gateway: RunningGateway) -> None:
    with sdk(gateway).responses.stream(model=GPT, input="Say hello.") as stream:
        final = stream.get_final_response()
    assert final.output_text
    assert final.usage is not None and final.usage.output_tokens == OUTPUT
    assert gateway.settled() == COSTS[GPT]


def test_a_search_of_the_web_is_taken_out_of_a_request(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    function = {"type": "function", "name": "bash", "parameters": {}, "strict": False}
    asked = {"model": GPT, "input": "Go", "tools": [function, {"type": "web_search"}]}
    assert posted(gateway, asked, "/v1/responses").status_code == 200
    assert json.loads(told(mock))["tools"] == [function]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"background": True}, "invalid_prompt"),
        ({"tools": [{"type": "code_interpreter"}]}, "invalid_prompt"),
        ({"model": CLAUDE, "previous_response_id": "resp_1"}, "invalid_request"),
    ],
)
def test_responses_that_cannot_be_bounded_or_translated_are_refused(
    gateway: RunningGateway, more: dict[str, Any], code: str
) -> None:
    answer = posted(gateway, {"model": GPT, "input": "Go", **more}, "/v1/responses")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert gateway.settled() == 0


def test_a_stored_conversation_counts_as_a_full_window(mock: RunningMock, tmp_path: Path) -> None:
    poor = [{"max_limit": "0.05", "reset_duration": "1Y", "tight": "refuse"}]
    gateway = RunningGateway(tmp_path, both(mock.url, budgets=poor))
    try:
        asked = {"model": GPT, "input": "Go", "max_output_tokens": 500}
        stored = posted(gateway, asked | {"previous_response_id": "resp_1"}, "/v1/responses")
        assert stored.json()["error"]["type"] == "usage_limit_reached"
        assert posted(gateway, asked, "/v1/responses").status_code == 200
    finally:
        gateway.stop()


def test_bytes_pass_untouched_between_the_same_dialects(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    asked = chat(max_completion_tokens=500, seed=7, a_field_of_next_year={"b": [1.50, None]})
    body = json.dumps(asked, separators=(",", ":")).replace("1.5", "1.50").encode()
    assert b"1.50" in body
    answer = posted(gateway, body)
    [sent] = mock.requests()
    assert told(mock) == body
    headers = dict(map(tuple, sent["headers"]))
    assert sent["path"] == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer sk-openai-secret"
    assert KEY not in json.dumps(sent)
    shown = answer.headers
    assert "," not in shown["x-request-id"]
    assert not [name for name in shown if name.startswith(("openai-org", "x-ratelimit-"))]
    assert (shown["x-bf-provider"], shown["x-bf-model"]) == ("openai", GPT)
    assert Decimal(shown["x-bf-cost-usd"]) == COSTS[GPT]


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_compressed_bodies_are_opened(
    gateway: RunningGateway, mock: RunningMock, path: str
) -> None:
    asked = chat(max_completion_tokens=500) | {"input": "Say hello.", "max_output_tokens": 500}
    del asked["messages" if path == "responses" else "input"]
    body = json.dumps(asked, separators=(",", ":")).encode()
    url, packed = f"{gateway.url}/openai/v1/{path}", bearer() | {"content-encoding": "gzip"}
    answer = httpx.post(url, content=gzip.compress(body), headers=packed, timeout=30)
    assert answer.status_code == 200, answer.text
    assert told(mock) == body
    assert "content-encoding" not in dict(map(tuple, mock.requests()[0]["headers"]))
    odd = httpx.post(url, content=body, headers=bearer() | {"content-encoding": "br"})
    assert odd.status_code == 415


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("claude-opus-5-5", {"tool_choice": None, "temperature": None, "thinking": "adaptive"}),
        ("claude-sonnet-4-5", {"tool_choice": "any", "temperature": 0.5, "thinking": None}),
    ],
)
def test_what_a_model_can_be_told_is_known_from_the_catalogue(
    gateway: RunningGateway, mock: RunningMock, model: str, says: dict[str, Any]
) -> None:
    """Whether it can be made to call a tool, takes a temperature and decides itself to think."""
    more = {"tool_choice": "required", "temperature": 0.5, "reasoning_effort": "high"}
    answer = posted(gateway, chat(model=model, tools=[SHELL], max_completion_tokens=9_000, **more))
    assert answer.status_code == 200, answer.text
    wanted = json.loads(told(mock))
    found = {name: wanted.get(name) for name in says}
    assert {k: v["type"] if isinstance(v, dict) else v for k, v in found.items()} == says


def test_a_limit_is_set_where_the_client_names_none(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    answer = posted(gateway, chat())
    limit = json.loads(told(mock))["max_completion_tokens"]
    assert limit == int(answer.headers["x-bf-output-limit"]) > 0


def test_a_tool_is_called_by_claude_for_a_chat_client(tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--script", "tool")
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    try:
        client = sdk(gateway)
        asked = chat(model=CLAUDE, tools=[SHELL], max_completion_tokens=900)
        first = client.chat.completions.create(**asked)
        [call] = first.choices[0].message.tool_calls or []
        assert first.choices[0].finish_reason == "tool_calls"
        turns = [
            *asked["messages"],
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        second = client.chat.completions.create(**asked | {"messages": turns})
        assert second.choices[0].finish_reason == "stop"
        assert "sunny" in (second.choices[0].message.content or "")
    finally:
        gateway.stop()
        mock.stop()


@pytest.mark.parametrize(
    ("body", "status", "kind", "code", "says"),
    [
        (b"{", 400, "invalid_request_error", "invalid_request", "not valid"),
        ({"messages": []}, 400, "invalid_request_error", "invalid_request", "model"),
        (chat(model="gpt-none"), 404, "invalid_request_error", "model_not_found", "gpt-none"),
        (chat(n=2), 400, "invalid_request_error", "invalid_prompt", "'n'"),
        (chat(web_search_options={"a": 1}), 400, "invalid_request_error", "invalid_prompt", "web"),
        (chat(max_tokens="9"), 400, "invalid_request_error", "invalid_request", "max_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_in_openais_words(
    gateway: RunningGateway, body: Any, status: int, kind: str, code: str, says: str
) -> None:
    answer = posted(gateway, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (status, kind, code)
    assert says in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert gateway.settled() == 0


def test_a_key_is_needed_and_other_paths_are_not_served(gateway: RunningGateway) -> None:
    for path, status, code in (
        ("/openai/v1/chat/completions", 401, "virtual_key_required"),
        ("/openai/v1/images/generations", 404, "not_found"),
    ):
        answer = httpx.post(gateway.url + path, json=chat())
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code == answer.headers["x-bf-error"]


def test_a_websocket_is_told_to_post(gateway: RunningGateway) -> None:
    headers = bearer() | {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert httpx.get(f"{gateway.url}/openai/v1/responses", headers=headers).status_code == 426


def test_a_spent_budget_is_said_as_codex_shows_it(mock: RunningMock, tmp_path: Path) -> None:
    poor = [{"max_limit": "0.000001", "reset_duration": "1d"}]
    config = both(mock.url, budgets=poor) | {"help_url": "https://wiki.example.com/ai"}
    gateway = RunningGateway(tmp_path, config)
    try:
        answer = posted(gateway, chat())
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (429, "usage_limit_reached")
        assert error["resets_at"] > 1_700_000_000
        assert answer.headers["x-codex-promo-message"] == "Ask at https://wiki.example.com/ai"
        assert answer.headers["x-should-retry"] == "false"
    finally:
        gateway.stop()


def test_a_small_budget_lowers_the_limit(mock: RunningMock, tmp_path: Path) -> None:
    poor = [{"max_limit": "0.05", "reset_duration": "1Y"}]
    gateway = RunningGateway(tmp_path, both(mock.url, budgets=poor))
    try:
        answer = posted(gateway, chat(max_tokens=64_000))
        assert answer.status_code == 200, answer.text
        limit = int(answer.headers["x-bf-output-limit"])
        assert 1_024 <= limit < 64_000
        asked = json.loads(told(mock))
        assert asked["max_completion_tokens"] == limit and "max_tokens" not in asked
    finally:
        gateway.stop()


@pytest.mark.parametrize("model", [GPT, CLAUDE])
def test_a_stream_that_is_cut_is_told_and_paid(tmp_path: Path, model: str) -> None:
    mock = RunningMock(tmp_path, "--cut-after", "3", "--chunks", "9", "--output-tokens", "300")
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    try:
        stream = sdk(gateway).chat.completions.create(**chat(model=model, stream=True))
        with pytest.raises(openai.APIError, match="Try again"):
            list(stream)
        assert len(mock.requests(100)) == 1, "what has begun is not asked for again"
        assert gateway.settled() > 0
        assert gateway.command("logs")["outcome"] == "broken"
    finally:
        gateway.stop()
        mock.stop()


@pytest.mark.parametrize(("model", "status"), [(GPT, 429), (CLAUDE, 429), (CLAUDE, 529)])
def test_errors_of_the_host_reach_the_client(tmp_path: Path, model: str, status: int) -> None:
    mock = RunningMock(tmp_path, "--fail", str(status))
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    try:
        answer = posted(gateway, chat(model=model))
        assert answer.status_code == (503 if status == 529 else status)
        assert answer.json()["error"]["message"]
        assert gateway.settled() == 0
    finally:
        gateway.stop()
        mock.stop()


def test_models_are_listed_in_the_dialect_of_who_asks(gateway: RunningGateway) -> None:
    names = {model.id for model in sdk(gateway).models.list()}
    assert {GPT, CLAUDE} <= names
    assert sdk(gateway).models.retrieve(GPT).id == GPT
    bare = {"authorization": bearer()["authorization"]}
    assert httpx.get(f"{gateway.url}/v1/models", headers=bare).json()["object"] == "list"
    versioned = bare | {"anthropic-version": "2023-06-01"}
    page = httpx.get(f"{gateway.url}/v1/models", headers=versioned).json()
    assert page["has_more"] is False
