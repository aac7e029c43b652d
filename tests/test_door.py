"""The Anthropic door end to end: what passes, what is stripped, what is refused and how."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running import KEY, RunningGateway, RunningMock, bearer, budget, configuration, message

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
MAPPED = "claude-haiku-4-5"


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=bearer(), timeout=20) as opened:
        yield opened


def last_request(mock: RunningMock) -> tuple[dict[str, str], dict[str, Any]]:
    """The headers and the record of the newest request the provider saw."""
    record = mock.requests(1)[-1]
    return {name.lower(): value for name, value in record["headers"]}, record


@pytest.mark.parametrize("prefix", ["/anthropic", ""])
def test_an_answer_says_who_served_it_and_what_it_cost(
    client: httpx.Client, mock: RunningMock, prefix: str
) -> None:
    usage = {"input_tokens": 412, "cache_creation_input_tokens": 1024,
             "cache_read_input_tokens": 12288, "output_tokens": 287}  # fmt: skip
    answer = client.post(
        f"{prefix}/v1/messages?beta=true",
        json=message(),
        headers={"x-mock-usage": json.dumps(usage), "x-request-id": "mine-1"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-cost-usd"] == "0.0130674"  # the price of that turn, to the nano
    assert answer.headers["x-bf-provider"] == "anthropic"
    assert answer.headers["x-bf-model"] == "claude-sonnet-4-5"
    assert answer.headers["x-request-id"] == "mine-1"
    assert mock.bills()["mine-1"][-1] == ("completed", usage)  # the id goes to the provider
    assert answer.headers["x-bf-budget-remaining-usd"]
    assert answer.headers["x-bf-budget-reset"].endswith("Z")
    assert answer.json()["usage"]["cache_read_input_tokens"] == 12288


def test_no_credential_and_no_account_passes_in_either_direction(
    client: httpx.Client, mock: RunningMock
) -> None:
    answer = client.post(
        "/anthropic/v1/messages",
        json=message(),
        headers={
            "x-bf-dim-project": "secret",
            "x-api-key": KEY,
            "cookie": "a=b",
            "anthropic-beta": "one,two",
            "anthropic-version": "2026-10-21",
            "x-stainless-lang": "js",
        },
    )
    sent, record = last_request(mock)
    assert KEY not in json.dumps(record)
    assert sent["x-api-key"] == "sk-ant-upstream-secret"
    assert sent["anthropic-version"] == "2026-10-21"
    assert sent["anthropic-beta"] == "one,two"
    assert sent["x-stainless-lang"] == "js"
    assert sent["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "x-bf-dim-project"} & set(sent)
    assert "request-id" in answer.headers
    leaked = [name for name in answer.headers if name.startswith("anthropic-")]
    assert leaked == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_recorded_body_arrives_byte_for_byte(
    client: httpx.Client, mock: RunningMock, sample: Path
) -> None:
    body = sample.read_bytes()
    with client.stream("POST", "/anthropic/v1/messages?beta=true", content=body) as answer:
        assert answer.status_code == 200, answer.read()
        answer.read()
    _, record = last_request(mock)
    assert record["body_sha256"] == hashlib.sha256(body).hexdigest()


@pytest.fixture(scope="module")
def mapping(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    config = configuration(mock.url)
    target = [{"provider": "anthropic", "model": MAPPED}]
    config["models"] = {"claude-opus-*": target, "claude-sonnet-*": target}
    running = RunningGateway(tmp_path_factory.mktemp("mapping"), config)
    yield running
    running.stop()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_mapped_body_differs_in_nothing_but_the_name(
    mapping: RunningGateway, mock: RunningMock, sample: Path
) -> None:
    body = sample.read_bytes()
    asked = json.loads(body)["model"]
    url = f"{mapping.url}/anthropic/v1/messages?beta=true"
    answer = httpx.post(url, content=body, headers=bearer(), timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-model"] == MAPPED
    expected = body.replace(b'"%b"' % asked.encode(), b'"%b"' % MAPPED.encode(), 1)
    _, record = last_request(mock)
    assert record["body_sha256"] == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"x-api-key": KEY},
        {"x-bf-vk": KEY, "authorization": "Bearer placeholder"},
        {"x-goog-api-key": KEY},
        {"api-key": KEY},
    ],
)
def test_the_virtual_key_may_come_in_any_usual_header(
    gateway: RunningGateway, headers: dict[str, str]
) -> None:
    answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=headers)
    assert answer.status_code == 200, answer.text


def refused(answer: httpx.Response, status: int, code: str, kind: str) -> str:
    """Checks the form of a refusal and returns its sentence."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-bf-error"] == code
    assert answer.headers["x-should-retry"] == "false"
    said: str = body["error"]["message"]
    return said


