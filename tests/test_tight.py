"""Tight budgets and limits over real HTTP: wait, then do with less, then be refused, truthfully."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bifrost.governance.entities import Budget, RateLimit, VirtualKey, id_number, new_id
from bifrost.identify import budget_window
from tests.running import RunningGateway, RunningMock, bearer, configuration, message

USAGE = {"input_tokens": 375, "output_tokens": 800}  # $0.013125 at Sonnet 4.5's prices
COST = 375 * 3_000 + 800 * 15_000


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Any:
    running = RunningGateway(tmp_path / "gateway", configuration(mock.url), "--workers", "2")
    yield running
    running.stop()


def nano(usd: str) -> int:
    """USD as int nano-USD."""
    return int(Decimal(usd) * 10**9)


def books(gateway: RunningGateway) -> tuple[int, int]:
    """(settled, reserved) nano-USD of the key's first budget."""
    directory, gate = gateway.stores()
    budget = directory.get("virtual_key", "alice-dev").budgets[0]
    start, _ = budget_window(budget, time.time_ns())
    settled, reserved, *_ = gate.counters([(id_number(budget.id), start)])[0]
    return settled, reserved


def change(gateway: RunningGateway, limit: str | None = None, **fields: Any) -> None:
    """Gives the key another budget or other fields, in the stores the workers read."""
    directory, _ = gateway.stores()
    if limit is not None:
        budget = Budget(
            id=new_id("budget"), max_limit=nano(limit), reset_duration="1M",
            created_at=time.time_ns(), **fields,
        )  # fmt: skip
        fields = {"budgets": (budget,)}
    directory.update("virtual_key", "alice-dev", **fields)


def rate(metric: Any, most: int, window: str = "1m", **more: Any) -> RateLimit:
    """One rate limit."""
    return RateLimit(id=new_id("rate_limit"), metric=metric, max_limit=most, window=window, **more)


async def post(client: httpx.AsyncClient, latency_ms: int, **body: Any) -> httpx.Response:
    headers = bearer() | {
        "x-mock-usage": json.dumps(USAGE),
        "x-mock-latency-ms": str(latency_ms),
    }
    return await client.post("/v1/messages", json=message(**body), headers=headers)


def test_worst_cases_far_above_the_budget_are_all_answered(gateway: RunningGateway) -> None:
    """Claude Code's usual 32,000: LiteLLM refuses 27 of these 32 at $0.065 of real spending."""
    change(gateway, "2")

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            slots = asyncio.Semaphore(16)

            async def one() -> httpx.Response:
                async with slots:
                    return await post(client, 100, max_tokens=32_000)

            return list(await asyncio.gather(*(one() for _ in range(32))))

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200] * 32
    assert books(gateway) == (32 * COST, 0)


def test_the_last_dollar_is_spent_and_not_a_cent_more(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    change(gateway, "0.10")
    limits, spent = [], 0
    with httpx.Client(base_url=gateway.url, headers=bearer()) as client:
        while True:
            body = json.dumps(message(max_tokens=32_000)).encode()
            usage = {"input_tokens": 100, "output_tokens": 1_000}
            answer = client.post(
                "/v1/messages", content=body, headers={"x-mock-usage": json.dumps(usage)}
            )
            if answer.status_code != 200:
                break
            limits.append(int(answer.headers["x-bf-output-limit"]))
            lowered = body.replace(b"32000", b"%d" % limits[-1])  # no other byte is touched
            assert mock.requests()[-1]["body_sha256"] == hashlib.sha256(lowered).hexdigest()
            spent += 100 * 3_000 + 1_000 * 15_000
    assert answer.status_code == 402
    assert "budget of virtual key 'alice-dev'" in answer.json()["error"]["message"]
    assert answer.headers["x-bf-budget-remaining-usd"] != "0.00"
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] >= 1_024
    assert books(gateway) == (spent, 0)
    assert nano("0.10") - spent < 1_024 * 15_000 + 10_000_000  # less than the least request
    rows = gateway.command("usage", "--by", "key")["rows"]
    assert sum(row["requests"] for row in rows) == len(limits)


def test_a_budget_says_which_steps_it_takes(gateway: RunningGateway) -> None:
    change(gateway, "0.30", tight="refuse")

    async def three(tight: str) -> list[int]:
        change(gateway, "0.30", tight=tight)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            answers = await asyncio.gather(*(post(client, 300, max_tokens=10_000) for _ in "123"))
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(three("refuse")) == [200, 402, 402]
    assert asyncio.run(three("clamp")) == [200, 200, 402]
    assert asyncio.run(three("wait")) == [200, 200, 200]


