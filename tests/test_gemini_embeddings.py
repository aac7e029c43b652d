"""Embeddings by Gemini's own API: its clients, its hosts, and OpenAI's form on either side."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from google import genai
from google.genai import types

from bifrost.errors import InvalidRequest
from bifrost.mock.embeddings import vector
from bifrost.translate.gemini_embeddings import GeminiEmbeddings, GeminiOpenAIEmbeddings
from bifrost.translate.translation import Traits
from tests.running import KEY, RunningGateway, RunningMock, budget, configuration

OWN, SMALL, CHAT = "gemini-embedding-001", "text-embedding-3-small", "gemini-2.5-flash"
INPUT = 1_234
COST = {OWN: Decimal(INPUT * 150) / 10**9, SMALL: Decimal(INPUT * 20) / 10**9}  # USD
ONE = {"content": {"parts": [{"text": "Hello."}]}}
HEADERS = {"x-goog-api-key": KEY}


def config(upstream: str, **key: Any) -> dict[str, Any]:
    found = configuration(upstream, **key)
    keys = [{"name": "main", "value": "host-secret"}]
    for name, base in (("gemini", "/v1beta"), ("openai", "/v1")):
        network = {"base_url": upstream + base}
        found["providers"][name] = {"type": name, "keys": keys, "network": network}
    found["models"] = {"mapped": [{"provider": "gemini", "model": OWN}]}
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


def posted(gateway: RunningGateway, body: Any, model: str = OWN, call: str = "embedContent") -> Any:
    url = f"{gateway.url}/genai/v1beta/models/{model}:{call}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(url, content=content, headers=HEADERS, timeout=30)


def sent(mock: RunningMock) -> Any:
    return json.loads(base64.b64decode(mock.requests()[0]["body"]))


@pytest.mark.parametrize("model", [OWN, SMALL, "mapped"])
@pytest.mark.parametrize("given", ["Hello.", ["Hello.", "Bye."]], ids=["one", "two"])
def test_googles_sdk_embeds_and_every_level_pays(
    gateway: RunningGateway, mock: RunningMock, model: str, given: Any
) -> None:
    options = types.HttpOptions(base_url=f"{gateway.url}/genai")
    wished = types.EmbedContentConfig(output_dimensionality=4)
    with genai.Client(api_key=KEY, http_options=options) as client:
        answer = client.models.embed_content(model=model, contents=given, config=wished)
    texts = [given] if isinstance(given, str) else given
    own = model != SMALL
    expected = [vector([text] if own else text, 4) for text in texts]
    assert [one.values for one in answer.embeddings or ()] == expected
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.prompt_token_count == INPUT
    assert gateway.settled() == COST[OWN if own else SMALL]
    path = f"/v1beta/models/{OWN}:batchEmbedContents" if own else "/v1/embeddings"
    assert mock.requests()[0]["path"] == path


@pytest.mark.parametrize("form", ["float", "base64"])
@pytest.mark.parametrize("given", ["Hello.", ["Hello.", "Bye."]], ids=["one", "two"])
def test_openais_sdk_embeds_on_gemini(gateway: RunningGateway, given: Any, form: Any) -> None:
    url = f"{gateway.url}/openai/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        answer = client.embeddings.create(
            model="mapped", input=given, dimensions=4, encoding_format=form
        )
    texts = [given] if isinstance(given, str) else given
    vectors: list[Any] = [one.embedding for one in answer.data]
    if form == "base64":
        assert all(isinstance(one, str) and len(base64.b64decode(one)) == 16 for one in vectors)
    else:
        assert vectors == [vector([text], 4) for text in texts]
    assert [one.index for one in answer.data] == list(range(len(texts)))
    assert (answer.usage.prompt_tokens, answer.model) == (INPUT, "mapped")
    assert gateway.settled() == COST[OWN]


def test_one_content_is_answered_with_one_and_passes_as_it_came(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    body = b'{ "content" : {"parts":[ {"text":"caf\\u00e9"} ]},"taskType":"CLUSTERING" }'
    answer = posted(gateway, body)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"embedding", "usageMetadata"}
    assert Decimal(answer.headers["x-bf-cost-usd"]) == COST[OWN]
    content = b'{"parts":[ {"text":"caf\\u00e9"} ]}'
    assert content in base64.b64decode(mock.requests()[0]["body"])
    assert sent(mock)["requests"][0]["taskType"] == "CLUSTERING"
    snake = {"content": {"parts": {"text": "a"}}, "output_dimensionality": 3}
    assert len(posted(gateway, snake).json()["embedding"]["values"]) == 3


def test_the_model_is_that_of_the_path_alone(gateway: RunningGateway, mock: RunningMock) -> None:
    body = {"requests": [{"model": "models/gemini-embedding-2", **ONE}]}
    answer = posted(gateway, body, "mapped", "batchEmbedContents")
    assert answer.status_code == 200, answer.text
    assert [one["model"] for one in sent(mock)["requests"]] == [f"models/{OWN}"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "content"),
        ({"content": {"parts": []}}, "content"),
        ({"content": {"parts": [{"text": ""}]}}, "content"),
        ({"requests": []}, "requests"),
        ({"requests": [{}]}, "content"),
        ({"content": "a"}, "content"),
        (b"{", "not valid"),
    ],
)
def test_what_is_no_request(gateway: RunningGateway, body: Any, said: str) -> None:
    answer = posted(gateway, body)
    assert (answer.status_code, answer.headers["x-bf-error"]) == (400, "invalid_request")
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert said in answer.json()["error"]["message"]
    assert gateway.settled() == 0


@pytest.mark.parametrize(
    "body",
    [
        {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]}},
        {**ONE, "embedContentConfig": {"documentOcr": True}},
        {"requests": [{**ONE, "more": 1}]},
        {"requests": [ONE], "more": 1},
    ],
)
def test_what_has_no_price_is_blocked(gateway: RunningGateway, body: Any) -> None:
    answer = posted(gateway, body)
    assert (answer.status_code, answer.headers["x-bf-error"]) == (400, "field_blocked")
    assert gateway.settled() == 0


def test_a_model_of_the_other_kind_is_refused_clearly(gateway: RunningGateway) -> None:
    for model in (CHAT, "gpt-5.1", "claude-sonnet-4-5"):
        answer = posted(gateway, ONE, model)
        assert answer.status_code == 400 and "embedding model" in answer.json()["error"]["message"]
    said = {"contents": [{"parts": [{"text": "Hi"}]}]}
    answer = posted(gateway, said, OWN, "generateContent")
    assert answer.status_code == 400 and "embedContent" in answer.json()["error"]["message"]
    assert gateway.settled() == 0


def test_what_one_side_cannot_be_told(gateway: RunningGateway) -> None:
    body = {"model": OWN, "input": [1, 2, 3]}
    url = f"{gateway.url}/openai/v1/embeddings"
    answer = httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 400 and "token ids" in answer.json()["error"]["message"]
    sizes = [{**ONE, "outputDimensionality": size} for size in (3, 4)]
    answer = posted(gateway, {"requests": sizes}, SMALL, "batchEmbedContents")
    assert answer.status_code == 400 and "outputDimensionality" in answer.text
    assert gateway.settled() == 0


def test_errors_of_the_host_are_told_and_cost_nothing(gateway: RunningGateway) -> None:
    answer = posted(gateway, {"requests": [ONE] * 101}, OWN, "batchEmbedContents")
    assert answer.status_code == 400 and "at most 100" in answer.json()["error"]["message"]
    answer = posted(gateway, {**ONE, "outputDimensionality": 9_999}, SMALL)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "dimensions" in answer.json()["error"]["message"]
    body = {"model": OWN, "input": "a", "dimensions": 9_999}
    url = f"{gateway.url}/openai/v1/embeddings"
    answer = httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 400 and "dimensionality" in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert gateway.settled() == 0


def test_who_may_not_and_who_has_nothing_left(mock: RunningMock, tmp_path: Path) -> None:
    rules = [{"provider": "*", "allowed_models": [OWN]}]
    settings = config(mock.url, provider_configs=rules, budgets=budget("0.0000001"))
    gateway = RunningGateway(tmp_path, settings)
    try:
        answer = posted(gateway, ONE, SMALL)
        assert (answer.status_code, answer.headers["x-bf-error"]) == (404, "model_blocked")
        answer = posted(gateway, ONE)
        assert (answer.status_code, answer.headers["x-bf-error"]) == (429, "budget_exceeded")
        assert answer.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
        url = f"{gateway.url}/genai/v1beta/models/{OWN}:embedContent"
        assert httpx.post(url, json=ONE).headers["x-bf-error"] == "virtual_key_required"
        assert gateway.settled() == 0
    finally:
        gateway.stop()


def test_the_list_says_what_embeds(gateway: RunningGateway) -> None:
    page = httpx.get(f"{gateway.url}/genai/v1beta/models", headers=HEADERS).json()
    methods = {one["name"]: one["supportedGenerationMethods"] for one in page["models"]}
    for name in (OWN, SMALL, "mapped"):
        assert methods[f"models/{name}"] == ["embedContent", "batchEmbedContents"]
    assert "generateContent" in methods[f"models/{CHAT}"]


def test_another_target_embeds_where_the_first_fails(mock: RunningMock, tmp_path: Path) -> None:
    found = config(mock.url)
    network = {"base_url": "http://127.0.0.1:9/v1beta"}
    found["providers"]["dead"] = found["providers"]["gemini"] | {"network": network}
    standby = {"provider": "openai", "model": SMALL, "standby": True}
    found["models"] = {"any": [{"provider": "dead", "model": OWN}, standby]}
    gateway = RunningGateway(tmp_path, found)
    try:
        answer = posted(gateway, ONE, "any")
        assert (answer.status_code, answer.headers["x-bf-provider"]) == (200, "openai")
        assert len(answer.json()["embedding"]["values"]) == 8
        assert gateway.settled() == COST[SMALL]
    finally:
        gateway.stop()


def test_a_host_that_counts_nothing_is_estimated() -> None:
    body = json.dumps({"content": {"parts": [{"text": "a" * 36}]}, "model": OWN}).encode()
    used = {"output_tokens": 0, "input_tokens": 11, "estimated": ["input_tokens"]}
    for kind, told in (
        (GeminiEmbeddings, {"embeddings": [{"values": [1]}]}),
        (GeminiOpenAIEmbeddings, {"data": [{"embedding": [1]}]}),
    ):
        relay: Any = kind(body, OWN, max_tokens=None, traits=Traits())
        _, metered = relay.answer(200, json.dumps(told).encode())
        assert json.loads(metered)["usage"] == used
        assert json.loads(relay.shown(200, json.dumps(told).encode()))["embedding"] == {
            "values": [1]
        }
        with pytest.raises(InvalidRequest):
            kind(b'{"model":"m"}', OWN, max_tokens=None, traits=Traits())
