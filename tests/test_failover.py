"""Failover over real HTTP: what the client sees and what is billed when a target is dead, slow, at
its limit, failing or cut off in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.metering.usage import output_estimate
from tests.commands import until
from tests.running import RunningGateway, RunningMock, bearer, budget, configuration, message
from tests.servers import free_ports

INPUT, OUTPUT = 1_000, 64
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"
SERVED = INPUT * 1_000 + OUTPUT * 5_000  # nano-USD at Haiku's prices
PAYERS = ("keys:alice-dev", "users:alice", "teams:core", "customers:acme")


class Mocks(NamedTuple):
    """Providers by what they do."""

    good: RunningMock
    limited: RunningMock
    overloaded: RunningMock
    slow: RunningMock
    cutting: RunningMock


@pytest.fixture(scope="module")
def mocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mocks]:
    counts = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT))
    faults = [(), ("--fail", "429"), ("--fail", "529"), ("--latency-ms", "60000"),
              ("--cut-after", "5")]  # fmt: skip
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
def start(mocks: Mocks, tmp_path: Path) -> Iterator[Start]:
    """Starts a gateway whose Sonnet is served by ``first``, with the good mock's Haiku behind it."""
    running: list[RunningGateway] = []

    def begin(first: str, *options: str, routing: dict[str, Any] | None = None,
              network: dict[str, Any] | None = None, keys: int = 1, **key: Any,
              ) -> RunningGateway:  # fmt: skip
        config = configuration(mocks.good.url, **key)
        config["providers"]["first"] = {
            "type": "anthropic",
            "keys": [{"name": f"k{n}", "value": f"sk-ant-{n}"} for n in range(keys)],
            "network": {"base_url": first, **(network or {})},
        }
        config["models"] = {
            SONNET: [
                {"provider": "first"},
                {"provider": "anthropic", "model": HAIKU, "standby": True},
            ]
        }
        config["routing"] = routing or {}
        running.append(RunningGateway(tmp_path / "gateway", config, *options))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def dead() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def ask(gateway: RunningGateway, **changes: Any) -> httpx.Response:
    """One request, its answer read to the end."""
    body = message(model=SONNET, **changes)
    return httpx.post(f"{gateway.url}/v1/messages", json=body, headers=bearer(), timeout=30)


def attempts(gateway: RunningGateway, answer: httpx.Response, many: int) -> list[Any]:
    """The events of a request, in their order, once there are so many."""

    def found() -> list[Any]:
        reader = Reader(gateway.data_dir)
        told = [events.decode(raw) for _, raw in reader.read(reader.oldest(), 1 << 20)]
        return [
            event
            for event in told
            if isinstance(event, events.ModelAccess)
            and event.request == answer.headers["x-request-id"]
        ]

    until(lambda: len(found()) >= many)
    return found()


def settled(gateway: RunningGateway) -> int:
    """nano-USD spent at every level alike, once nothing is reserved."""
    until(lambda: {one[1] for one in gateway.spent().values()} == {"0"})
    spent = {Decimal(gateway.spent()[who][0]) for who in PAYERS}
    assert len(spent) == 1
    return int(spent.pop() * 10**9)


def served_by_the_second(answer: httpx.Response, *, stream: bool) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-provider"] == "anthropic"
    assert answer.headers["x-bf-model"] == HAIKU
    assert answer.headers["x-bf-attempts"] == "2"
    if stream:
        assert "event: message_stop" in answer.text
    else:
        assert Decimal(answer.headers["x-bf-cost-usd"]) * 10**9 == SERVED
        assert answer.json()["usage"]["output_tokens"] == OUTPUT


streamed = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


@streamed
def test_a_dead_target_costs_nothing_and_the_next_one_serves(
    start: Start, dead: str, stream: bool
) -> None:
    gateway = start(dead, network={"max_retries": 0})
    answer = ask(gateway, stream=stream)
    served_by_the_second(answer, stream=stream)
    first, second = attempts(gateway, answer, 2)
    assert (first.provider, first.model, first.outcome, first.cost) == ("first", SONNET, "error", 0)
    assert (first.attempt, second.attempt) == (0, 2)
    assert (second.provider, second.model, second.outcome) == ("anthropic", HAIKU, "ok")
    assert second.cost == SERVED == settled(gateway)
    assert first.reserved == 3 * second.reserved  # each its own worst case, at its own price


@streamed
def test_a_slow_target_is_billed_by_size_for_it_may_have_worked(
    start: Start, mocks: Mocks, stream: bool
) -> None:
    gateway = start(mocks.slow.url, network={"timeout_s": 0.3})
    answer = ask(gateway, stream=stream)
    served_by_the_second(answer, stream=stream)
    first, second = attempts(gateway, answer, 2)
    assert (first.outcome, first.source) == ("broken", "estimated")
    assert first.in_fresh == output_estimate(len(answer.request.content))
    assert first.cost == first.in_fresh * 3_000
    assert first.cost + second.cost == settled(gateway)
    assert second.cost == SERVED


