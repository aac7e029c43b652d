"""Hedged requests over real HTTP: what the client sees, what both attempts cost, and that no budget
holds less than it should."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bifrost.metering.usage import output_estimate
from tests.commands import until
from tests.running import RunningGateway, RunningMock, bearer, budget, configuration, message
from tests.servers import free_ports
from tests.test_failover import attempts, settled
from tests.test_serve import workers

INPUT, OUTPUT = 1_000, 64
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"
SERVED = INPUT * 1_000 + OUTPUT * 5_000  # nano-USD at Haiku's prices
SLOW_MS = "60000"


class Mocks(NamedTuple):
    """Providers by what they do."""

    good: RunningMock
    slow: RunningMock
    late: RunningMock  # later than a hedge, sooner than a slow one
    failing: RunningMock


@pytest.fixture(scope="module")
def mocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mocks]:
    counts = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT))
    faults = [(), ("--latency-ms", SLOW_MS), ("--latency-ms", "1500"), ("--fail", "529")]
    running: list[RunningMock] = []
    try:
        for fault in faults:
            running.append(RunningMock(tmp_path_factory.mktemp("mock"), *counts, *fault))
        yield Mocks(*running)
    finally:
        for one in running:
            one.stop()


Start = Callable[..., RunningGateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a gateway whose Sonnet is at ``first``, with ``second``'s Haiku behind it."""
    running: list[RunningGateway] = []

    def begin(first: str, second: str, *, hedge: dict[str, Any] | None = None,
              network: dict[str, Any] | None = None, third: str = "",
              more: dict[str, Any] | None = None, **key: Any) -> RunningGateway:  # fmt: skip
        config = configuration(second, **key) | (more or {})
        targets: list[dict[str, Any]] = [{"provider": "first"}]
        targets.append({"provider": "anthropic", "model": HAIKU, "standby": True})
        for name, url in (("first", first), ("third", third)):
            if url:
                config["providers"][name] = {
                    "type": "anthropic",
                    "keys": [{"name": "main", "value": "sk-ant"}],
                    "network": {"base_url": url, **(network or {})},
                }
        config["models"] = {SONNET: targets}
        config["routing"] = {"hedge": {"after_ms": 100, "max_share": 1.0, **(hedge or {})}}
        running.append(RunningGateway(tmp_path / "gateway", config))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def ask(gateway: RunningGateway, **changes: Any) -> httpx.Response:
    """One request, its answer read to the end."""
    body = message(model=SONNET, **changes)
    return httpx.post(f"{gateway.url}/v1/messages", json=body, headers=bearer(), timeout=30)


def hedges(gateway: RunningGateway, outcome: str) -> int:
    """How many hedges came to that."""
    page = httpx.get(f"{gateway.url}/metrics").text
    lead = f'bifrost_hedges_total{{outcome="{outcome}"}} '
    return sum(int(line.removeprefix(lead)) for line in page.splitlines() if line.startswith(lead))


def estimated(answer: httpx.Response) -> int:
    """nano-USD of Sonnet's input where no answer came."""
    return output_estimate(len(answer.request.content)) * 3_000


def verified(gateway: RunningGateway) -> None:
    """The audit log proves itself, to its last entry."""
    until(lambda: gateway.command("audit", "verify")["not_covered"] == 0)


streamed = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


@streamed
def test_the_hedge_serves_where_the_first_is_slow(start: Start, mocks: Mocks, stream: bool) -> None:
    gateway = start(mocks.slow.url, mocks.good.url)
    answer = ask(gateway, stream=stream)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-bf-provider"], answer.headers["x-bf-model"]) == ("anthropic", HAIKU)
    assert answer.headers["x-bf-attempts"] == "2"
    told = sorted(attempts(gateway, answer, 2), key=lambda event: event.attempt)
    first, second = told
    assert (first.provider, first.outcome, first.source, first.hedge) == (
        "first", "cut", "estimated", False,
    )  # fmt: skip
    assert (second.provider, second.outcome, second.attempt, second.hedge) == (
        "anthropic", "ok", 2, True,
    )  # fmt: skip
    assert (first.cost, second.cost) == (estimated(answer), SERVED)
    assert settled(gateway) == first.cost + second.cost
    assert until(lambda: hedges(gateway, "won")) == 1
    verified(gateway)


