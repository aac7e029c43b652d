"""The real Claude Code in the modes in which it asks a cloud, pointed at the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.installed import claude_code
from tests.clients.relay import relay
from tests.clients.test_claude_code import ABOVE, OPUS, Agent, completed, governed, secret
from tests.running import RunningGateway, RunningMock
from tests.sdk.books import Books, cost

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]  # the first run downloads 380 MB

PROFILES = "GET /bedrock/inference-profiles?type=SYSTEM_DEFINED"
PROBED = "claude-sonnet-4-5-20250929", OPUS, "claude-haiku-4-5-20251001"


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path_factory.mktemp("mock"), "--script", "tool")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), governed(mock.url))
    yield running
    running.stop()


def bedrock(url: str) -> dict[str, str]:
    return {
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "ANTHROPIC_BEDROCK_BASE_URL": f"{url}/bedrock",
        "AWS_REGION": "us-east-1",
    }


def streamed(model: str) -> str:
    return f"POST /bedrock/model/{model}/invoke-with-response-stream"


def test_bedrock_with_a_bearer_token(
    gateway: RunningGateway, mock: RunningMock, tmp_path: Path
) -> None:
    """Its probes and a conversation with a tool; every level pays what the provider served."""
    books = Books(gateway, mock)
    with relay(gateway.url) as between:
        agent = Agent(claude_code(), tmp_path, between.url)
        key = secret("dev")
        completed(agent.run(AWS_BEARER_TOKEN_BEDROCK=key, **bedrock(between.url)))
    seen = [repr(one) for one in between.seen]
    assert (seen[0], seen[-2:]) == (PROFILES, [streamed(f"global.anthropic.{OPUS}")] * 2)
    assert len(seen) == 6
    rows = {row["model"]: row for row in mock.account()["models"]}
    assert {model: row["completed"] for model, row in rows.items()} == dict(
        zip(PROBED, (1, 3, 1), strict=True)
    )
    due = sum(cost(model, row["served"]) for model, row in rows.items())
    assert books.balance("keys:dev", *ABOVE) == due > 0


def test_bedrock_with_the_key_beside(
    gateway: RunningGateway, mock: RunningMock, tmp_path: Path
) -> None:
    books = Books(gateway, mock)
    with relay(gateway.url) as between:
        agent = Agent(claude_code(), tmp_path, between.url)
        own = {"ANTHROPIC_CUSTOM_HEADERS": f"x-bf-vk: {secret('dev')}"}
        own["CLAUDE_CODE_SKIP_BEDROCK_AUTH"] = "1"
        completed(agent.run(**own, **bedrock(between.url)))
    asked = [repr(one) for one in between.seen[1:]]
    assert len(asked) == 2 and {one.rpartition("/")[2] for one in asked} == {
        "invoke-with-response-stream"
    }
    [row] = mock.account()["models"]
    assert (row["model"], row["completed"]) == (OPUS, 2)
    assert books.balance("keys:dev", *ABOVE) == cost(OPUS, row["served"]) > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("poor", "The budget of virtual key 'poor' cannot cover this request: $0.01 per 1M"),
        ("narrow", f"Virtual key 'narrow' may not use model '{OPUS}'; allowed: claude-haiku-*."),
        ("absent", "The user 'bob' is disabled; ask your platform team."),
        ("unknown", "This virtual key is unknown or was revoked"),
    ],
)
def test_bedrock_refused(
    gateway: RunningGateway, mock: RunningMock, tmp_path: Path, name: str, sentence: str
) -> None:
    """One request, our sentence, nothing charged, nothing sent upstream."""
    books = Books(gateway, mock)
    with relay(gateway.url) as between:
        agent = Agent(claude_code(), tmp_path, between.url)
        own = {"ANTHROPIC_CUSTOM_HEADERS": f"x-bf-vk: {secret(name)}"}
        own["CLAUDE_CODE_SKIP_BEDROCK_AUTH"] = "1"
        run = agent.run(**own, **bedrock(between.url))
    assert run.code != 0 and sentence in run.said, run.whole
    assert [repr(one) for one in between.seen] == [PROFILES, streamed(f"us.anthropic.{OPUS}")]
    assert mock.requests(1) == []
    books.balance(due=0)
