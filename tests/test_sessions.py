"""Sessions stay with their target, whoever names them and however; another one serves only while
theirs cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from tests.commands import until
from tests.running import RunningGateway, RunningMock, bearer, configuration, message
from tests.servers import free_ports

SESSIONS = [f"session-{n}" for n in range(24)]
Ask = Callable[[httpx.Client, str], httpx.Response]
PROVIDERS = ("left", "right")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path_factory.mktemp("other"))
    yield running
    running.stop()


def two(left: str, right: str, keys: int = 1, **routing: Any) -> dict[str, Any]:
    """Two providers of the same models."""
    config = configuration(left)
    config["providers"] = {
        name: {
            "type": "anthropic",
            "keys": [{"name": f"k{n}", "value": f"sk-{name}-{n}"} for n in range(keys)],
            "network": {"base_url": url, "max_retries": 0},
        }
        for name, url in zip(PROVIDERS, (left, right), strict=True)
    }
    config["models"] = {"claude-*": [{"provider": name} for name in PROVIDERS]}
    config["routing"] = routing
    return config


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, other: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    config = two(mock.url, other.url)
    running = RunningGateway(tmp_path_factory.mktemp("two"), config, "--workers", "2")
    yield running
    running.stop()


def by_header(name: str) -> Ask:
    return lambda client, session: client.post(
        "/v1/messages", json=message(), headers={name: session}
    )


def by_user(client: httpx.Client, session: str) -> httpx.Response:
    user = json.dumps({"device_id": "d", "account_uuid": "", "session_id": session})
    body = message(metadata={"user_id": user})
    return client.post("/v1/messages", json=body)


def by_cache_key(client: httpx.Client, session: str) -> httpx.Response:
    body = {"model": "claude-sonnet-4-5", "input": "Hello", "prompt_cache_key": session}
    return client.post("/openai/v1/responses", json=body)


by_claude_code = by_header("x-claude-code-session-id")


def client_of(gateway: RunningGateway) -> httpx.Client:
    """A client that makes a new connection for each request: any worker may take it."""
    alone = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=gateway.url, headers=bearer(), limits=alone)


def served(gateway: RunningGateway, ask: Ask = by_claude_code) -> dict[str, str]:
    """The provider that serves each session now."""
    with client_of(gateway) as client:
        answers = [ask(client, session) for session in SESSIONS]
    assert {answer.status_code for answer in answers} == {200}
    found = [answer.headers["x-bf-provider"] for answer in answers]
    return dict(zip(SESSIONS, found, strict=True))


@pytest.mark.parametrize(
    "ask",
    [
        by_header("x-bf-session-id"),
        by_claude_code,
        by_header("session-id"),
        by_user,
        by_cache_key,
    ],
    ids=["ours", "claude code", "codex", "metadata", "prompt cache"],
)
def test_a_session_stays_with_its_target_in_every_worker(gateway: RunningGateway, ask: Ask) -> None:
    first = served(gateway, ask)
    assert set(first.values()) == set(PROVIDERS)
    for _ in range(3):
        assert served(gateway, ask) == first


def test_without_a_session_chance_decides(gateway: RunningGateway) -> None:
    with client_of(gateway) as client:
        for metadata in (None, {}, {"user_id": None}, {"user_id": ""}):
            body = message(**({} if metadata is None else {"metadata": metadata}))
            answers = [client.post("/v1/messages", json=body) for _ in range(30)]
            assert {answer.headers["x-bf-provider"] for answer in answers} == set(PROVIDERS)


def test_a_key_has_its_own_shares_among_providers(
    mock: RunningMock, other: RunningMock, tmp_path: Path
) -> None:
    config = two(mock.url, other.url)
    [key] = config["governance"]["virtual_keys"]
    key["provider_configs"] = [{"provider": "left", "weight": 0}, {"provider": "right"}]
    gateway = RunningGateway(tmp_path, config)
    try:
        assert set(served(gateway).values()) == {"right"}
    finally:
        gateway.stop()


def test_a_session_also_stays_with_its_provider_key(
    mock: RunningMock, other: RunningMock, tmp_path: Path
) -> None:
    gateway = RunningGateway(tmp_path, two(mock.url, other.url, keys=3))
    try:
        for _ in range(3):
            served(gateway)
        told = until(lambda: _told(gateway, 3 * len(SESSIONS)))
    finally:
        gateway.stop()
    used: dict[str, set[tuple[str, str]]] = {}
    for one in told:
        used.setdefault(one.session, set()).add((one.provider, one.provider_key))
    assert {len(keys) for keys in used.values()} == {1}
    assert len(set.union(*used.values())) == 6


def _told(gateway: RunningGateway, many: int) -> list[Any]:
    reader = Reader(gateway.data_dir)
    told = [events.decode(raw) for _, raw in reader.read(reader.oldest(), 1 << 20)]
    found = [one for one in told if isinstance(one, events.ModelAccess)]
    return found if len(found) == many else []


def test_a_session_leaves_only_while_its_target_is_gone_and_comes_back(
    mock: RunningMock, tmp_path: Path
) -> None:
    [port] = free_ports(1)
    folders = iter(range(10))

    def begin() -> RunningMock:
        folder = tmp_path / f"mock-{next(folders)}"
        folder.mkdir()
        return RunningMock(folder, "--port", str(port))

    right = begin()
    config = two(mock.url, right.url, cool_down_s=0.3, max_cool_down_s=0.3)
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        before = served(gateway)
        moved = {session for session, name in before.items() if name == "right"}
        assert moved and len(moved) < len(SESSIONS)
        right.stop()
        assert set(served(gateway).values()) == {"left"}
        right = begin()
        until(lambda: served(gateway) == before)
    finally:
        gateway.stop()
        right.stop()
