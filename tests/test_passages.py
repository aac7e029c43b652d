"""Anthropic clients on hosts of other dialects: served and metered like any other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import httpx
import pytest

from bifrost.metering.usage import output_estimate
from tests.running import (
    KEY,
    RunningGateway,
    RunningMock,
    bearer,
    configuration,
    message,
)

INPUT, OUTPUT = 1_234, 321
COST = Decimal(INPUT * 1_250 + OUTPUT * 10_000) / 10**9  # USD, at the prices of all these models
SECRET = "sk-host-secret"


class Kind(NamedTuple):
    """A kind of host: provider type and API, a model of it, and how a request reaches it."""

    type: str
    api: str
    model: str
    base: str
    path: str
    streamed: str
    header: tuple[str, str] = ("authorization", f"Bearer {SECRET}")
    place: tuple[tuple[str, str], ...] = ()


CHAT = Kind("openai", "chat", "gpt-5.1", "/v1", "/v1/chat/completions", "/v1/chat/completions")
RESPONSES = Kind("openai", "responses", "gpt-5.1-codex", "/v1", "/v1/responses", "/v1/responses")
_GEMINI = "/v1beta/models/gemini-2.5-pro"
GEMINI = Kind(
    "gemini", "gemini", "gemini-2.5-pro", "/v1beta", f"{_GEMINI}:generateContent",
    f"{_GEMINI}:streamGenerateContent?alt=sse", ("x-goog-api-key", SECRET),
)  # fmt: skip
_NOVA = "amazon.nova-2-pro-preview-20251202-v1:0"
CONVERSE = Kind(
    "bedrock", "converse", _NOVA, "", f"/model/{_NOVA}/converse",
    f"/model/{_NOVA}/converse-stream", place=(("region", "us-east-1"),),
)  # fmt: skip
KINDS = [CHAT, RESPONSES, GEMINI, CONVERSE]


def mapped(upstream: str, kind: Kind = CHAT, **key: Any) -> dict[str, Any]:
    """The Sonnet tier on a host of that kind."""
    config = configuration(upstream, **key)
    config["providers"] = {
        kind.type: {
            "type": kind.type,
            "api": kind.api,
            "keys": [{"name": "main", "value": SECRET}],
            "network": {"base_url": upstream + kind.base},
            **dict(kind.place),
        }
    }
    config["models"] = {"claude-sonnet-*": [{"provider": kind.type, "model": kind.model}]}
    return config


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    options = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT))
    running = RunningMock(tmp_path_factory.mktemp("mock"), *options)
    yield running
    running.stop()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.api)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of host in turn."""
    found: Kind = request.param
    return found


@pytest.fixture
def gateway(mock: RunningMock, kind: Kind, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, mapped(mock.url, kind))
    yield running
    running.stop()


def test_an_answer_is_anthropic_and_metered_to_the_nano_dollar(
    gateway: RunningGateway, mock: RunningMock, kind: Kind
) -> None:
    answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["type"], told["role"], told["stop_reason"]) == ("message", "assistant", "end_turn")
    assert told["usage"]["input_tokens"] == INPUT
    assert answer.headers["x-bf-provider"] == kind.type
    assert answer.headers["x-bf-model"] == kind.model
    assert Decimal(answer.headers["x-bf-cost-usd"]) == COST == gateway.settled()
    sent = mock.requests()[0]
    headers = dict(map(tuple, sent["headers"]))
    assert sent["path"] == kind.path
    assert headers[kind.header[0]] == kind.header[1]
    assert not [name for name in headers if name.startswith(("anthropic", "x-api-key"))]
    row = gateway.command("logs")
    assert (row["provider"], row["model"]) == (kind.type, kind.model)
    assert row["upstream_request_id"]