def test_who_leaves_while_waiting_leaves_no_trace(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    change(gateway, "0.20", tight="wait")

    async def run() -> int:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            first = asyncio.create_task(post(client, 1_000, max_tokens=10_000))
            await asyncio.sleep(0.3)
            with pytest.raises(httpx.ReadTimeout):
                headers = bearer() | {"x-mock-usage": json.dumps(USAGE)}
                await client.post(
                    "/v1/messages", json=message(max_tokens=10_000), headers=headers, timeout=0.3
                )
            await first
            return (await post(client, 0, max_tokens=10_000)).status_code

    before = mock.account()["requests"] if "requests" in mock.account() else None
    assert asyncio.run(run()) == 200
    assert books(gateway) == (2 * COST, 0)
    assert before is None or mock.account()["requests"] == before + 2


def test_a_request_limit_says_truly_when_to_come_back(gateway: RunningGateway) -> None:
    change(gateway, rate_limits=(rate("requests", 3, "2s"), rate("requests", 1, model="*opus*")))
    with httpx.Client(base_url=gateway.url, headers=bearer()) as client:
        assert [client.post("/v1/messages", json=message()).status_code for _ in "1234"] == [
            200, 200, 200, 429,
        ]  # fmt: skip
        answer = client.post("/v1/messages", json=message())
        assert answer.headers["x-bf-error"] == "request_limited"
        assert answer.headers["x-should-retry"] == "true"
        sentence = answer.json()["error"]["message"]
        assert "request limit of virtual key 'alice-dev'" in sentence
        assert "3 requests per 2s" in sentence
        time.sleep(int(answer.headers["retry-after"]))
        assert client.post("/v1/messages", json=message()).status_code == 200
        time.sleep(2)  # one place was promised; on a slow machine the next is free only later
        opus = message(model="claude-opus-4-5")
        assert client.post("/v1/messages", json=opus).status_code == 200
        limited = client.post("/v1/messages", json=opus)
        assert limited.status_code == 429
        assert 55 <= int(limited.headers["retry-after"]) <= 61


def test_token_and_concurrency_limits(gateway: RunningGateway) -> None:
    change(gateway, rate_limits=(rate("output_tokens", 2_000), rate("concurrency", 2)))
    with httpx.Client(base_url=gateway.url, headers=bearer()) as client:
        never = client.post("/v1/messages", json=message(max_tokens=3_000))
        assert (never.status_code, never.headers["x-bf-error"]) == (429, "token_limited")
        assert never.headers["x-should-retry"] == "false"
        assert "lower max_tokens" in never.json()["error"]["message"]
        usage = {"x-mock-usage": json.dumps({"input_tokens": 1, "output_tokens": 900})}
        for _ in "12":  # 1,500 are reserved, 900 remain
            asked = client.post("/v1/messages", json=message(max_tokens=1_100), headers=usage)
            assert asked.status_code == 200
        limited = client.post("/v1/messages", json=message(max_tokens=300), headers=usage)
        assert (limited.status_code, limited.headers["x-bf-error"]) == (429, "token_limited")

    change(gateway, rate_limits=(rate("concurrency", 2),))

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            return list(await asyncio.gather(*(post(client, 300) for _ in "123")))

    answers = asyncio.run(run())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    told = next(answer for answer in answers if answer.status_code == 429)
    assert (told.headers["x-bf-error"], told.headers["retry-after"]) == ("concurrency_limited", "1")


def test_a_providers_own_budget_counts_only_what_goes_there(gateway: RunningGateway) -> None:
    directory, _ = gateway.stores()
    key = directory.get("virtual_key", "alice-dev")
    assert isinstance(key, VirtualKey)
    own = Budget(
        id=new_id("budget"), max_limit=1, reset_duration="1M", created_at=time.time_ns(),
        provider="bedrock*", tight="refuse",
    )  # fmt: skip
    change(gateway, budgets=(*key.budgets, own))
    with httpx.Client(base_url=gateway.url, headers=bearer()) as client:
        assert client.post("/v1/messages", json=message()).status_code == 200
        change(gateway, budgets=(*key.budgets, msgspec.structs.replace(own, provider="anthropic")))
        assert client.post("/v1/messages", json=message()).status_code == 402