@pytest.mark.parametrize(
    ("headers", "status", "code", "kind"),
    [
        ({}, 401, "virtual_key_required", "authentication_error"),
        ({"authorization": "Bearer sk-ant-x"}, 401, "virtual_key_required", "authentication_error"),
        ({"x-api-key": "sk-bf-no"}, 401, "virtual_key_not_found", "authentication_error"),
    ],
)
def test_without_a_known_key_nothing_passes(
    gateway: RunningGateway,
    mock: RunningMock,
    headers: dict[str, str],
    status: int,
    code: str,
    kind: str,
) -> None:
    before = mock.account()["total"]
    answer = httpx.post(f"{gateway.url}/anthropic/v1/messages", json=message(), headers=headers)
    assert "virtual key" in refused(answer, status, code, kind)
    assert mock.account()["total"] == before


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid"),
        (b"{", "not valid"),
        (b'{"model":1,"max_tokens":5,"messages":[]}', "model"),
        (b'{"max_tokens":5,"messages":[]}', "model"),
        (b'{"model":"claude-sonnet-4-5","messages":[]}', "max_tokens"),
        (b'{"model":"claude-sonnet-4-5","model":"claude-opus-4-5","max_tokens":5}', "model"),
        (b'{"model":"claude-sonnet-4-5","max_tokens":1e9}', "max_tokens"),
        (b'{"model":"claude-sonnet-4-5","max_tokens":5,"x":"\xff"}', "not valid"),
        (b"[]", "object"),
    ],
)
def test_a_malformed_body_is_told_what_is_wrong(
    client: httpx.Client, body: bytes, says: str
) -> None:
    answer = client.post("/v1/messages", content=body)
    assert says in refused(answer, 400, "invalid_request", "invalid_request_error")


@pytest.mark.parametrize(
    "field",
    [
        {"fallbacks": [{"model": "claude-opus-4-5"}]},
        {"fallbacks": "default"},
        {"thread": {"continue": "thr_1"}},
        {"billing_policy": {"x": 1}},
        {"fallback_credit_token": "t"},
        {"mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-5"}]},
    ],
    ids=lambda field: next(iter(field)),
)
def test_fields_that_could_spend_elsewhere_are_refused(
    client: httpx.Client, field: dict[str, Any]
) -> None:
    answer = client.post("/v1/messages", json=message(**field))
    assert "request field" in refused(answer, 400, "field_blocked", "policy_blocked")


def test_what_cannot_be_priced_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/messages", json=message(model="claude-nobody-knows"))
    assert "no price" in refused(answer, 400, "model_unpriced", "policy_blocked")
    answer = client.post("/v1/messages", json=message(model="nowhere/claude"))
    assert "No provider" in refused(answer, 404, "model_not_found", "not_found_error")
    answer = client.post("/v1/messages", json=message(speed="fast"))
    assert "speed" in refused(answer, 400, "field_blocked", "policy_blocked")


def test_too_large_and_compressed_bodies(mock: RunningMock, tmp_path: Path) -> None:
    config = configuration(mock.url)
    config["server"] = {"max_body_bytes": 4096}
    running = RunningGateway(tmp_path / "small", config)
    url = f"{running.url}/v1/messages"
    large = message(system="x" * 5000)
    try:
        answer = httpx.post(url, json=large, headers=bearer())
        refused(answer, 413, "request_too_large", "request_too_large")
        for _ in range(20):  # chunked: no length to see; whole at once or in parts, by chance
            pieces = (part for part in [json.dumps(large).encode()])
            answer = httpx.post(url, content=pieces, headers=bearer())
            refused(answer, 413, "request_too_large", "request_too_large")
        plain = json.dumps(message()).encode()
        packed = bearer() | {"content-encoding": "gzip"}
        answer = httpx.post(url, content=gzip.compress(plain), headers=packed)
        assert answer.status_code == 200, answer.text
        headers, record = last_request(mock)
        assert record["body_sha256"] == hashlib.sha256(plain).hexdigest()
        assert "content-encoding" not in headers
        bomb = gzip.compress(json.dumps(large).encode())
        refused(httpx.post(url, content=bomb, headers=packed), 413, "request_too_large",
                "request_too_large")  # fmt: skip
        refused(httpx.post(url, content=b"no", headers=packed), 400, "invalid_request",
                "invalid_request_error")  # fmt: skip
        odd = bearer() | {"content-encoding": "br"}
        answer = httpx.post(url, content=plain, headers=odd)
        refused(answer, 415, "invalid_request", "invalid_request_error")
    finally:
        running.stop()


