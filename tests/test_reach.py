"""What a request can reach beyond its allowlist: nothing, whatever way it names a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration, message

PLAIN = "sk-bf-plain" + "0" * 40
OPUS, HAIKU = "claude-opus-4-5", "claude-haiku-4-5"


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A key that may use haiku of one of two providers, and one that may use no governed field."""
    rules = [{"provider": "anthropic", "allowed_models": ["claude-haiku-*", "swift"]}]
    config = configuration(mock.url, provider_configs=rules)
    config["providers"]["other"] = config["providers"]["anthropic"]
    config["models"] = {
        "swift": [{"provider": "anthropic", "model": HAIKU}],
        "deep": [{"provider": "anthropic", "model": OPUS}],
    }
    config["governance"]["virtual_keys"].append(
        {"name": "plain", "value": PLAIN, "user": "alice", "allowed_fields": []}
    )
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config)
    yield running
    running.stop()


def stays(
    gateway: RunningGateway, mock: RunningMock, answer: httpx.Response, status: int, code: str
) -> str:
    """The refusal's sentence; nothing went to the provider and nothing was booked."""
    assert (answer.status_code, answer.headers["x-bf-error"]) == (status, code), answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert mock.account()["total"]["requests"] == 0
    assert set(gateway.spent().values()) <= {("0", "0")}
    said: str = answer.json()["error"]["message"]
    return said


def post(gateway: RunningGateway, body: Any, path: str = "/v1/messages", key: str = KEY) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{gateway.url}{path}", content=content, headers=bearer(key))


ESCAPED = json.dumps(message(model="?")).replace('"?"', '"claude-\\u006fpus-4-5"').encode()
NAMES: dict[str, tuple[Any, str]] = {
    "plain": (message(model=OPUS), "model_blocked"),
    "with its provider": (message(model=f"anthropic/{OPUS}"), "model_blocked"),
    "an alias": (message(model="deep"), "model_blocked"),
    "escaped": (ESCAPED, "model_blocked"),
    "another provider": (message(model=f"other/{HAIKU}"), "provider_blocked"),
    "capitals": (message(model=OPUS.upper()), "model_blocked"),
    "blanks": (message(model=f" {OPUS} "), "model_blocked"),
}


@pytest.mark.parametrize("path", ["/v1/messages", "/anthropic/v1/messages/count_tokens"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_not_reached_by_another_spelling(
    gateway: RunningGateway, mock: RunningMock, name: str, path: str
) -> None:
    body, code = NAMES[name]
    stays(gateway, mock, post(gateway, body, path), 400, code)


@pytest.mark.parametrize(
    "more", [f',"model":"{OPUS}"', f',"\\u006dodel":"{OPUS}"'], ids=["twice", "escaped twice"]
)
def test_a_second_model_is_no_way(gateway: RunningGateway, mock: RunningMock, more: str) -> None:
    body = (json.dumps(message(model=HAIKU))[:-1] + more + "}").encode()
    said = stays(gateway, mock, post(gateway, body), 400, "invalid_request")
    assert "model is given twice" in said


ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": OPUS}
MCP = [{"type": "url", "url": "https://example.com/sse", "name": "x"}]
FIELDS: dict[str, dict[str, Any]] = {
    "fallbacks": {"fallbacks": [{"model": OPUS}]},
    "fallbacks by name": {"fallbacks": [OPUS]},
    "default fallbacks": {"fallbacks": "default"},
    "advisor": {"tools": [ADVISOR]},
    "advisor of the same model": {"tools": [{**ADVISOR, "model": HAIKU}]},
    "a tool of another name": {"tools": [{"type": "oracle_20270101", "name": "o", "model": OPUS}]},
    "a tool without a type": {"tools": [{"name": "o", "input_schema": {}, "model": OPUS}]},
    "thread": {"thread": {"continue": "thr_1"}},
    "billing_policy": {"billing_policy": {"account": "other"}},
    "fallback_credit_token": {"fallback_credit_token": "t"},
    "mcp_servers": {"mcp_servers": MCP},
}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_reaches_further_does_not_leave(
    gateway: RunningGateway, mock: RunningMock, name: str, path: str
) -> None:
    body = message(model=HAIKU, **FIELDS[name])
    said = stays(gateway, mock, post(gateway, body, path), 400, "field_blocked")
    assert "request field" in said


PRICED: dict[str, dict[str, Any]] = {
    "speed": {"speed": "fast"},
    "inference_geo": {"inference_geo": "us"},
    "service_tier": {"service_tier": "priority"},
    "container": {"container": "container_1"},
    "container with skills": {"container": {"skills": [{"type": "custom", "skill_id": "s"}]}},
}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("name", PRICED)
def test_a_key_without_them_may_not_use_priced_fields(
    gateway: RunningGateway, mock: RunningMock, name: str, path: str
) -> None:
    answer = post(gateway, message(model=HAIKU, **PRICED[name]), path, PLAIN)
    said = stays(gateway, mock, answer, 400, "field_blocked")
    assert "Virtual key 'plain' may not use the request field" in said


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/batches", "/anthropic/v1/messages/batches",
        "/v1/messages/batches/msgbatch_1/results", "/v1/messages%2Fbatches", "/v1//messages",
        "/v1/messages/", "/v1/messages/batches?beta=true", "/v1/messages/../messages/batches",
        "/v1/complete", "/v1/files", "/v1/skills", "/v1/organizations/api_keys", "/v1/agents",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_other_path_leads_to_the_provider(
    gateway: RunningGateway, mock: RunningMock, path: str, method: str
) -> None:
    params = {"custom_id": "1", "params": message(model=HAIKU)}
    request = httpx.Request(method, gateway.url, json={"requests": [params]}, headers=bearer())
    request.url = httpx.URL(gateway.url).copy_with(raw_path=path.encode())
    with httpx.Client() as client:
        answer = client.send(request)
    stays(gateway, mock, answer, 404, "not_found")


def test_what_is_allowed_does_leave(gateway: RunningGateway, mock: RunningMock) -> None:
    """The same body with what it may use, so that the refusals above mean something."""
    tool = {"name": "run", "input_schema": {"properties": {"model": {"type": "string"}}}}
    for model in (HAIKU, f"anthropic/{HAIKU}", "swift"):
        assert post(gateway, message(model=model, tools=[tool])).status_code == 200
    assert mock.account()["total"]["requests"] == 3
    assert {row["model"] for row in mock.account()["models"]} == {HAIKU}
