"""Token counts over real HTTP: by which host's call they are counted for which client, where they
go when a target fails, and that they cost nothing and fail no agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai

from bifrost.metering.usage import output_estimate
from tests.issuer import Answer, Asked, Issuer
from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration, message
from tests.servers import free_ports

CLAUDE, GPT, GEMINI = "claude-sonnet-4-5", "gpt-5.1", "gemini-2.5-pro"
CHAT_ONLY = "groq/llama-guard-3-8b"
COUNT = "/v1/messages/count_tokens"
PATHS = {
    CLAUDE: COUNT,
    GPT: "/v1/responses/input_tokens",
    GEMINI: f"/v1beta/models/{GEMINI}:countTokens",
}
TEXT = "Count me. " * 40


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path_factory.mktemp("mock"), "--input-tokens", "1234")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One host of each dialect."""
    config = configuration(mock.url)
    for kind, base in (("openai", "/v1"), ("gemini", "/v1beta"), ("groq", "/v1")):
        config["providers"][kind] = {
            "type": kind,
            "keys": [{"name": "main", "value": "sk-host"}],
            "network": {"base_url": mock.url + base},
        }
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config)
    yield running
    running.stop()


def by_anthropic(url: str, model: str) -> httpx.Response:
    with anthropic.Anthropic(base_url=url, auth_token=KEY, max_retries=0) as client:
        tool: Any = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
        raw = client.messages.with_raw_response.count_tokens(
            model=model, messages=[{"role": "user", "content": TEXT}], system="Be brief.",
            tools=[tool],
        )  # fmt: skip
        assert raw.parse().input_tokens > 0
        return raw.http_response


def by_openai(url: str, model: str) -> httpx.Response:
    with openai.OpenAI(base_url=f"{url}/openai/v1", api_key=KEY, max_retries=0) as client:
        raw = client.responses.input_tokens.with_raw_response.count(
            model=model, input=TEXT, instructions="Be brief.", reasoning={"effort": "low"}
        )
        told = raw.parse()
        assert (told.object, told.input_tokens > 0) == ("response.input_tokens", True)
        return raw.http_response


def by_gemini(url: str, model: str) -> httpx.Response:
    with genai.Client(
        api_key=KEY, http_options={"base_url": f"{url}/genai", "api_version": "v1beta"}
    ) as client:
        assert (client.models.count_tokens(model=model, contents=TEXT).total_tokens or 0) > 0
    whole = {"contents": [{"role": "user", "parts": [{"text": TEXT}]}],
             "systemInstruction": {"parts": [{"text": "Be brief."}]},
             "generationConfig": {"temperature": 0, "maxOutputTokens": 100}}  # fmt: skip
    return httpx.post(
        f"{url}/genai/v1beta/models/{model}:countTokens",
        json={"generateContentRequest": {"model": f"models/{model}", **whole}},
        headers=bearer(), timeout=30,
    )  # fmt: skip


CLIENTS: list[Callable[[str, str], httpx.Response]] = [by_anthropic, by_openai, by_gemini]


@pytest.mark.parametrize("model", PATHS)
@pytest.mark.parametrize("client", CLIENTS, ids=["anthropic", "openai", "gemini"])
def test_each_host_counts_by_its_own_call_for_each_client(
    gateway: RunningGateway, mock: RunningMock, client: Any, model: str
) -> None:
    answer = client(gateway.url, model)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-count"] == "reported"
    assert "1234" in answer.text
    assert mock.requests()[0]["path"].partition("?")[0] == PATHS[model]
    assert gateway.settled() == 0


@pytest.mark.parametrize("client", CLIENTS, ids=["anthropic", "openai", "gemini"])
def test_where_no_host_counts_the_size_is_the_answer(
    gateway: RunningGateway, mock: RunningMock, client: Any
) -> None:
    before = mock.requests(1_000)
    answer = client(gateway.url, CHAT_ONLY)
    assert answer.status_code == 200 and answer.headers["x-bf-count"] == "estimated"
    assert mock.requests(1_000) == before