def test_an_allowlist_holds_and_lists_what_is_allowed(mock: RunningMock, tmp_path: Path) -> None:
    rules = [{"allowed_models": ["claude-haiku-*", "claude-sonnet-*"],
              "blocked_models": ["claude-sonnet-4-5"]}]  # fmt: skip
    running = RunningGateway(tmp_path, configuration(mock.url, provider_configs=rules))
    url = f"{running.url}/v1/messages"
    try:
        for model in ("claude-opus-4-5", "anthropic/claude-opus-4-5", "claude-sonnet-4-5"):
            answer = httpx.post(url, json=message(model=model), headers=bearer())
            said = refused(answer, 400, "model_blocked", "policy_blocked")
            assert "claude-haiku-*, claude-sonnet-* except claude-sonnet-4-5" in said
        body = message(model="claude-haiku-4-5")
        assert httpx.post(url, json=body, headers=bearer()).status_code == 200
        body = message(model="anthropic/claude-haiku-4-5")
        assert httpx.post(url, json=body, headers=bearer()).status_code == 200
        assert last_request(mock)[1]["path"].endswith("/v1/messages")
        page = httpx.get(f"{running.url}/anthropic/v1/models", headers=bearer()).json()
        names = {model["id"] for model in page["data"]}
        assert "claude-haiku-4-5" in names and "claude-opus-4-5" not in names
        assert page["first_id"] == page["data"][0]["id"] and page["has_more"] is False
        one = httpx.get(f"{running.url}/v1/models/claude-haiku-4-5", headers=bearer())
        assert one.json()["type"] == "model"
        other = httpx.get(f"{running.url}/v1/models/claude-opus-4-5", headers=bearer())
        assert other.status_code == 404
    finally:
        running.stop()


def test_a_used_up_budget_names_level_sum_and_reset(mock: RunningMock, tmp_path: Path) -> None:
    config = configuration(mock.url)
    config["help_url"] = "https://help.example/budgets"
    config["governance"]["teams"][0]["budgets"] = budget("0.001")
    running = RunningGateway(tmp_path, config)
    try:
        answer = httpx.post(f"{running.url}/v1/messages", json=message(), headers=bearer())
        said = refused(answer, 402, "budget_exceeded", "billing_error")
        assert "team 'core'" in said and "$0.001 per 1M" in said
        assert "resets at" in said and "https://help.example/budgets" in said
        assert running.spent()["keys:alice-dev"] == ("0", "0")
    finally:
        running.stop()


def test_count_tokens_needs_a_key_and_an_allowed_model_but_no_money(
    client: httpx.Client, gateway: RunningGateway
) -> None:
    before = gateway.spent()
    body = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "Hi"}]}
    answer = client.post("/anthropic/v1/messages/count_tokens?beta=true", json=body)
    assert answer.status_code == 200 and answer.json()["input_tokens"] > 0
    assert gateway.spent() == before
    answer = client.post("/v1/messages/count_tokens", json=body | {"model": "nowhere/x"})
    refused(answer, 404, "model_not_found", "not_found_error")


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 529])
def test_a_providers_own_error_passes_and_costs_nothing(
    client: httpx.Client, gateway: RunningGateway, status: int
) -> None:
    before = gateway.spent()
    answer = client.post(
        "/v1/messages",
        json=message(),
        headers={"x-mock-fail": str(status), "x-mock-retry-after": "7"},
    )
    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert "x-bf-error" not in answer.headers
    assert answer.headers.get("retry-after") == ("7" if status in (429, 529) else None)
    assert gateway.spent() == before


def test_an_unreachable_provider_is_a_retryable_529(tmp_path: Path) -> None:
    config = configuration("http://127.0.0.1:1")
    config["providers"]["anthropic"]["network"]["max_retries"] = 0
    running = RunningGateway(tmp_path, config)
    try:
        answer = httpx.post(f"{running.url}/v1/messages", json=message(), headers=bearer())
        assert answer.status_code == 529
        assert answer.json()["error"]["type"] == "overloaded_error"
        assert answer.headers["x-bf-error"] == "upstream_unavailable"
        assert answer.headers["x-should-retry"] == "true"
        assert "127.0.0.1:1" in answer.json()["error"]["message"]
        assert running.spent()["keys:alice-dev"] == ("0", "0")
    finally:
        running.stop()


def test_probes_health_and_unknown_paths(gateway: RunningGateway) -> None:
    for path in ("/anthropic", "/anthropic/api/hello", "/api/hello"):
        answer = httpx.head(gateway.url + path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert httpx.get(f"{gateway.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{gateway.url}/ready").json()["status"] == "ready"
    assert "bifrost_governance_seconds" in httpx.get(f"{gateway.url}/metrics").text
    answer = httpx.get(f"{gateway.url}/anthropic/v1/nothing")
    refused(answer, 404, "not_found", "not_found_error")
    answer = httpx.get(f"{gateway.url}/v1/messages", headers=bearer())
    refused(answer, 405, "method_not_allowed", "invalid_request_error")
    answer = httpx.post(f"{gateway.url}/v1/models", headers=bearer())
    refused(answer, 405, "method_not_allowed", "invalid_request_error")
