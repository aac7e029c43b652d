"""Failover over real HTTP: what the client sees and what is billed when a target is dead, slow, at
its limit, failing or cut off in the middle."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.failover import asked_ns
from bifrost.metering.usage import output_estimate
from tests.commands import until
from tests.loopback import full_backlog
from tests.running import RunningGateway, RunningMock, bearer, budget, configuration, message
from tests.servers import free_ports

INPUT, OUTPUT = 1_000, 64
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"
SERVED = INPUT * 1_000 + OUTPUT * 5_000  # nano-USD at Haiku's prices


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
    """Starts a gateway whose Sonnet is at ``first``, with the good mock's Haiku behind it."""
    running: list[RunningGateway] = []

    def begin(first: str, *options: str, routing: dict[str, Any] | None = None,
              network: dict[str, Any] | None = None, keys: int = 1, second: str = "",
              more: dict[str, Any] | None = None, **key: Any) -> RunningGateway:  # fmt: skip
        config = configuration(second or mocks.good.url, **key) | (more or {})
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
    return int(gateway.settled() * 10**9)


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
    patient = bearer() | {"x-mock-retry-after": "120"}

    def attempted() -> str:
        answer = httpx.post(
            f"{gateway.url}/v1/messages", json=message(model=SONNET), headers=patient, timeout=30
        )
        assert answer.status_code == 200
        return answer.headers["x-bf-attempts"]

    assert [attempted() for _ in range(4)] == ["2", "1", "1", "1"]
    assert len(mocks.limited.requests(1000)) == seen + 1
    page = until(lambda: _resting(gateway))
    assert 'provider="first",key="k0",model="claude-sonnet-4-5"} 1' in page


def test_then_it_is_tried_again(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.limited.url)  # it says: in a second
    seen = len(mocks.limited.requests(1000))
    assert ask(gateway).headers["x-bf-attempts"] == "2"
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


def test_an_answer_of_the_second_target_that_breaks_off_is_billed_like_any(
    start: Start, mocks: Mocks
) -> None:
    gateway = start(mocks.limited.url, second=mocks.cutting.url)
    answer = ask(gateway, stream=True)
    assert answer.headers["x-bf-attempts"] == "2"
    assert "event: error" in answer.text
    first, second = attempts(gateway, answer, 2)
    assert (first.cost, second.outcome, second.source) == (0, "broken", "partial")
    assert second.cost == INPUT * 1_000 + (second.out_text + second.out_think) * 5_000
    assert settled(gateway) == second.cost


def test_an_error_that_does_not_end_is_not_waited_for(start: Start) -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 999\r\n\r\n{"
    held: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed below
            while True:
                held.append(listener.accept()[0])
                held[-1].recv(65536)
                held[-1].sendall(head)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            gateway = start(f"http://127.0.0.1:{listener.getsockname()[1]}")
            answer = ask(gateway)
            served_by_the_second(answer, stream=False)
            first, _ = attempts(gateway, answer, 2)
            assert (first.status, first.outcome, first.cost) == (503, "error", 0)
            assert settled(gateway) == SERVED
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in held:
                one.close()


def test_one_attempt_means_no_failover(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.limited.url, routing={"max_attempts": 1})
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


def test_of_several_errors_the_client_gets_the_one_that_says_when_to_come_back(
    start: Start, mocks: Mocks
) -> None:
    for first, second in ((mocks.overloaded, mocks.limited), (mocks.limited, mocks.overloaded)):
        gateway = start(first.url, second=second.url)
        answer = ask(gateway)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.headers["x-bf-attempts"] == "2"
        one, two = attempts(gateway, answer, 2)
        assert {one.status, two.status} == {429, 529}
        assert settled(gateway) == 0
        gateway.stop()


def test_where_nobody_answers_the_client_may_ask_again(start: Start, dead: str) -> None:
    gateway = start(dead, second=dead, network={"max_retries": 0})
    answer = ask(gateway)
    assert (answer.status_code, answer.headers["x-bf-error"]) == (529, "upstream_unavailable")
    assert answer.headers["x-should-retry"] == "true"
    assert len(attempts(gateway, answer, 2)) == 2
    assert settled(gateway) == 0


def test_what_never_left_is_not_billed(start: Start) -> None:
    listener, callers = full_backlog()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = start(url, routing={"first_byte_timeout_s": 0.3})
        answer = ask(gateway, stream=True)
        served_by_the_second(answer, stream=True)
        first, _ = attempts(gateway, answer, 2)
        assert (first.outcome, first.cost) == ("error", 0)
        assert settled(gateway) == SERVED
    finally:
        for one in (listener, *callers):
            one.close()


def test_nobody_else_is_asked_for_a_client_that_left(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.slow.url)
    before = len(mocks.good.requests(1000))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.url}/v1/messages", json=message(model=SONNET), timeout=0.5,
            headers=bearer() | {"x-request-id": "left"},
        )  # fmt: skip
    gone = httpx.Response(200, headers={"x-request-id": "left"})
    [only] = attempts(gateway, gone, 1)
    assert (only.outcome, only.source) == ("cut", "estimated")
    assert settled(gateway) == only.cost > 0
    assert len(mocks.good.requests(1000)) == before


