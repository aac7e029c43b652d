"""Embeddings through the gateway: governed, metered and refused like every other request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from bifrost.errors import InvalidRequest
from bifrost.translate.embeddings import Embeddings
from bifrost.translate.translation import Traits
from tests.running import KEY, RunningGateway, RunningMock, bearer, budget, configuration

SMALL, GPT, CLAUDE = "text-embedding-3-small", "gpt-5.1", "claude-sonnet-4-5"
INPUT = 1_234
COST = Decimal(INPUT * 20) / 10**9  # USD: 0.02 a million


def config(upstream: str, **key: Any) -> dict[str, Any]:
    found = configuration(upstream, **key)
    found["providers"]["openai"] = {
        "type": "openai",
        "keys": [{"name": "main", "value": "sk-openai-secret"}],
        "network": {"base_url": f"{upstream}/v1"},
    }
    return found


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    folder = tmp_path_factory.mktemp("mock")
    running = RunningMock(folder, "--record-bodies", "--input-tokens", str(INPUT))
    yield running
    running.stop()


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, config(mock.url))
    yield running
    running.stop()


def sdk(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/openai/v1", api_key=KEY, max_retries=0)


def posted(gateway: RunningGateway, body: Any, path: str = "/openai/v1/embeddings") -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(gateway.url + path, content=content, headers=bearer(), timeout=30)


@pytest.mark.parametrize("given", ["Hello.", ["Hello.", "Bye."], [1, 2, 3], [[1, 2], [3]]])
def test_the_sdk_embeds_and_every_level_pays(gateway: RunningGateway, given: Any) -> None:
    answer = sdk(gateway).embeddings.create(model=SMALL, input=given, dimensions=4)
    assert len(answer.data) == (2 if given in (["Hello.", "Bye."], [[1, 2], [3]]) else 1)
    assert all(len(one.embedding) == 4 for one in answer.data)
    assert answer.usage.prompt_tokens == INPUT
    assert gateway.settled() == COST


@pytest.mark.parametrize("path", ["/v1/embeddings", "/openai/v1/embeddings"])
def test_the_body_passes_as_it_is(gateway: RunningGateway, mock: RunningMock, path: str) -> None:
    body = b'{"input" : ["caf\\u00e9", "\xc3\xa9"],"model":"%b","encoding_format":"float"}'
    answer = posted(gateway, body % SMALL.encode(), path)
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "list"
    assert Decimal(answer.headers["x-bf-cost-usd"]) == COST
    assert answer.headers["x-bf-model"] == SMALL
    sent = base64.b64decode(mock.requests()[0]["body"])
    assert b'["caf\\u00e9", "\xc3\xa9"]' in sent
    assert mock.requests()[0]["path"] == "/v1/embeddings"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": SMALL}, "input"),
        ({"model": SMALL, "input": ""}, "input"),
        ({"model": SMALL, "input": []}, "input"),
        ({"model": SMALL, "input": ["a", ""]}, "input"),
        ({"model": SMALL, "input": ["a", 1]}, "input"),
        ({"model": SMALL, "input": [[]]}, "input"),
        ({"model": SMALL, "input": {"text": "a"}}, "input"),
        ({"model": SMALL, "input": [-1]}, "input"),
        ({"model": SMALL, "input": ["a"] * 2_049}, "2,048"),
        ({"model": SMALL, "input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"model": SMALL, "input": "a", "stream": True}, "stream"),
        ({"input": "a"}, "model"),
        (b"{", "not valid"),
        (b"[]", "not valid"),
    ],
)
def test_what_is_no_request(gateway: RunningGateway, body: Any, said: str) -> None:
    answer = posted(gateway, body)
    assert (answer.status_code, answer.headers["x-bf-error"]) == (400, "invalid_request")
    assert said in answer.json()["error"]["message"]
    assert gateway.settled() == 0


def test_what_could_add_to_the_input_is_blocked(gateway: RunningGateway) -> None:
    answer = posted(gateway, {"model": SMALL, "input": "a", "input_type": "query"})
    assert (answer.status_code, answer.headers["x-bf-error"]) == (400, "field_blocked")
    assert "input_type" in answer.json()["error"]["message"]
    assert gateway.settled() == 0


def test_a_model_of_the_other_kind_is_refused_clearly(gateway: RunningGateway) -> None:
    for model in (GPT, CLAUDE):
        answer = posted(gateway, {"model": model, "input": "a"})
        assert answer.status_code == 400 and model in answer.json()["error"]["message"]
        assert "embedding model" in answer.json()["error"]["message"]
    said = {"messages": [{"role": "user", "content": "Hi"}], "model": SMALL}
    answer = posted(gateway, said, "/openai/v1/chat/completions")
    assert answer.status_code == 400 and "/openai/v1/embeddings" in answer.text
    answer = posted(gateway, said | {"max_tokens": 5}, "/v1/messages")
    assert answer.status_code == 400 and "/openai/v1/embeddings" in answer.text
    assert gateway.settled() == 0


def test_who_may_not(mock: RunningMock, tmp_path: Path) -> None:
    rules = [{"provider": "*", "allowed_models": ["gpt-*"]}]
    gateway = RunningGateway(tmp_path, config(mock.url, provider_configs=rules))
    try:
        answer = posted(gateway, {"model": SMALL, "input": "a"})
        assert (answer.status_code, answer.headers["x-bf-error"]) == (404, "model_blocked")
        url = f"{gateway.url}/openai/v1/embeddings"
        unknown = httpx.post(url, json={"model": SMALL, "input": "a"})
        assert (unknown.status_code, unknown.headers["x-bf-error"]) == (401, "virtual_key_required")
    finally:
        gateway.stop()


def test_a_budget_holds_under_load(mock: RunningMock, tmp_path: Path) -> None:
    """Each request reserves a token for each of its bytes: ten of these and no more at once."""
    gateway = RunningGateway(tmp_path, config(mock.url, budgets=budget("0.0002")))
    try:
        body = {"model": SMALL, "input": "a" * 5_000}
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: posted(gateway, body), range(48)))
        served = [answer for answer in answers if answer.status_code == 200]
        refused = {answer.headers["x-bf-error"] for answer in answers if answer not in served}
        assert served and refused == {"budget_exceeded"}
        assert gateway.settled() == COST * len(served) <= Decimal("0.0002")
    finally:
        gateway.stop()


def test_lists_of_models(gateway: RunningGateway) -> None:
    assert SMALL in {model.id for model in sdk(gateway).models.list()}
    versioned = bearer() | {"anthropic-version": "2023-06-01"}
    page = httpx.get(f"{gateway.url}/v1/models?limit=1000", headers=versioned).json()
    assert SMALL not in {model["id"] for model in page["data"]}


def test_another_target_embeds_where_the_first_fails(mock: RunningMock, tmp_path: Path) -> None:
    found = config(mock.url)
    network = {"base_url": "http://127.0.0.1:9/v1"}
    found["providers"]["dead"] = found["providers"]["openai"] | {"network": network}
    targets = [{"provider": "dead"}, {"provider": "openai", "standby": True}]
    found["models"] = {SMALL: targets}
    gateway = RunningGateway(tmp_path, found)
    try:
        answer = posted(gateway, {"model": SMALL, "input": "a"})
        assert (answer.status_code, answer.headers["x-bf-provider"]) == (200, "openai")
        assert gateway.settled() == COST
    finally:
        gateway.stop()


def test_errors_of_the_host_cost_nothing(gateway: RunningGateway) -> None:
    answer = posted(gateway, {"model": SMALL, "input": "a", "dimensions": 1_000_000})
    assert answer.status_code == 400 and "dimensions" in answer.json()["error"]["message"]
    assert gateway.settled() == 0


def relayed(body: Any, model: str = SMALL) -> Embeddings:
    return Embeddings(json.dumps(body).encode(), model, max_tokens=None, traits=Traits())


@pytest.mark.parametrize(
    ("given", "tokens"), [("a" * 36, 11), (["a" * 36, "b"], 12), ([1, 2, 3], 3), ([[1, 2], [3]], 3)]
)
def test_a_host_that_counts_nothing_is_estimated(given: Any, tokens: int) -> None:
    relay = relayed({"model": SMALL, "input": given})
    for told in ({"data": []}, {"data": [], "usage": {"prompt_tokens": 0}}):
        _, metered = relay.answer(200, json.dumps(told).encode())
        used = {"output_tokens": 0, "input_tokens": tokens, "estimated": ["input_tokens"]}
        assert json.loads(metered)["usage"] == used


def test_the_name_of_the_model_is_all_that_changes() -> None:
    body = b'{"input":[ "a",  "b" ],"model":"%b","user":"u"}'
    relay = Embeddings(body % b"alias", SMALL, max_tokens=None, traits=Traits())
    assert relay.body == body % SMALL.encode()
    with pytest.raises(InvalidRequest):
        Embeddings(b'{"model":"m"}', SMALL, max_tokens=None, traits=Traits())
