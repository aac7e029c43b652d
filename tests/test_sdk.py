"""The official Anthropic SDK, newest and old: the same objects through the gateway as directly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.installed import anthropic_sdk
from tests.running import KEY, RunningGateway, RunningMock, budget, configuration
from tests.sdk.books import BUCKETS, Books, cost
from tests.sdk.program import Sdk

pytestmark = pytest.mark.timeout(600)  # the first run downloads the old SDK

OLD = "0.75.0"
POOR = "sk-bf-alice-poor-0123456789abcdefghijklmnopqrstuv"
HAIKU_ONLY = "sk-bf-alice-haiku-0123456789abcdefghijklmnopqrstu"
PAYERS = ("keys:alice-dev", "users:alice", "teams:core", "customers:acme")
IDS = re.compile(r"(msg_01|toolu_01|req_011C)[0-9a-f]{22}")
STEER = {
    "x-mock-chunks": "5",
    "x-mock-usage": json.dumps(
        {
            "input_tokens": 412,
            "cache_creation_input_tokens": 1024,
            "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 24},
            "cache_read_input_tokens": 12288,
            "output_tokens": 287,
            "thinking_tokens": 40,
        }
    ),
}
ASK: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 900,
    "system": [
        {
            "type": "text",
            "text": "Schlüssel: 鍵 🔑 \u2028 \\n",
            "cache_control": {"type": "ephemeral"},
        }
    ],
    "messages": [{"role": "user", "content": [{"type": "text", "text": 'Say "hello" \t to me.'}]}],
    "metadata": {"user_id": "f3c1"},
    "extra_body": {"a_field_of_next_year": {"b": [1.50, 1e3, None]}},
    "stop_sequences": ["\n\nHuman:"],
}
CUT = {
    **ASK,
    "model": "claude-opus-4-5",
}  # of no other stream, from which its density could be learned
SHORT = {name: ASK[name] for name in ("model", "system", "messages")}


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path_factory.mktemp("mock"), "--script", "tool")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    config = configuration(mock.url)
    config["governance"]["virtual_keys"] += [
        {"name": "alice-poor", "user": "alice", "value": POOR, "budgets": budget("0.0001")},
        {
            "name": "alice-haiku", "user": "alice", "value": HAIKU_ONLY, "budgets": budget("9"),
            "provider_configs": [{"provider": "*", "allowed_models": ["claude-haiku-*"]}],
        },
    ]  # fmt: skip
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config)
    yield running
    running.stop()


@pytest.fixture(scope="module", params=["newest", OLD])
def sdk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    old = request.param == OLD
    running = Sdk(anthropic_sdk(OLD) if old else None, tmp_path_factory.mktemp("sdk"))
    version = running.value("version", "http://127.0.0.1:1", {})
    assert version == OLD if old else version.startswith("2."), version
    yield running
    running.close()


def door(gateway: RunningGateway) -> str:
    return f"{gateway.url}/anthropic"


def alike(value: Any) -> Any:
    """The same data with every provider-made id cut to its kind."""
    return json.loads(IDS.sub(r"\1", json.dumps(value)))


def both(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str, request: dict[str, Any]
) -> tuple[Any, Any, Books]:
    """A scenario without the gateway, then with it; the books of the second time."""
    direct = sdk.play(scenario, mock.url, request)
    books = Books(gateway, mock)
    through = sdk.play(scenario, door(gateway), request)
    return direct, through, books


# answers


@pytest.mark.parametrize(
    "scenario", ["message", "events", "stream", "beta_message", "beta_events", "async_both"]
)
@pytest.mark.parametrize("steer", [{}, STEER], ids=["plain", "every bucket"])
def test_same_answer(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str, steer: dict[str, str]
) -> None:
    request = {**ASK, "extra_headers": steer}
    direct, through, books = both(sdk, gateway, mock, scenario, request)
    assert "value" in direct and alike(through) == alike(direct)
    assert books.balance(*PAYERS) > 0


@pytest.mark.parametrize("scenario", ["tools", "tools_stream", "tools_beta"])
def test_same_tool_conversation(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str
) -> None:
    request = {**ASK, "told": 'Grüße vom Werkzeug "42"\n', "extra_headers": {"x-mock-chunks": "7"}}
    direct, through, books = both(sdk, gateway, mock, scenario, request)
    assert "value" in direct and alike(through) == alike(direct)
    asked, done = through["value"][-3 if scenario == "tools_stream" else -2], through["value"][-1]
    assert asked["stop_reason"] == "tool_use"
    assert asked["content"][-1]["type"] == "tool_use"
    assert "bifrost_mock.txt" in asked["content"][-1]["input"]["command"]
    assert 'Grüße vom Werkzeug "42"' in done["content"][0]["text"]
    assert books.balance(*PAYERS) > 0
    assert sum(row["completed"] for row in books.rows()) == 2


def test_tool_input_comes_in_pieces(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    request = {**SHORT, "max_tokens": 300, "told": "x", "extra_headers": {"x-mock-chunks": "6"}}
    first, asked, _, _ = sdk.value("tools_stream", door(gateway), request)
    pieces = [event["partial_json"] for event in first if event["type"] == "input_json"]
    assert len(pieces) > 4
    assert json.loads("".join(pieces)) == asked["content"][0]["input"]


@pytest.mark.parametrize("style", ["auth_token", "api_key"])
@pytest.mark.parametrize("prefix", ["/anthropic", ""])
def test_credentials(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, style: str, prefix: str
) -> None:
    books = Books(gateway, mock)
    url = gateway.url + prefix
    answer = sdk.value("message", url, ASK, **{style: KEY})
    assert answer["message"]["type"] == "message"
    assert sdk.value("events", url, ASK, **{style: KEY})[-1]["type"] == "message_stop"
    books.balance(*PAYERS)
    for request in mock.requests(2):
        assert KEY not in json.dumps(request)
        headers = {name.lower(): value for name, value in request["headers"]}
        assert headers["x-api-key"] == "sk-ant-upstream-secret"
        assert "authorization" not in headers
        assert not [name for name in headers if name.startswith("x-bf")]


def test_virtual_key_header_wins(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    books = Books(gateway, mock)
    request = {**ASK, "extra_headers": {"x-bf-vk": KEY}}
    sdk.value("message", door(gateway), request, api_key="sk-ant-somebody-elses")
    books.balance(*PAYERS)
    (seen,) = mock.requests()
    assert KEY not in json.dumps(seen) and "somebody-elses" not in json.dumps(seen)


def test_same_request_reaches_the_provider(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock
) -> None:
    """Body byte for byte; of the headers all but credentials and what belongs to one hop."""
    seen = []
    for url in (mock.url, door(gateway)):
        sdk.value("beta_message", url, ASK)
        (request,) = mock.requests()
        own = ("host", "authorization", "x-api-key", "accept-encoding", "connection")
        own += ("x-request-id",)  # ours, so that the provider's records can be found for it
        headers = sorted((name.lower(), value) for name, value in request["headers"])
        kept = [(name, value) for name, value in headers if name not in own]
        seen.append((request["body_sha256"], request["path"], kept))
    assert seen[0] == seen[1]
    assert "anthropic-beta" in dict(seen[0][2])


def test_headers_of_a_whole_answer(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    books = Books(gateway, mock)
    headers = sdk.value("raw", door(gateway), ASK)["headers"]
    due = books.balance(*PAYERS)
    assert int(headers["x-bf-cost-usd"].replace(".", "").ljust(10, "0")) == due
    assert headers["request-id"].startswith("req_011C")
    assert not [name for name in headers if name.startswith(("anthropic-ratelimit", "server"))]
    assert "anthropic-organization-id" not in headers


# counts and models


@pytest.mark.parametrize("scenario", ["count", "beta_count"])
def test_same_count_for_nothing(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str
) -> None:
    direct, through, books = both(sdk, gateway, mock, scenario, SHORT)
    assert direct["value"]["input_tokens"] > 20 and through == direct
    assert [row["completed"] for row in books.rows()] == [1]
    books.balance(*PAYERS, due=0)


def test_models(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    """What the key may use; no field of the provider's own list is missing."""
    listed = sdk.value("models", door(gateway), {})
    names = [model["id"] for model in listed]
    own = sdk.value("models", mock.url, {})
    assert {model["id"] for model in own} <= set(names) and len(set(names)) == len(names)
    for model in listed:
        assert sorted(model) == sorted(own[0])
        assert model["lifecycle"] in ("active", "deprecated")  # required by anthropic 2.12
        assert model["line"] in ("opus", "sonnet", "haiku", "fable", "mythos")
    allowed = sdk.value("models", door(gateway), {}, auth_token=HAIKU_ONLY)
    assert [m["id"] for m in allowed] == [
        name for name in names if name.startswith("claude-haiku-")
    ]


