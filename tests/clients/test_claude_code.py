"""The real Claude Code, headless, through ``bifrost serve`` against ``bifrost mock``."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.installed import claude_code
from tests.clients.relay import Relay, relay
from tests.running import (
    BIFROST,
    RunningGateway,
    RunningMock,
    bearer,
    budget,
    configuration,
    environment,
    message,
)
from tests.sdk.books import Books, cost, nano, price

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 380 MB

OPUS = "claude-opus-5-5"
SONNET = "claude-sonnet-5-5"
CHEAP = "claude-haiku-4-5"
ABOVE = ("users:alice", "teams:core", "customers:acme")
NOT_A_KEY = "token-of-a-login-4f1d9c"
FINAL = "MOCK_FINAL_OK"
MESSAGES = "POST /anthropic/v1/messages?beta=true"
KEYS: dict[str, dict[str, Any]] = {
    "dev": {},
    "narrow": {"provider_configs": [{"allowed_models": ["claude-haiku-*"]}]},
    "poor": {"budgets": budget("0.01")},
    "revoked": {},
    "hurried": {"rate_limits": [{"metric": "requests", "max_limit": 1, "window": "3s"}]},
    "rationed": {"rate_limits": [{"metric": "requests", "max_limit": 1, "window": "1h"}]},
    "single": {"rate_limits": [{"metric": "concurrency", "max_limit": 1}]},
    "absent": {"user": "bob"},
}
EXTRA = "CLAUDE_CODE_EXTRA_BODY"  # what the client puts into every request besides its own


def secret(name: str) -> str:
    """The virtual key of that name."""
    return f"sk-bf-{name}-{'0123456789' * 4}"


class Run:
    """What one headless run of the client said."""

    def __init__(self, done: subprocess.CompletedProcess[str], nonce: str) -> None:
        self.code = done.returncode
        self.nonce = nonce
        self.whole = f"{done.stdout}\n{done.stderr}"
        try:
            self.said = str(json.loads(done.stdout)["result"])
        except (ValueError, KeyError, TypeError):
            self.said = done.stdout


class Agent:
    """Claude Code in an environment and a folder of its own, pointed at a gateway."""

    def __init__(self, program: Path, folder: Path, url: str) -> None:
        self.program = program
        self.folder = folder
        self.url = url

    def run(self, *arguments: str, **credentials: str) -> Run:
        """Asks for something; the script makes it read a file whose content nobody can guess."""
        own = Path(tempfile.mkdtemp(dir=self.folder))
        home, work = own / "home", own / "work"
        home.mkdir()
        work.mkdir()
        nonce = f"nonce-{secrets.token_hex(8)}"
        (work / "bifrost_mock.txt").write_text(nonce)
        variables = {
            "HOME": str(home),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "ANTHROPIC_BASE_URL": f"{self.url}/anthropic",
            **credentials,
        }
        command = [str(self.program), "-p", "Read the file.", "--output-format", "json"]
        done = subprocess.run(
            [*command, "--allowedTools", "Bash", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            env=variables, cwd=work, check=False,
        )  # fmt: skip
        return Run(done, nonce)


@pytest.fixture(scope="module")
def program() -> Path:
    return claude_code()


@pytest.fixture(scope="module")
def mock(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path_factory.mktemp("mock"), "--script", "tool")
    yield running
    running.stop()


def governed(upstream: str, **more: Any) -> dict[str, Any]:
    """The example's customer, team and user with the keys of these tests."""
    config = configuration(upstream)
    config["governance"]["users"].append({"name": "bob", "is_active": False})
    config["governance"]["virtual_keys"] = [
        {"name": name, "user": "alice", "value": secret(name), "budgets": budget("75"), **rules}
        for name, rules in KEYS.items()
    ]
    return {**config, **more}


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), governed(mock.url))
    yield running
    running.stop()


@pytest.fixture
def between(gateway: RunningGateway) -> Iterator[Relay]:
    """Sees what the client sends to the gateway."""
    with relay(gateway.url) as running:
        yield running


@pytest.fixture
def agent(program: Path, between: Relay, tmp_path: Path) -> Agent:
    return Agent(program, tmp_path, between.url)


def completed(run: Run) -> None:
    """The client executed the tool and told the file's content."""
    assert run.code == 0, run.whole
    assert FINAL in run.said and run.nonce in run.said, run.whole


