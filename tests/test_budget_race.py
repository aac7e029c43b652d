"""Many requests at once on one small budget: never a cent over, and every affordable one served."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost._fast import wire
from bifrost.governance.entities import id_number
from bifrost.identify import budget_window
from bifrost.metering.bound import bound
from bifrost.metering.catalogue import Catalogue
from bifrost.money import usd
from tests.running import RunningGateway, RunningMock, bearer, budget, configuration, message

AFFORDED = 37
REQUESTS = 200
USAGE = {"input_tokens": 100, "output_tokens": 100}


class Watcher(threading.Thread):
    """Reads the counters as fast as it can and keeps the worst moment."""

    def __init__(self, gateway: RunningGateway) -> None:
        super().__init__(daemon=True)
        self.gateway = gateway
        self.worst = 0
        self.most_reserved = 0
        self.looks = 0
        self.done = threading.Event()

    def run(self) -> None:
        directory, gate = self.gateway.stores()
        budget = directory.get("virtual_key", "alice-dev").budgets[0]
        account = (id_number(budget.id), budget_window(budget, time.time_ns())[0])
        while not self.done.is_set():
            settled, reserved, *_ = gate.counters([account])[0]
            self.worst = max(self.worst, settled + reserved)
            self.most_reserved = max(self.most_reserved, reserved)
            self.looks += 1
            time.sleep(0.0002)


async def _all_at_once(url: str, body: dict[str, Any], latency_ms: int) -> list[httpx.Response]:
    headers = bearer() | {
        "x-mock-usage": json.dumps(USAGE),
        "x-mock-latency-ms": str(latency_ms),
    }
    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        return list(
            await asyncio.gather(
                *(client.post(f"{url}/v1/messages", json=body, headers=headers)
                  for _ in range(REQUESTS))
            )
        )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_a_budget_for_37_holds_against_200_at_once(
    mock: RunningMock, tmp_path: Path, workers: int, stream: bool
) -> None:
    body = message(max_tokens=1000, stream=stream)
    raw = httpx.Request("POST", "http://x", json=body).content
    price = Catalogue.load().price("anthropic", body["model"])
    assert price is not None
    most = bound(wire.scan(raw), len(raw), price.max_input_tokens)
    reservation = price.bound(input_tokens=most.input_tokens, max_tokens=most.output_tokens)
    limit = AFFORDED * reservation + reservation // 2
    cost = 100 * 3000 + 100 * 15000
    config = configuration(mock.url, budgets=budget(usd(limit)))
    gateway = RunningGateway(tmp_path / "gateway", config, "--workers", str(workers))
    watcher = Watcher(gateway)
    watcher.start()
    try:
        # Long enough that all 200 have asked before the first answer settles.
        answers = asyncio.run(_all_at_once(gateway.url, body, 4000))
        served = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 402]
        assert len(served) + len(refused) == REQUESTS
        assert len(served) >= AFFORDED
        for answer in refused:
            assert answer.json()["error"]["type"] == "billing_error"
            assert "The budget of virtual key 'alice-dev'" in answer.json()["error"]["message"]
        spent, reserved = gateway.spent()["keys:alice-dev"]
        assert (spent, reserved) == (usd(len(served) * cost, places=0), "0")
        # Settled far below the reservation: the money that came free can be spent.
        again = asyncio.run(_all_at_once(gateway.url, body, 0))
        more = [answer for answer in again if answer.status_code == 200]
        assert more, "nothing more was affordable although most of the budget came free"
        total = len(served) + len(more)
        assert gateway.spent()["keys:alice-dev"] == (usd(total * cost, places=0), "0")
        for group in ("users:alice", "teams:core", "customers:acme"):
            assert gateway.spent()[group][0] == usd(total * cost, places=0)
    finally:
        watcher.done.set()
        watcher.join(10)
        gateway.stop()
    assert watcher.looks > 100
    assert watcher.most_reserved == AFFORDED * reservation
    assert watcher.worst <= limit