def test_one_model(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    request = {"model_id": "claude-opus-5-5"}
    own = sdk.value("model", mock.url, request)
    found = sdk.value("model", door(gateway), request)
    assert found == {**own, "created_at": found["created_at"]}
    for credential in ({"auth_token": HAIKU_ONLY}, {"api_key": HAIKU_ONLY}):
        error = sdk.error("model", door(gateway), request, **credential)
        assert "NotFoundError" in error["kinds"]


# refusals of the gateway


def refused(sdk: Sdk, url: str, request: dict[str, Any], **client: str) -> dict[str, Any]:
    """The refusal of a request, the same whole, streamed and as a beta."""
    found = [
        sdk.error(scenario, url, request, **client)
        for scenario in ("message", "events", "stream", "beta_message", "async_both")
    ]
    for each in found:
        assert each.pop("request") == each["body"].pop("request_id") != ""
        assert each["body"]["type"] == "error"
        assert each["headers"]["x-should-retry"] == "false"
        each.pop("message")
    assert [each for each in found if each != found[0]] == []
    first: dict[str, Any] = found[0]
    return first


@pytest.mark.parametrize(
    ("key", "code", "says"),
    [
        ("sk-bf-nobody-0123456789abcdefghijklmnopqrstuvwx", "virtual_key_not_found", "unknown"),
        ("sk-ant-api03-a-key-of-the-provider", "virtual_key_required", "needs a virtual key"),
    ],
)
@pytest.mark.parametrize("style", ["auth_token", "api_key"])
def test_wrong_key(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, key: str, code: str, says: str, style: str
) -> None:
    books = Books(gateway, mock)
    error = refused(sdk, door(gateway), ASK, **{style: key})
    assert error["status"] == 401 and error["kinds"][0] == "AuthenticationError"
    assert error["body"]["error"]["type"] == "authentication_error"
    assert error["headers"]["x-bf-error"] == code and says in error["body"]["error"]["message"]
    assert not books.rows()
    books.balance(due=0)


def test_blocked_model(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    books = Books(gateway, mock)
    error = refused(sdk, door(gateway), ASK, auth_token=HAIKU_ONLY)
    assert error["status"] == 400 and error["kinds"][0] == "BadRequestError"
    assert error["body"]["error"]["type"] == "policy_blocked"
    assert error["body"]["error"]["message"] == (
        "Virtual key 'alice-haiku' may not use model 'claude-sonnet-5-5'; allowed: claude-haiku-*."
    )
    counted = sdk.error("count", door(gateway), SHORT, auth_token=HAIKU_ONLY)
    assert counted["body"]["error"] == error["body"]["error"]
    assert not books.rows()
    books.balance(due=0)


def test_exhausted_budget(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    books = Books(gateway, mock)
    error = refused(sdk, door(gateway), ASK, auth_token=POOR)
    assert error["status"] == 402 and "APIStatusError" in error["kinds"]
    assert error["headers"]["x-bf-error"] == "budget_exceeded"
    assert error["body"]["error"]["type"] == "billing_error"
    told = error["body"]["error"]["message"]
    assert told.startswith("The budget of virtual key 'alice-poor' cannot cover this request: ")
    assert "$0.0001 per 1M, $0.00 spent" in told and "resets at" in told
    assert not books.rows()
    books.balance(due=0)


# failures of the provider


@pytest.mark.parametrize("status", [400, 403, 404, 413, 429, 500, 503, 529])
@pytest.mark.parametrize("scenario", ["message", "events"])
def test_same_upstream_error(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str, status: int
) -> None:
    steer = {"x-mock-fail": str(status), "x-mock-retry-after": "7"}
    request = {**ASK, "extra_headers": steer}
    direct, through, books = both(sdk, gateway, mock, scenario, request)
    assert direct["error"]["status"] == status
    assert alike(through) == alike(direct)
    assert [row["failures"] for row in books.rows()] == [1]
    books.balance(*PAYERS, due=0)


def flowed(mock: RunningMock) -> int:
    """Nano-USD of the one answer that ended early: its input and the text that came, at 3.6 bytes
    a token."""
    (cut,) = mock.account()["cut"]
    tokens = dict.fromkeys(BUCKETS, 0)
    tokens["input_tokens"] = cut["served"]["input"]
    tokens["output_tokens"] = -(-cut["delta_bytes"] * 10 // 36)
    assert cut["delta_bytes"] > 100
    return cost(cut["model"], tokens)


@pytest.mark.parametrize("scenario", ["events", "stream", "beta_events"])
def test_same_error_event(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str
) -> None:
    """A provider's error in a stream is raised the same way; what flowed before it is paid."""
    steer = {"x-mock-error-event": "1", "x-mock-chunks": "6"}
    request = {**CUT, "extra_headers": steer}
    direct, through, books = both(sdk, gateway, mock, scenario, request)
    assert direct["error"]["body"]["error"]["type"] == "overloaded_error"
    assert alike(through) == alike(direct)
    books.balance(*PAYERS, due=flowed(mock))


@pytest.mark.parametrize("scenario", ["events", "stream", "beta_events"])
def test_connection_lost_in_a_stream(
    sdk: Sdk, gateway: RunningGateway, mock: RunningMock, scenario: str
) -> None:
    """Where the provider just vanishes, the SDK's user gets a typed error from the gateway."""
    books = Books(gateway, mock)
    steer = {"x-mock-cut-after": "6", "x-mock-chunks": "9"}
    error = sdk.error(scenario, door(gateway), {**CUT, "extra_headers": steer})
    assert error["kinds"][0] == "APIStatusError" and error["status"] == 200
    assert error["body"]["type"] == "error" and error["body"]["error"]["type"] == "api_error"
    assert error["body"]["request_id"].startswith("req_")
    books.balance(*PAYERS, due=flowed(mock))


def test_usage_report_agrees(sdk: Sdk, gateway: RunningGateway, mock: RunningMock) -> None:
    sdk.value("message", door(gateway), ASK)
    report = gateway.command("usage", "--by", "team", "--by", "customer")
    payers = {who: spent for who, (spent, _) in gateway.spent().items() if spent != "0"}
    assert payers == dict.fromkeys(PAYERS, report["total_cost_usd"])
    assert [row["cost_usd"] for row in report["rows"]] == [report["total_cost_usd"]]