def test_the_sdk_reads_a_stream(gateway: RunningGateway, mock: RunningMock, kind: Kind) -> None:
    with (
        anthropic.Anthropic(base_url=gateway.url, auth_token=KEY) as client,
        client.messages.stream(**message(model="claude-sonnet-5-5")) as stream,
    ):
        assert stream.get_final_text()
        final = stream.get_final_message()
    assert (final.usage.input_tokens, final.usage.output_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() == COST
    assert mock.requests()[0]["path"] == kind.streamed
    row = gateway.command("logs")  # says who served, whatever the client is told
    assert (row["provider"], row["model"]) == (kind.type, kind.model)


def test_a_stream_begins_with_a_guess_of_its_input(gateway: RunningGateway) -> None:
    """Agents take from it how full their context is: nothing would keep them from compacting."""
    asked = message(stream=True, system="word " * 2_000)
    answer = httpx.post(f"{gateway.url}/v1/messages", json=asked, headers=bearer())
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    begun = json.loads(lines[0][6:])
    assert begun["type"] == "message_start"
    assert 2_000 <= begun["message"]["usage"]["input_tokens"] <= 4_000
    last = json.loads(lines[-2][6:])
    assert (last["type"], last["usage"]["input_tokens"]) == ("message_delta", INPUT)


def test_tokens_are_counted_by_the_host_or_by_size(gateway: RunningGateway, kind: Kind) -> None:
    path = f"{gateway.url}/v1/messages/count_tokens"
    answer = httpx.post(path, json=message(), headers=bearer() | {"x-request-id": "n-1"})
    if kind is CHAT:  # by configuration it has no other API
        assert answer.headers["x-bf-count"] == "estimated"
        assert answer.json()["input_tokens"] == output_estimate(len(answer.request.content))
    else:
        assert answer.headers["x-bf-count"] == "reported"
        assert answer.json() == {"input_tokens": INPUT}
    assert answer.headers["x-request-id"] == "n-1"
    assert gateway.settled() == 0


def test_models_that_answer_are_listed_and_no_others(gateway: RunningGateway, kind: Kind) -> None:
    page = httpx.get(f"{gateway.url}/v1/models", headers=bearer()).json()
    listed = {model["id"] for model in page["data"]}
    assert kind.model in listed
    assert not listed & {"text-embedding-3-small", "gemini-embedding-001"}
    assert ("gpt-5-codex" in listed) is (kind is RESPONSES)  # not of the chat API


def test_what_cannot_be_translated_is_refused_and_costs_nothing(gateway: RunningGateway) -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}
    answer = httpx.post(
        f"{gateway.url}/v1/messages", json=message(tools=[search]), headers=bearer()
    )
    assert answer.status_code == 400
    assert answer.headers["x-bf-error"] == "invalid_request"
    assert "web_search" in answer.json()["error"]["message"]
    assert gateway.settled() == 0


def test_an_output_limit_is_lowered_to_what_is_left(
    mock: RunningMock, kind: Kind, tmp_path: Path
) -> None:
    poor = [{"max_limit": "0.05", "reset_duration": "1Y"}]
    gateway = RunningGateway(tmp_path, mapped(mock.url, kind, budgets=poor))
    try:
        asked = message(max_tokens=64_000)
        answer = httpx.post(f"{gateway.url}/v1/messages", json=asked, headers=bearer())
        assert answer.status_code == 200, answer.text
        assert 1_024 <= int(answer.headers["x-bf-output-limit"]) < 64_000
    finally:
        gateway.stop()


def test_errors_of_the_host_keep_their_status(kind: Kind, tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--fail", "429")
    gateway = RunningGateway(tmp_path / "g", mapped(mock.url, kind))
    try:
        answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert gateway.settled() == 0
    finally:
        gateway.stop()
        mock.stop()


def test_a_stream_that_the_host_cuts_is_told_and_paid(kind: Kind, tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--cut-after", "3", "--chunks", "9", "--output-tokens", "300")
    gateway = RunningGateway(tmp_path / "g", mapped(mock.url, kind))
    try:
        path = f"{gateway.url}/v1/messages"
        answer = httpx.post(path, json=message(stream=True), headers=bearer())
        assert answer.status_code == 200
        assert b"event: error" in answer.content
        assert b"message_stop" not in answer.content
        assert len(mock.requests(100)) == 1, "what has begun is not asked for again"
        assert gateway.settled() > 0
    finally:
        gateway.stop()
        mock.stop()


def test_a_limit_that_the_host_refuses_as_too_low_is_raised_and_reserved(tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--record-bodies")
    gateway = RunningGateway(tmp_path / "g", mapped(mock.url, RESPONSES))
    try:
        path = f"{gateway.url}/v1/messages"
        answer = httpx.post(path, json=message(max_tokens=1), headers=bearer())
        assert answer.status_code == 200, answer.text
        body = json.loads(base64.b64decode(mock.requests()[0]["body"]))
        assert body["max_output_tokens"] == 16
        assert answer.headers["x-bf-output-limit"] == "16"
    finally:
        gateway.stop()
        mock.stop()


def test_a_model_that_only_responses_serves_is_asked_there(tmp_path: Path) -> None:
    """Though the host's usual API is Chat."""
    mock = RunningMock(tmp_path)
    config = mapped(mock.url, RESPONSES)
    del config["providers"]["openai"]["api"]
    gateway = RunningGateway(tmp_path / "g", config)
    try:
        answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
        assert answer.status_code == 200, answer.text
        assert mock.requests()[0]["path"] == RESPONSES.path
    finally:
        gateway.stop()
        mock.stop()
