"""What a client is told with every answer: its own budget, never the provider's account."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands import until
from tests.running import KEY, RunningGateway, bearer, configuration, message

ORGANISATION = "0b1f0057-0000-4000-8000-00000000c0de"
PROVIDERS = {
    "anthropic-ratelimit-requests-limit": "4000",
    "anthropic-ratelimit-requests-remaining": "3999",
    "anthropic-ratelimit-requests-reset": "2026-11-25T00:00:00Z",
    "anthropic-ratelimit-input-tokens-remaining": "1",
    "anthropic-ratelimit-output-tokens-limit": "1",
    "anthropic-ratelimit-unified-status": "allowed",
    "anthropic-ratelimit-unified-5h-utilization": "0.5",
    "Anthropic-Ratelimit-Tokens-Limit": "1",
    "anthropic-organization-id": ORGANISATION,
    "anthropic-workspace-id": "wrkspc_01AbCdEfGh",
    "set-cookie": "account=1",
    "cf-ray": "1",
    "x-bf-budget-remaining-usd": "999999",
    "x-bf-cost-usd": "0",
    "request-id": "req_011CtheProviders",
}
LIMITED = (
    f"This request would exceed the rate limit for your organization ({ORGANISATION}) of 50,000 "
    "input tokens per minute, workspace wrkspc_01AbCdEfGh."
)
USAGE = {"input_tokens": 10, "output_tokens": 5}
ANSWER = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": USAGE,
}  # fmt: skip
EVENTS = [
    {"type": "message_start", "message": {**ANSWER, "content": []}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
    {"type": "message_stop"},
]


class Provider(http.server.BaseHTTPRequestHandler):
    """Answers as it is asked to, with every header a provider sends."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status = int(self.headers.get("x-want", "200"))
        kind, answer = "application/json", json.dumps(ANSWER).encode()
        if status != 200:
            error = {"type": "rate_limit_error", "message": LIMITED}
            told = {"type": "error", "error": error, "request_id": "req_011CtheProviders"}
            answer = json.dumps(told).encode()
        elif self.path.startswith("/v1/messages/count_tokens"):
            answer = b'{"input_tokens":10}'
        elif body.get("stream"):
            kind = "text/event-stream"
            answer = b"".join(
                b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())
                for event in EVENTS
            )
        self.send_response(status)
        for name, value in PROVIDERS.items():
            self.send_header(name, value)
        if status == 429:
            self.send_header("retry-after", "7")
            self.send_header("x-should-retry", "true")
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    Provider.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


POOR = "sk-bf-poor" + "0" * 40
SLOW = "sk-bf-slow" + "0" * 40
FREE = "sk-bf-free" + "0" * 40


@pytest.fixture(scope="module")
def gateway(provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = configuration(provider, provider_configs=[{"blocked_models": ["claude-opus-*"]}])
    config["governance"]["virtual_keys"] += [
        {"name": "poor", "value": POOR, "user": "alice",
         "budgets": [{"max_limit": "0.001", "reset_duration": "1h"}]},
        {"name": "slow", "value": SLOW, "user": "alice",
         "rate_limits": [{"metric": "requests", "max_limit": 0}]},
        {"name": "free", "value": FREE},
    ]  # fmt: skip
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config)
    yield running
    running.stop()


# name: (path, key, what differs, status, x-bf-error)
EVERY: dict[str, tuple[str, str, dict[str, Any], int, str | None]] = {
    "json": ("/v1/messages", KEY, {}, 200, None),
    "stream": ("/v1/messages", KEY, {"json": message(stream=True)}, 200, None),
    "count": ("/v1/messages/count_tokens", KEY, {}, 200, None),
    "provider's 429": ("/v1/messages", KEY, {"want": 429}, 429, None),
    "provider's 400": ("/v1/messages", KEY, {"want": 400}, 400, None),
    "provider's 500": ("/v1/messages", KEY, {"want": 500}, 500, None),
    "provider's 529, counting": ("/v1/messages/count_tokens", KEY, {"want": 529}, 200, None),
    "models": ("/anthropic/v1/models", KEY, {"method": "GET"}, 200, None),
    "model": ("/v1/models/claude-sonnet-4-5", KEY, {"method": "GET"}, 200, None),
    "no such model": ("/v1/models/none", KEY, {"method": "GET"}, 404, "not_found"),
    "blocked": ("/v1/messages", KEY, {"json": message(model="claude-opus-4-5")}, 400,
                "model_blocked"),
    "blocked, counting": ("/v1/messages/count_tokens", KEY,
                          {"json": message(model="claude-opus-4-5")}, 400, "model_blocked"),
    "unknown model": ("/v1/messages", KEY, {"json": message(model="x/y")}, 404, "model_not_found"),
    "unpriced": ("/v1/messages", KEY, {"json": message(model="claude-none")}, 400,
                 "model_unpriced"),
    "field": ("/v1/messages", KEY, {"json": message(fallbacks="default")}, 400, "field_blocked"),
    "malformed": ("/v1/messages", KEY, {"content": b"{"}, 400, "invalid_request"),
    "no model": ("/v1/messages", KEY, {"json": {"max_tokens": 5}}, 400, "invalid_request"),
    "method": ("/v1/messages", KEY, {"method": "GET"}, 405, "method_not_allowed"),
    "encoding": ("/v1/messages", KEY, {"encoding": "br"}, 415, "invalid_request"),
    "path": ("/v1/messages/batches", KEY, {}, 404, "not_found"),
    "budget": ("/v1/messages", POOR, {}, 402, "budget_exceeded"),
    "rate": ("/v1/messages", SLOW, {}, 429, "request_limited"),
}  # fmt: skip