def test_a_stream_that_does_not_begin_is_given_up_where_there_is_another(
    start: Start, mocks: Mocks
) -> None:
    gateway = start(mocks.slow.url, routing={"first_byte_timeout_s": 0.3})
    answer = ask(gateway, stream=True)
    served_by_the_second(answer, stream=True)
    first, second = attempts(gateway, answer, 2)
    assert (first.outcome, first.source) == ("broken", "estimated")
    assert first.cost + second.cost == settled(gateway)


@pytest.mark.parametrize("fault", ["limited", "overloaded"])
def test_an_error_status_costs_nothing_and_the_next_one_serves(
    start: Start, mocks: Mocks, fault: str
) -> None:
    gateway = start(getattr(mocks, fault).url)
    answer = ask(gateway)
    served_by_the_second(answer, stream=False)
    first, _ = attempts(gateway, answer, 2)
    assert (first.outcome, first.cost) == ("error", 0)
    assert first.status == (429 if fault == "limited" else 529)
    assert settled(gateway) == SERVED


def test_a_target_at_its_limit_is_left_alone_as_long_as_it_asks(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.limited.url)
    seen = len(mocks.limited.requests(1000))
    begun = ask(gateway)
    assert begun.headers["x-bf-attempts"] == "2"
    again = [ask(gateway).headers["x-bf-attempts"] for _ in range(3)]
    assert again == ["1"] * 3
    assert len(mocks.limited.requests(1000)) == seen + 1
    page = until(lambda: _resting(gateway))
    assert 'provider="first",key="k0",model="claude-sonnet-4-5"} 1' in page
    # the mock says: in a second; then one request tries it
    until(lambda: ask(gateway).headers["x-bf-attempts"] == "2")
    assert len(mocks.limited.requests(1000)) == seen + 2


def _resting(gateway: RunningGateway) -> str | None:
    page = httpx.get(f"{gateway.url}/metrics").text
    assert 'attempts_failed_total{provider="first",model="claude-sonnet-4-5",fault="limited"}' in (
        page
    )
    return page if "bifrost_targets_resting{" in page else None


def test_a_stream_that_was_cut_is_not_begun_again(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.cutting.url)
    served = len(mocks.good.requests(1000))
    answer = ask(gateway, stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-bf-provider"] == "first"
    assert answer.headers["x-bf-attempts"] == "1"
    assert "event: error" in answer.text and "message_stop" not in answer.text
    [only] = attempts(gateway, answer, 1)
    assert (only.outcome, only.source, only.in_fresh) == ("broken", "partial", INPUT)
    assert only.cost == INPUT * 3_000 + (only.out_text + only.out_think) * 15_000
    assert settled(gateway) == only.cost
    assert len(mocks.good.requests(1000)) == served


def test_where_all_fail_the_client_gets_the_error_that_helps_most(
    start: Start, mocks: Mocks, dead: str
) -> None:
    config_first = mocks.limited.url
    gateway = start(config_first, routing={"max_attempts": 1})
    answer = ask(gateway)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-bf-provider"] == "first"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert settled(gateway) == 0


def test_the_keys_of_a_provider_are_tried_before_another_provider(
    start: Start, mocks: Mocks
) -> None:
    gateway = start(mocks.limited.url, keys=2)
    seen = len(mocks.limited.requests(1000))
    answer = ask(gateway)
    assert answer.status_code == 200
    assert answer.headers["x-bf-attempts"] == "3"
    *tried, last = attempts(gateway, answer, 3)
    assert {one.provider_key for one in tried} == {"k0", "k1"}
    assert (last.provider, last.attempt) == ("anthropic", 3)
    values = [dict(map(tuple, one["headers"]))["x-api-key"]
              for one in mocks.limited.requests(1000)[seen:]]  # fmt: skip
    assert sorted(values) == ["sk-ant-0", "sk-ant-1"]


def test_a_target_the_budget_cannot_hold_is_passed_over(start: Start, mocks: Mocks) -> None:
    """Haiku may not cost a cent here, so Sonnet's own answer is what the client gets."""
    gateway = start(
        mocks.overloaded.url,
        budgets=[*budget("75"), {**budget("0.000001")[0], "provider": "anthropic",
                                 "tight": "refuse"}],
    )  # fmt: skip
    answer = ask(gateway)
    assert answer.status_code == 529
    assert answer.headers["x-bf-provider"] == "first"
    assert until(lambda: {one[1] for one in gateway.spent().values()} == {"0"})


def test_nothing_is_overspent_by_attempts(start: Start, mocks: Mocks) -> None:
    """The estimate for a silent target and the next one's worst case are each held in full."""
    gateway = start(mocks.slow.url, network={"timeout_s": 0.3}, budgets=budget("0.02"))
    answer = ask(gateway, max_tokens=1_000)
    assert answer.status_code == 200
    spent, reserved = gateway.spent()["keys:alice-dev"]
    assert reserved == "0" and Decimal(spent) <= Decimal("0.02")
