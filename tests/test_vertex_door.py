"""Vertex AI's clients of Claude through the gateway: on Claude, on other hosts, refused."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import pytest

from bifrost.errors import InvalidRequest
from bifrost.translate.vertex_anthropic import address, names, request
from tests.running import KEY, RunningGateway, RunningMock, configuration, message

INPUT, OUTPUT = 1_234, 321
MODEL = "claude-sonnet-4-5@20250929"
COST = Decimal(INPUT * 3_000 + OUTPUT * 15_000) / 10**9  # USD, at Anthropic's prices of Sonnet 4.5
MODELS = "/vertex/v1/projects/my-proj/locations/us-east5/publishers/anthropic/models"


def asked(**more: Any) -> dict[str, Any]:
    """The body of a small request."""
    whole = {k: v for k, v in message().items() if k != "model"}
    return whole | {"anthropic_version": "vertex-2023-10-16", **more}


def config(upstream: str) -> dict[str, Any]:
    made = configuration(upstream)
    made["providers"]["openai"] = {
        "type": "openai",
        "api": "chat",
        "keys": [{"name": "main", "value": "sk-openai-secret"}],
        "network": {"base_url": f"{upstream}/v1"},
    }
    made["models"] = {
        "claude-opus-4-5@*": [{"provider": "openai", "model": "gpt-5.1"}],
        "claude-*": [{"provider": "anthropic"}],
    }
    return made


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    counts = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT), "--chunks", "5")
    running = RunningMock(tmp_path_factory.mktemp("mock"), "--record-bodies", *counts)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config(mock.url))
    yield running
    running.stop()


def posted(
    gateway: RunningGateway, model: str, body: Any, verb: str = "rawPredict", key: str = KEY,
    **headers: str,
) -> httpx.Response:  # fmt: skip
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"{gateway.url}{MODELS}/{model}:{verb}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        path, content=content, headers={"authorization": f"Bearer {key}", **more}, timeout=30
    )


def sent(mock: RunningMock) -> tuple[dict[str, str], Any]:
    """Headers and body of what the host got last."""
    last = mock.requests()[0]
    return dict(map(tuple, last["headers"])), json.loads(b64decode(last["body"]))


def test_an_answer_is_claudes_and_metered_to_the_nano_dollar(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    before = gateway.settled()
    beta = "claude-code-20250219,effort-2025-11-24"
    answer = posted(
        gateway, MODEL, asked(), anthropic_beta=beta, x_goog_user_project="of-the-client"
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["input_tokens"] == INPUT
    assert Decimal(answer.headers["x-bf-cost-usd"]) == COST == gateway.settled() - before
    headers, told = sent(mock)
    assert told == message(model="claude-sonnet-4-5-20250929")
    assert (headers["anthropic-version"], headers["anthropic-beta"]) == ("2023-06-01", beta)
    assert not [name for name in headers if name.startswith("x-goog")]


def test_a_stream_is_the_hosts_and_metered(gateway: RunningGateway, mock: RunningMock) -> None:
    before = gateway.settled()
    answer = posted(gateway, MODEL, asked(stream=True), "streamRawPredict")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("event: message_start\n") and "message_stop" in answer.text
    assert gateway.settled() - before == COST
    assert sent(mock)[1] == message(model="claude-sonnet-4-5-20250929", stream=True)


def test_anthropics_sdk(gateway: RunningGateway) -> None:
    before = gateway.settled()
    with anthropic.AnthropicVertex(
        access_token=KEY, project_id="my-proj", region="us-east5",
        base_url=f"{gateway.url}/vertex/v1", max_retries=0,
    ) as client:  # fmt: skip
        whole = client.messages.create(**message(model=MODEL))
        with client.messages.stream(**message(model=MODEL)) as stream:
            final = stream.get_final_message()
        counted = client.messages.count_tokens(model=MODEL, messages=message()["messages"])
    assert whole.content and final.content
    assert (final.usage.input_tokens, final.usage.output_tokens) == (INPUT, OUTPUT)
    assert counted.input_tokens > 0
    assert gateway.settled() - before == 2 * COST


@pytest.mark.parametrize(
    ("model", "provider", "served"),
    [
        (MODEL, "anthropic", "claude-sonnet-4-5-20250929"),
        ("claude-opus-5-5@default", "anthropic", "claude-opus-5-5"),
        ("claude-opus-5-5", "anthropic", "claude-opus-5-5"),
        ("claude-opus-4-5@20251101", "openai", "gpt-5.1"),
    ],
)
def test_where_names_lead(gateway: RunningGateway, model: str, provider: str, served: str) -> None:
    answer = posted(gateway, model, asked())
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-provider"] == provider
    assert answer.headers["x-bf-model"] == served


def refused(answer: httpx.Response, status: int, kind: str, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-bf-error"] == code
    told = answer.json()
    assert (told["type"], told["error"]["type"]) == ("error", kind)
    return str(told["error"]["message"])


def test_refusals_are_anthropics(gateway: RunningGateway) -> None:
    answer = posted(gateway, MODEL, asked(), key="ya29.google")
    said = refused(answer, 401, "authentication_error", "virtual_key_required")
    assert "ANTHROPIC_AUTH_TOKEN" in said
    answer = posted(gateway, MODEL, b"[]")
    refused(answer, 400, "invalid_request_error", "invalid_request")
    answer = posted(gateway, "count-tokens", asked())
    assert "model: needed" in refused(answer, 400, "invalid_request_error", "invalid_request")
    answer = posted(gateway, MODEL, asked(), "predict")
    said = refused(answer, 404, "not_found_error", "not_found")
    assert "rawPredict" in said
    path = f"{gateway.url}{MODELS}/{MODEL}:rawPredict"
    refused(httpx.get(path), 405, "invalid_request_error", "method_not_allowed")


def test_names_and_addresses() -> None:
    path = MODELS.removeprefix("/vertex")
    assert address(f"{path}/{MODEL}:rawPredict") == (MODEL, False)
    assert address(f"{path}/claude-x%40default:streamRawPredict") == ("claude-x@default", True)
    other = path.replace("anthropic", "google")
    assert address(f"{other}/gemini:rawPredict") is None
    assert address(f"{path}/{MODEL}:countTokens") is None
    assert names(MODEL) == [MODEL, "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"]
    with pytest.raises(InvalidRequest, match="not one for rawPredict"):
        request(b"", MODEL, stream=False)