def ask(url: str, path: str, key: str, how: dict[str, Any]) -> httpx.Response:
    headers = bearer(key)
    if "want" in how:
        headers["x-want"] = str(how["want"])
    if "encoding" in how:
        headers["content-encoding"] = how["encoding"]
    if how.get("method") == "GET":
        return httpx.get(url + path, headers=headers)
    if "content" in how:
        return httpx.post(url + path, content=how["content"], headers=headers)
    return httpx.post(url + path, json=how.get("json", message()), headers=headers)


@pytest.mark.parametrize("name", EVERY)
def test_every_answer_tells_what_is_left_and_nothing_of_the_provider(
    gateway: RunningGateway, name: str
) -> None:
    path, key, how, status, code = EVERY[name]
    answer = ask(gateway.url, path, key, how)
    assert (answer.status_code, answer.headers.get("x-bf-error")) == (status, code), answer.text
    limit = 0.001 if key == POOR else 100 if key == SLOW else 75
    assert 0 <= float(answer.headers["x-bf-budget-remaining-usd"]) <= limit
    assert len(answer.headers.get_list("x-bf-budget-remaining-usd")) == 1
    resets = datetime.fromisoformat(answer.headers["x-bf-budget-reset"])
    assert time.time() < resets.timestamp() < time.time() + 32 * 86_400
    for header in answer.headers:
        assert not header.startswith(("anthropic-ratelimit", "anthropic-org", "anthropic-work"))
    assert not {"set-cookie", "cf-ray"} & set(answer.headers)
    for secret in (ORGANISATION, "wrkspc_01AbCdEfGh"):
        assert secret not in answer.text and secret not in str(answer.headers)
    assert answer.headers.get("x-bf-cost-usd", "1") != "0"


def test_a_providers_limit_passes_with_its_time_and_sentence(gateway: RunningGateway) -> None:
    answer = ask(gateway.url, "/v1/messages", KEY, {"want": 429})
    assert answer.headers["retry-after"] == "7" and answer.headers["x-should-retry"] == "true"
    assert answer.headers["request-id"] == "req_011CtheProviders"
    told = answer.json()
    assert told["request_id"] == "req_011CtheProviders"
    said = told["error"]["message"]
    assert said.startswith("This request would exceed the rate limit for your organization (")
    assert "50,000 input tokens per minute" in said and len(said) == len(LIMITED)


def test_what_is_left_becomes_less(gateway: RunningGateway) -> None:
    def left() -> float:
        answer = ask(gateway.url, "/v1/models", KEY, {"method": "GET"})
        return float(answer.headers["x-bf-budget-remaining-usd"])

    before = left()
    assert ask(gateway.url, "/v1/messages", KEY, {}).status_code == 200
    assert left() == pytest.approx(before - (10 * 3 + 5 * 15) / 1e6)


def test_who_is_not_known_or_has_no_budget_is_told_none(gateway: RunningGateway) -> None:
    for path in ("/v1/messages", "/v1/messages/batches", "/v1/models"):
        for key in (FREE, "sk-bf-" + "nobody00" * 5, "other"):
            answer = ask(gateway.url, path, key, {"method": "GET"} if path == "/v1/models" else {})
            assert "x-bf-budget-remaining-usd" not in answer.headers, (path, key)


def test_a_client_cannot_choose_the_account_it_is_billed_to(gateway: RunningGateway) -> None:
    account = {"anthropic-workspace-id": "wrkspc_other", "anthropic-organization-id": "other"}
    answer = httpx.post(
        f"{gateway.url}/v1/messages", json=message(), headers={**bearer(), **account}
    )
    assert answer.status_code == 200
    until(lambda: Provider.seen)
    assert not set(account) & set(Provider.seen[-1])


def test_an_unreachable_provider_leaves_what_is_left(tmp_path: Path) -> None:
    config = configuration("http://127.0.0.1:1")
    config["providers"]["anthropic"]["network"]["max_retries"] = 0
    running = RunningGateway(tmp_path, config)
    try:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = ask(running.url, path, KEY, {})
            if path == "/v1/messages":
                assert answer.headers["x-bf-error"] == "upstream_unavailable"
            else:  # a count never fails an agent
                assert answer.headers["x-bf-count"] == "estimated"
            assert 74 < float(answer.headers["x-bf-budget-remaining-usd"]) <= 75
    finally:
        running.stop()