def test_what_one_host_cannot_be_told_goes_to_another(mocks: Mocks, tmp_path: Path) -> None:
    config = configuration(mocks.good.url)
    config["providers"]["openai"] = {
        "type": "openai", "keys": [{"name": "main", "value": "sk"}],
        "network": {"base_url": f"{mocks.good.url}/v1"},
    }  # fmt: skip
    config["models"] = {
        SONNET: [
            {"provider": "openai", "model": "gpt-5.1"},
            {"provider": "anthropic", "model": HAIKU, "standby": True},
        ]
    }
    gateway = RunningGateway(tmp_path, config)
    try:
        search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}
        answer = ask(gateway, tools=[search])
        served_by_the_second(answer, stream=False)
        assert ask(gateway).headers["x-bf-provider"] == "openai"  # it does not rest for that
    finally:
        gateway.stop()


def test_every_attempt_is_intended_in_the_strict_mode(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.overloaded.url, more={"audit_logs": {"mode": "strict"}})
    answer = ask(gateway)
    served_by_the_second(answer, stream=False)
    attempts(gateway, answer, 2)
    reader = Reader(gateway.data_dir)
    told = [events.decode(raw) for _, raw in reader.read(reader.oldest(), 1 << 20)]
    intents = [
        (one.provider, one.model, one.reserved) for one in told if isinstance(one, events.Intent)
    ]
    assert [one[:2] for one in intents] == [("first", SONNET), ("anthropic", HAIKU)]
    assert intents[0][2] == 3 * intents[1][2]


def test_openai_clients_fail_over_too(start: Start, mocks: Mocks) -> None:
    gateway = start(mocks.limited.url)
    body = {"model": SONNET, "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(
        f"{gateway.url}/openai/v1/chat/completions", json=body, headers=bearer(), timeout=30
    )
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-bf-model"], answer.headers["x-bf-attempts"]) == (HAIKU, "2")
    assert answer.json()["usage"]["completion_tokens"] == OUTPUT
    assert settled(gateway) == SERVED


def test_the_books_are_right_when_many_fail(start: Start, mocks: Mocks, tmp_path: Path) -> None:
    """Errors, cuts and good answers at once, on a budget that is tight for their worst cases."""
    shaky = RunningMock(
        tmp_path, "--fail", "503", "--fail-rate", "0.4", "--input-tokens", str(INPUT),
        "--output-tokens", str(OUTPUT),
    )  # fmt: skip
    try:
        gateway = start(
            shaky.url, "--workers", "2", routing={"cool_down_s": 0.05, "max_cool_down_s": 0.1},
            budgets=budget("0.6"),
        )  # fmt: skip

        def one(number: int) -> httpx.Response:
            return ask(gateway, stream=bool(number % 2), max_tokens=2_000)

        with ThreadPoolExecutor(16) as crowd:
            answers = list(crowd.map(one, range(96)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-bf-attempts"] for answer in answers} == {"1", "2"}
        total = settled(gateway)
        bills = {**shaky.bills(), **mocks.good.bills()}
        first = sum(answer.headers["x-bf-provider"] == "first" for answer in answers)
        assert total == SERVED * (3 * first + len(answers) - first)
        assert total <= 600_000_000
        assert all(answer.headers["x-request-id"] in bills for answer in answers)
    finally:
        shaky.stop()


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7_000_000_000),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1_500_000_000),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30_000_000_000),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "9" * 40}, 999_999_999_999 * 10**9),
    ],
)
def test_what_a_provider_asks_for(headers: dict[str, str], asked: int | None) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert asked_ns(lines, 1_767_225_600.0) == asked