def test_a_count_needs_a_key_a_model_and_what_its_host_can_be_told(gateway: RunningGateway) -> None:
    url = f"{gateway.url}/openai/v1/responses/input_tokens"
    assert httpx.post(url, json={"model": GPT, "input": "x"}).status_code == 401
    refused = httpx.post(url, json={"input": "x"}, headers=bearer())
    assert (refused.status_code, "model" in refused.json()["error"]["message"]) == (400, True)
    search = {"type": "web_search_20250305", "name": "web_search"}
    untold = httpx.post(
        gateway.url + COUNT, json=message(model=GEMINI, tools=[search]), headers=bearer()
    )
    assert untold.status_code == 400 and "web_search" in untold.json()["error"]["message"]


# failover

Start = Callable[..., RunningGateway]


@pytest.fixture
def start(mock: RunningMock, tmp_path: Path) -> Iterator[Start]:
    """Starts a gateway whose Sonnet is at ``first``, and at the mock behind it."""
    running: list[RunningGateway] = []

    def begin(first: str, *, alone: bool = False) -> RunningGateway:
        config = configuration(mock.url)
        config["providers"]["first"] = {
            "type": "anthropic",
            "keys": [{"name": "main", "value": "sk-ant-first"}],
            "network": {"base_url": first, "max_retries": 0},
        }
        behind = {"provider": "anthropic", "model": CLAUDE, "standby": True}
        config["models"] = {CLAUDE: [{"provider": "first"}, *([] if alone else [behind])]}
        running.append(RunningGateway(tmp_path / "gateway", config))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def failing(status: int) -> Issuer:
    """A host that serves requests and fails counts."""

    def answer(asked: Asked) -> Answer:
        if asked.path.endswith("/count_tokens"):
            error = {"type": "some_error", "message": f"count fails with {status}"}
            return status, {"type": "error", "error": error}
        return 200, {
            "id": "msg_1", "type": "message", "role": "assistant", "model": CLAUDE,
            "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn",
            "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 4},
        }  # fmt: skip

    return Issuer(answer)


def count(gateway: RunningGateway) -> httpx.Response:
    body = message()
    return httpx.post(gateway.url + COUNT, json=body, headers=bearer(), timeout=30)


def estimated(answer: httpx.Response) -> bool:
    assert answer.status_code == 200, answer.text
    tokens = answer.json()["input_tokens"]
    told: str = answer.headers["x-bf-count"]
    return told == "estimated" and tokens == output_estimate(len(answer.request.content))


@pytest.mark.parametrize("status", [401, 408, 429, 500, 529])
def test_a_count_that_fails_goes_to_the_next_target_and_rests_nothing(
    start: Start, status: int
) -> None:
    with failing(status) as host:
        gateway = start(host.url)
        for _ in range(4):
            answer = count(gateway)
            assert answer.json() == {"input_tokens": 1234}
            assert answer.headers["x-bf-count"] == "reported"
            assert answer.headers["x-bf-provider"] == "anthropic"
            assert answer.headers["x-bf-attempts"] == "2"
        served = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
        assert served.headers["x-bf-provider"] == "first"
        assert gateway.settled() > 0


def test_a_dead_target_is_passed_over_and_rests(start: Start) -> None:
    gateway = start(f"http://127.0.0.1:{free_ports(1)[0]}")
    assert count(gateway).headers["x-bf-attempts"] == "2"
    served = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer(), timeout=30)
    assert (served.status_code, served.headers["x-bf-attempts"]) == (200, "1")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_host_without_the_call_is_estimated_for(start: Start, status: int) -> None:
    with failing(status) as host:
        gateway = start(host.url, alone=True)
        assert estimated(count(gateway))


@pytest.mark.parametrize("status", [401, 429, 500])
def test_where_every_target_fails_the_size_is_the_answer(start: Start, status: int) -> None:
    with failing(status) as host:
        gateway = start(host.url, alone=True)
        assert estimated(count(gateway))
        assert gateway.settled() == 0


def test_a_dead_host_alone_is_estimated_for(start: Start) -> None:
    gateway = start(f"http://127.0.0.1:{free_ports(1)[0]}", alone=True)
    assert estimated(count(gateway))


@pytest.mark.parametrize("status", [400, 413])
def test_what_is_about_the_request_reaches_the_client(start: Start, status: int) -> None:
    with failing(status) as host:
        gateway = start(host.url)
        answer = count(gateway)
        assert answer.status_code == status and "x-bf-count" not in answer.headers
        assert answer.json()["error"]["message"] == f"count fails with {status}"