@streamed
def test_the_first_serves_where_the_hedge_is_slower(
    start: Start, mocks: Mocks, stream: bool
) -> None:
    gateway = start(mocks.late.url, mocks.slow.url)
    answer = ask(gateway, stream=stream)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-provider"] == "first"
    first, second = sorted(attempts(gateway, answer, 2), key=lambda event: event.attempt)
    assert (first.outcome, first.cost) == ("ok", 3 * SERVED)
    assert (second.outcome, second.source, second.hedge) == ("cut", "estimated", True)
    assert second.cost == estimated(answer) // 3
    assert settled(gateway) == first.cost + second.cost
    assert until(lambda: hedges(gateway, "lost")) == 1


def test_who_answers_in_time_is_not_hedged(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.good.url, mocks.slow.url, hedge={"after_ms": 20_000})
    answer = ask(gateway)
    assert answer.headers["x-bf-attempts"] == "1"
    [only] = attempts(gateway, answer, 1)
    assert settled(gateway) == only.cost == 3 * SERVED


def test_other_models_are_not_hedged(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.late.url, mocks.good.url, hedge={"models": ["claude-opus-*"]})
    answer = ask(gateway)
    assert (answer.headers["x-bf-provider"], answer.headers["x-bf-attempts"]) == ("first", "1")


def test_a_hedge_that_fails_leaves_the_first_alone(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.late.url, mocks.failing.url)
    answer = ask(gateway)
    assert (answer.status_code, answer.headers["x-bf-provider"]) == (200, "first")
    first, second = sorted(attempts(gateway, answer, 2), key=lambda event: event.attempt)
    assert (second.outcome, second.status, second.cost, second.hedge) == ("error", 529, 0, True)
    assert settled(gateway) == first.cost == 3 * SERVED
    assert until(lambda: hedges(gateway, "failed")) == 1


def test_where_the_first_fails_the_hedge_under_way_is_waited_for(
    start: Start, mocks: Mocks
) -> None:
    gateway = start(mocks.slow.url, mocks.late.url, network={"timeout_s": 0.5})
    seen = len(mocks.late.requests(1000))
    answer = ask(gateway)
    assert (answer.status_code, answer.headers["x-bf-provider"]) == (200, "anthropic")
    assert answer.headers["x-bf-attempts"] == "2"
    first, second = sorted(attempts(gateway, answer, 2), key=lambda event: event.attempt)
    assert (first.outcome, first.cost) == ("broken", estimated(answer))
    assert settled(gateway) == first.cost + second.cost
    assert second.cost == SERVED
    assert len(mocks.late.requests(1000)) == seen + 1


def test_where_both_fail_the_client_gets_the_better_error(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.slow.url, mocks.failing.url, network={"timeout_s": 1.0})
    answer = ask(gateway)
    assert answer.status_code == 529
    first, second = sorted(attempts(gateway, answer, 2), key=lambda event: event.attempt)
    assert (first.outcome, second.outcome) == ("broken", "error")
    assert settled(gateway) == first.cost == estimated(answer)


def test_where_nobody_can_be_reached_beside_it_the_first_goes_on(
    start: Start, mocks: Mocks
) -> None:
    gateway = start(mocks.late.url, f"http://127.0.0.1:{free_ports(1)[0]}")
    answer = ask(gateway)
    assert (answer.status_code, answer.headers["x-bf-provider"]) == (200, "first")
    assert settled(gateway) == 3 * SERVED