def arrived(mock: RunningMock, sent: Relay, *secrets_: str, same: bool = True) -> None:
    """What the client sent reached the provider byte for byte, without our credential."""
    received = mock.requests(100)
    assert len(received) == len(sent.seen)
    for request, seen in zip(received, sent.seen, strict=True):
        if same:
            assert request["body_sha256"] == hashlib.sha256(seen.body).hexdigest()
        headers = {name.lower(): value for name, value in request["headers"]}
        assert headers["x-api-key"] == "sk-ant-upstream-secret"
        assert [name for name in headers if name.startswith("x-bf")] == []
        assert "authorization" not in headers
        for each in secrets_:
            assert each not in json.dumps(request)
            assert each.encode() not in seen.body


def sums(mock: RunningMock) -> dict[str, Any]:
    """The mock's account of the only model it was asked for."""
    (row,) = mock.account()["models"]
    found: dict[str, Any] = row
    return found


# what works


def test_conversation(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    """A tool-using conversation; every level pays what the provider served, to the nano-dollar."""
    books = Books(gateway, mock)
    completed(agent.run(ANTHROPIC_AUTH_TOKEN=secret("dev")))
    assert [repr(each) for each in between.seen] == [MESSAGES] * 2
    arrived(mock, between, secret("dev"))
    row = sums(mock)
    assert (row["model"], row["requests"], row["completed"]) == (OPUS, 2, 2)
    assert row["served"]["input_tokens"] > 10_000
    assert books.balance("keys:dev", *ABOVE) == cost(OPUS, row["served"]) > 0


def test_usage_report(agent: Agent, gateway: RunningGateway, mock: RunningMock) -> None:
    """``bifrost usage`` tells of one conversation what the mock does."""
    mine = ("--by", "team", "--by", "model")
    before = gateway.command("usage", *mine)
    books = Books(gateway, mock)
    completed(agent.run("--model", SONNET, ANTHROPIC_AUTH_TOKEN=secret("dev")))
    due = books.balance("keys:dev", *ABOVE)
    after = gateway.command("usage", *mine)
    known = [(row["team"], row["model"]) for row in before["rows"]]
    (row,) = [row for row in after["rows"] if (row["team"], row["model"]) not in known]
    served = sums(mock)["served"]
    assert row == {
        "team": "core",
        "model": SONNET,
        "requests": 2,
        "input_tokens": served["input_tokens"],
        "cache_read_tokens": served["cache_read_tokens"],
        "cache_write_tokens": served["cache_5m_tokens"] + served["cache_1h_tokens"],
        "output_tokens": served["output_tokens"],
        "cost_usd": row["cost_usd"],
    }
    assert nano(row["cost_usd"]) == due == cost(SONNET, served)
    assert nano(after["total_cost_usd"]) - nano(before["total_cost_usd"]) == due
    above = [both for who, both in gateway.spent().items() if not who.startswith("keys:")]
    assert above == [(after["total_cost_usd"], "0")] * 3


def test_mapped_model(
    program: Path, mock: RunningMock, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The client asks for opus, the configuration answers with a cheaper model at its price."""
    models = {"claude-opus-*": [{"provider": "anthropic", "model": CHEAP}]}
    folder = tmp_path_factory.mktemp("mapped")
    gateway = RunningGateway(folder, governed(mock.url, models=models))
    try:
        books = Books(gateway, mock)
        with relay(gateway.url) as between:
            agent = Agent(program, tmp_path, between.url)
            completed(agent.run(ANTHROPIC_AUTH_TOKEN=secret("dev")))
        arrived(mock, between, secret("dev"), same=False)
        for request, seen in zip(mock.requests(100), between.seen, strict=True):
            renamed = seen.body.replace(b'"%b"' % OPUS.encode(), b'"%b"' % CHEAP.encode(), 1)
            assert request["body_sha256"] == hashlib.sha256(renamed).hexdigest()
        row = sums(mock)
        assert (row["model"], row["completed"]) == (CHEAP, 2)
        assert books.balance("keys:dev", *ABOVE) == cost(CHEAP, row["served"])
        assert price(CHEAP).input < price(OPUS).input
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    "credentials",
    [
        {"ANTHROPIC_API_KEY": secret("dev")},
        {
            "ANTHROPIC_AUTH_TOKEN": NOT_A_KEY,
            "ANTHROPIC_CUSTOM_HEADERS": f"x-bf-vk: {secret('dev')}",
        },
        {"ANTHROPIC_AUTH_TOKEN": secret("dev"), "ANTHROPIC_API_KEY": "sk-ant-api03-forgotten"},
    ],
    ids=["api key", "own header", "both"],
)
def test_credentials(
    agent: Agent,
    between: Relay,
    gateway: RunningGateway,
    mock: RunningMock,
    credentials: dict[str, str],
) -> None:
    """Every way to hand Claude Code a key is accepted; none of it reaches the provider."""
    books = Books(gateway, mock)
    completed(agent.run(**credentials))
    arrived(mock, between, secret("dev"), NOT_A_KEY, "sk-ant-api03-forgotten")
    assert books.balance("keys:dev", *ABOVE) > 0


# what is refused: one request, our sentence, nothing charged, nothing sent upstream


def refused(
    agent: Agent,
    between: Relay,
    gateway: RunningGateway,
    mock: RunningMock,
    name: str,
    *arguments: str,
    **more: str,
) -> str:
    """What the client shows when the key of that name is refused."""
    books = Books(gateway, mock)
    run = agent.run(*arguments, ANTHROPIC_AUTH_TOKEN=secret(name), **more)
    assert run.code != 0
    assert [repr(each) for each in between.seen] == [MESSAGES]
    assert not books.rows() and mock.requests(1) == []
    books.balance(due=0)
    return run.said


def test_blocked_model(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    said = refused(agent, between, gateway, mock, "narrow")
    assert f"Virtual key 'narrow' may not use model '{OPUS}'; allowed: claude-haiku-*." in said


def test_exhausted_budget(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    said = refused(agent, between, gateway, mock, "poor")
    assert "The budget of virtual key 'poor' cannot cover this request: $0.01 per 1M" in said
    assert "ask your platform team to raise it or lower max_tokens." in said


def test_revoked_key(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    """A key that worked a moment ago."""
    books = Books(gateway, mock)
    completed(agent.run(ANTHROPIC_AUTH_TOKEN=secret("revoked")))
    books.balance("keys:revoked", *ABOVE)
    between.seen.clear()
    revoke = [*BIFROST, "keys", "revoke", "revoked", "--data-dir", str(gateway.data_dir)]
    subprocess.run(revoke, check=True, capture_output=True, timeout=30, env=environment())
    said = refused(agent, between, gateway, mock, "revoked")
    assert (
        "This virtual key is unknown or was revoked; ask your platform team for a new one." in said
    )


def test_disabled_user(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    said = refused(agent, between, gateway, mock, "absent")
    assert "The user 'bob' is disabled; ask your platform team." in said


def test_unpriced_model(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    said = refused(agent, between, gateway, mock, "dev", "--model", "claude-nobody-9")
    assert "Model 'claude-nobody-9' of provider 'anthropic' has no price" in said
    assert "ask your platform team to add one (`bifrost prices set`)." in said


def test_governed_field(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    said = refused(agent, between, gateway, mock, "dev", **{EXTRA: '{"fallbacks": "default"}'})
    assert b'"fallbacks":"default"' in between.seen[0].body
    assert "The request field 'fallbacks' could spend beyond what a budget can reserve" in said


# what is limited for a while


def test_short_rate_limit(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    """One request in three seconds: the client waits as it is told and then succeeds."""
    books = Books(gateway, mock)
    completed(agent.run(ANTHROPIC_AUTH_TOKEN=secret("hurried")))
    assert sums(mock)["completed"] == 2
    assert len(between.seen) in (3, 4)  # one refused, and once more if it counted whole seconds
    books.balance("keys:hurried", *ABOVE)


def test_long_rate_limit(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    """One request an hour: the second one is asked once, and a person reads why."""
    books = Books(gateway, mock)
    run = agent.run(ANTHROPIC_AUTH_TOKEN=secret("rationed"))
    assert run.code != 0
    assert [repr(each) for each in between.seen] == [MESSAGES] * 2
    assert "The request limit of virtual key 'rationed' is reached: 1 request per 1h" in run.said
    assert sums(mock)["requests"] == 1
    books.balance("keys:rationed", *ABOVE)


def test_concurrency_limit(
    agent: Agent, between: Relay, gateway: RunningGateway, mock: RunningMock
) -> None:
    """Another stream of the same key is under way: the client comes back until it has ended."""
    steer = {"x-mock-chunks": "40", "x-mock-chunk-interval-ms": "100"}
    with httpx.stream(
        "POST", f"{gateway.url}/v1/messages", json=message(stream=True),
        headers=bearer(secret("single")) | steer, timeout=60,
    ) as other:  # fmt: skip
        lines = other.iter_lines()
        assert next(lines) == "event: message_start"
        reader = threading.Thread(target=lambda: list(lines))
        reader.start()
        try:
            completed(agent.run(ANTHROPIC_AUTH_TOKEN=secret("single")))
        finally:
            reader.join()
    assert 2 < len(between.seen) < 10  # it asks about once a second
