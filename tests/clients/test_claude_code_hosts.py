"""The real Claude Code on hosts of other dialects, each as strict as the real one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bifrost.mock.manners import THOUGHT
from tests.clients.installed import claude_code
from tests.clients.test_claude_code import Agent, completed
from tests.converse_oracle import checked as converse_rules
from tests.running import KEY, RunningGateway, RunningMock
from tests.test_passages import CHAT, CONVERSE, GEMINI, RESPONSES, Kind, mapped
from tests.test_translate_chat import checked as chat_rules
from tests.test_translate_gemini import checked as gemini_rules
from tests.test_translate_responses import checked as responses_rules

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 380 MB
# Picodollars a token, the same for the models of all of them.
PRICES = {"input_tokens": 1_250_000, "cache_read_tokens": 125_000, "output_tokens": 10_000_000}
RULES: list[tuple[Kind, Callable[[dict[str, Any]], None]]] = [
    (CHAT, chat_rules),
    (RESPONSES, responses_rules),
    (GEMINI, gemini_rules),
    (CONVERSE, converse_rules),
]


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path, "--script", "tool", "--record-bodies")
    yield running
    running.stop()


def test_on_a_host_that_wants_its_reasoning_back(tmp_path: Path) -> None:
    """Moonshot's Chat refuses a turn that called a tool and comes without what led to the call."""
    mock = RunningMock(tmp_path, "--script", "tool", "--like", "moonshot", "--record-bodies")
    config = mapped(mock.url, Kind("moonshot", "chat", "kimi-k2.6", "/v1", "", ""))
    config["models"] = {"claude-*": config["models"].popitem()[1]}
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        agent = Agent(claude_code(), tmp_path, gateway.url)
        completed(agent.run(ANTHROPIC_AUTH_TOKEN=KEY))
        last = json.loads(base64.b64decode(mock.requests()[0]["body"]))
        [called] = [turn for turn in last["messages"] if turn.get("tool_calls")]
        assert called["reasoning_content"] == THOUGHT
        assert gateway.settled() > 0
    finally:
        gateway.stop()
        mock.stop()


@pytest.mark.parametrize(("kind", "rules"), RULES, ids=[kind.api for kind, _ in RULES])
def test_a_conversation_with_a_tool(
    mock: RunningMock, tmp_path: Path, kind: Kind, rules: Callable[[dict[str, Any]], None]
) -> None:
    """The tool is called and its result told; every level pays what the host served."""
    config = mapped(mock.url, kind)
    config["models"] = {"claude-*": config["models"].popitem()[1]}
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        agent = Agent(claude_code(), tmp_path, gateway.url)
        completed(agent.run(ANTHROPIC_AUTH_TOKEN=KEY))
        asked = mock.requests(100)
        assert len(asked) == 2
        for one in asked:
            rules(json.loads(base64.b64decode(one["body"])))
        [row] = mock.account()["models"]
        assert (row["model"], row["requests"], row["completed"]) == (kind.model, 2, 2)
        due = sum(Decimal(row["served"][name] * price) for name, price in PRICES.items()) / 10**12
        assert gateway.settled() == due > 0
    finally:
        gateway.stop()
