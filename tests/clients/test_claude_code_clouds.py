"""The real Claude Code in the modes in which it asks a cloud, pointed at the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.installed import claude_code
from tests.clients.relay import relay
from tests.clients.test_claude_code import ABOVE, OPUS, Agent, completed, governed, secret
from tests.cloudhosts import Bedrock
from tests.place import Place
from tests.place import cost as usd
from tests.running import KEY, RunningGateway, RunningMock
from tests.sdk.books import Books, cost
from tests.test_clouds_aws import NOVA, amazon, invoked

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


VERTEX = (
    "POST /vertex/v1/projects/my-proj/locations/us-east5/publishers/anthropic/models/"
    f"{OPUS}:streamRawPredict"
)


def unproven(mode: str, url: str) -> dict[str, str]:
    """Settings of a mode in which the client shows no credentials of the cloud."""
    if mode == "bedrock":
        return {"CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1", **bedrock(url)}
    return {
        "CLAUDE_CODE_USE_VERTEX": "1",
        "CLAUDE_CODE_SKIP_VERTEX_AUTH": "1",
        "ANTHROPIC_VERTEX_BASE_URL": f"{url}/vertex/v1",
        "ANTHROPIC_VERTEX_PROJECT_ID": "my-proj",
        "CLOUD_ML_REGION": "us-east5",
    }


EXPECTED = {"bedrock": [PROFILES, streamed(f"us.anthropic.{OPUS}")], "vertex": [VERTEX]}


@pytest.mark.parametrize("mode", ["bedrock", "vertex"])
@pytest.mark.parametrize("how", ["token", "beside"])
def test_the_gateways_key_alone(
    gateway: RunningGateway, mock: RunningMock, tmp_path: Path, mode: str, how: str
) -> None:
    """A conversation with a tool; every level pays what the provider served."""
    books = Books(gateway, mock)
    key = secret("dev")
    own = {"ANTHROPIC_AUTH_TOKEN": key}
    if how == "beside":
        own = {"ANTHROPIC_CUSTOM_HEADERS": f"x-bf-vk: {key}"}
    with relay(gateway.url) as between:
        agent = Agent(claude_code(), tmp_path, between.url)
        completed(agent.run(**own, **unproven(mode, between.url)))
    assert [repr(one) for one in between.seen] == [*EXPECTED[mode], EXPECTED[mode][-1]]
    [row] = mock.account()["models"]
    assert (row["model"], row["completed"]) == (OPUS, 2)
    assert books.balance("keys:dev", *ABOVE) == cost(OPUS, row["served"]) > 0
    for request in mock.requests(2):
        assert key not in str(request)


@pytest.mark.parametrize("mode", ["bedrock", "vertex"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("poor", "The budget of virtual key 'poor' cannot cover this request: $0.01 per 1M"),
        ("narrow", f"Virtual key 'narrow' may not use model '{OPUS}'; allowed: claude-haiku-*."),
        ("absent", "The user 'bob' is disabled; ask your platform team."),
    ],
)
def test_refused(
    gateway: RunningGateway,
    mock: RunningMock,
    tmp_path: Path,
    mode: str,
    name: str,
    sentence: str,
) -> None:
    """One request, our sentence, nothing charged, nothing sent upstream."""
    books = Books(gateway, mock)
    with relay(gateway.url) as between:
        agent = Agent(claude_code(), tmp_path, between.url)
        run = agent.run(ANTHROPIC_AUTH_TOKEN=secret(name), **unproven(mode, between.url))
    assert run.code != 0 and sentence in run.said, run.whole
    assert [repr(one) for one in between.seen] == EXPECTED[mode]
    assert mock.requests(1) == []
    books.balance(due=0)


@pytest.mark.parametrize("mode", ["plain", "bedrock"])
def test_on_a_bedrock_host(tmp_path: Path, mode: str) -> None:
    """A task with a tool, on a host that checks each signature and each field."""
    place = invoked(tmp_path / "gateway", works=True)
    try:
        settings = {"ANTHROPIC_BASE_URL": f"{place.url}/anthropic"}
        if mode == "bedrock":
            settings = unproven("bedrock", place.url)
        run = Agent(claude_code(), tmp_path, place.url).run(ANTHROPIC_AUTH_TOKEN=KEY, **settings)
        assert (run.code, run.said) == (0, f"It says {run.nonce}"), run.whole
        path = f"/model/us.anthropic.{OPUS}/invoke-with-response-stream"
        assert [one.path for one in place.asked("/model/")] == [path] * 2
        assert place.spent() == 2 * usd("4.4", "22")
    finally:
        place.close()


def test_on_a_model_that_converses(tmp_path: Path) -> None:
    """A task with a tool on Nova, by signed requests that break no rule of Converse."""
    host = Bedrock()
    host.works = True
    names = {"claude-*": NOVA}
    place = Place(tmp_path / "gateway", host, amazon("bedrock", host, "signature"), **names)
    try:
        agent = Agent(claude_code(), tmp_path, place.url)
        completed(agent.run(ANTHROPIC_AUTH_TOKEN=KEY))
        asked = [one.path for one in place.asked("/converse")]
        assert asked == [f"/model/{NOVA}/converse-stream"] * 2
        assert place.spent() == 2 * usd("0.80", "3.20")
    finally:
        place.close()
