"""The real Claude Code on a host that speaks OpenAI's Chat Completions."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.clients.installed import claude_code
from tests.clients.test_claude_code import Agent, completed
from tests.commands import until
from tests.running import KEY, RunningGateway, RunningMock
from tests.test_passages import MODEL, PAYERS, mapped

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 380 MB
PICO = {"input_tokens": 1_250_000, "cache_read_tokens": 125_000, "output_tokens": 10_000_000}


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path, "--script", "tool")
    yield running
    running.stop()


def test_a_conversation_with_a_tool(mock: RunningMock, tmp_path: Path) -> None:
    """The tool is called and its result told; every level pays what the host served."""
    config = mapped(mock.url)
    config["models"] = {"claude-*": config["models"].popitem()[1]}
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        agent = Agent(claude_code(), tmp_path, gateway.url)
        completed(agent.run(ANTHROPIC_AUTH_TOKEN=KEY))
        [row] = mock.account()["models"]
        assert (row["model"], row["requests"], row["completed"]) == (MODEL, 2, 2)
        due = sum(Decimal(row["served"][name] * price) for name, price in PICO.items()) / 10**12
        until(lambda: {one[1] for one in gateway.spent().values()} == {"0"})
        assert {Decimal(gateway.spent()[who][0]) for who in PAYERS} == {due} and due > 0
    finally:
        gateway.stop()