def test_a_hedge_the_budget_cannot_hold_is_not_sent_and_nobody_hears_of_it(
    start: Start, mocks: Mocks
) -> None:
    tight = {**budget("0.000001")[0], "provider": "anthropic"}
    gateway = start(mocks.late.url, mocks.good.url, budgets=[*budget("75"), tight])
    seen = len(mocks.good.requests(1000))
    answer = ask(gateway)
    assert (answer.status_code, answer.headers["x-bf-provider"]) == (200, "first")
    assert answer.headers["x-bf-attempts"] == "1"
    [only] = attempts(gateway, answer, 1)
    assert (only.outcome, only.attempt) == ("ok", 0)
    assert Decimal(gateway.spent()["users:alice"][0]) * 10**9 == only.cost == 3 * SERVED
    assert len(mocks.good.requests(1000)) == seen
    assert until(lambda: hedges(gateway, "unaffordable")) == 1


def test_only_a_share_of_the_requests_is_hedged(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.late.url, mocks.good.url, hedge={"max_share": 0.05})
    served = [ask(gateway).headers["x-bf-provider"] for _ in range(4)]
    assert served == ["anthropic", "first", "first", "first"]
    assert until(lambda: hedges(gateway, "limited")) == 3


def test_a_client_that_leaves_ends_both_and_both_are_paid(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.slow.url, mocks.slow.url)
    body = message(model=SONNET)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/messages", json=body, timeout=2.0,
                   headers=bearer() | {"x-request-id": "left"})  # fmt: skip
    gone = httpx.Response(200, headers={"x-request-id": "left"})
    both = attempts(gateway, gone, 2)
    assert {(one.outcome, one.source) for one in both} == {("cut", "estimated")}
    assert settled(gateway) == sum(one.cost for one in both) > 0
    assert until(lambda: hedges(gateway, "cut")) == 1


def test_of_a_killed_worker_both_are_charged_in_full(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.slow.url, mocks.slow.url)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx.post, f"{gateway.url}/v1/messages", json=message(model=SONNET), timeout=30,
            headers=bearer() | {"x-request-id": "killed"},
        )  # fmt: skip
        until(lambda: _held(gateway) == 2)
        [worker] = workers(gateway, 1)
        worker.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            asked.result()
    both = attempts(gateway, httpx.Response(200, headers={"x-request-id": "killed"}), 2)
    assert {one.outcome for one in both} == {"unsettled"}
    assert sorted(one.hedge for one in both) == [False, True]
    assert all(one.cost == one.reserved > 0 for one in both)
    assert settled(gateway) == sum(one.cost for one in both)


def _held(gateway: RunningGateway) -> int:
    """How many reservations there are."""
    page = httpx.get(f"{gateway.url}/metrics").text
    return int(page.partition("\nbifrost_reservations ")[2].partition("\n")[0])


def test_no_budget_is_overspent_by_fifty_at_once(start: Start, tmp_path: Path) -> None:
    """All they ask for costs more than there is, at either target, and much is held twice."""
    limit = Decimal("0.18")  # fifty first attempts fit, and some of their hedges
    quick = RunningMock(tmp_path, "--output-tokens", "200")
    (tmp_path / "late").mkdir()
    late = RunningMock(tmp_path / "late", "--output-tokens", "200", "--latency-ms", "1500")
    try:
        gateway = start(late.url, quick.url, budgets=budget(str(limit)))
        with ThreadPoolExecutor(50) as pool:
            served = list(pool.map(lambda _: ask(gateway, max_tokens=200), range(200)))
        statuses = {one.status_code for one in served}
        assert 200 in statuses and len(statuses) == 2, statuses  # the others: the budget is spent
        spent = settled(gateway)
        assert limit * 10**9 / 2 < spent <= limit * 10**9
        assert until(lambda: hedges(gateway, "won")) > 0
        verified(gateway)
    finally:
        quick.stop()
        late.stop()
