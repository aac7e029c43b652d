"""kill -9 of any process, a hundred times: the books never say less than the provider billed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from tests.crashes import KEYS, MOST, VICTIMS, Lane, Provider, priced
from tests.evidence import examined
from tests.running import RunningMock, bearer, message

LANES, ROUNDS, REQUESTS = 3, 34, 14
SLACK_NS = 1_000_000_000  # from the last byte to the client until a settlement, at most
FOUND_S = 5.0


def _round(lane: Lane, number: int) -> str:
    """One death, and the books after it."""
    victim, killed = lane.crash(REQUESTS)
    lane.rest(killed)
    books = lane.books()
    told = f"round {number}, killed: {victim}"
    assert {reserved for _, reserved in books.values()} == {0}, told
    assert lane.places() == 0, told
    settled = {name: spent for name, (spent, _) in books.items()}
    assert settled == lane.expected(charged=True), told
    assert settled == lane.in_log(), told
    billed = lane.expected(charged=False)
    assert all(settled[name] >= cost for name, cost in billed.items()), told
    assert settled["tight"] <= lane.tight().max_limit, told
    for request, event in lane.unsettled.items():
        assert event.cost == event.reserved >= priced(200, MOST)
        assert lane.asked[request].status in (0, 200)
    verdict = examined(lane.gateway.data_dir / "audit")
    assert verdict.intact, f"{told}: {verdict.findings}"
    return victim


def _only_who_was_under_way(lane: Lane, before: set[int], began: int) -> None:
    """Only requests that were not answered when somebody was killed may be charged in full."""
    for number in lane.unsettled.keys() - before:
        assert lane.asked[number].ended > began - SLACK_NS


def _rounds(lane: Lane) -> None:
    for number in range(ROUNDS):
        before, began = set(lane.unsettled), time.time_ns()
        victim = _round(lane, number)
        _only_who_was_under_way(lane, before, began)
        if victim == "steward":  # it serves nobody: nothing is lost with it
            assert set(lane.unsettled) == before


def _nothing_is_stuck(lane: Lane) -> None:
    """Every key but the poor one is served as on the first day."""
    for key, secret in KEYS.items():
        number = lane.provider.number()
        usage = json.dumps({"input_tokens": 200, "output_tokens": number})
        answer = httpx.post(
            f"{lane.gateway.url}/v1/messages",
            json=message(max_tokens=MOST),
            headers=bearer(secret) | {"x-request-id": f"n-{number}", "x-mock-usage": usage},
        )
        assert answer.status_code in ((200, 402) if key == "tight" else (200,)), answer.text
        lane.note(number, key, answer.status_code)


def _reconciled(lane: Lane) -> None:
    """With the true cost of the lost, the books are the provider's account at every level."""
    path = lane.folder / "corrections.jsonl"
    usd = {n: Decimal(lane.provider.billed(n)) / 10**9 for n in lane.unsettled}
    lines = [{"request": f"n-{n}", "cost": f"{cost:f}"} for n, cost in usd.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = lane.gateway.command("reconcile", "--file", str(path))
    assert len(done["reconciled"]) == len(lane.unsettled)
    lane.rest(time.time_ns())
    settled = {name: spent for name, (spent, _) in lane.books().items()}
    assert settled == lane.expected(charged=False)
    rows = lane.gateway.command("usage", "--by", "key")["rows"]
    assert {row["key"]: Decimal(row["cost_usd"]) * 10**9 for row in rows} == {
        name: settled[name] for name in KEYS
    }


@pytest.mark.timeout(400)
def test_a_hundred_deaths(tmp_path: Path) -> None:
    seed = int(os.environ.get("CRASH_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"CRASH_SEED={seed}")
    mock = RunningMock(tmp_path)
    provider = Provider(mock)
    lanes: list[Lane] = []
    try:
        lanes += [Lane(tmp_path / f"lane{n}", provider, seed + n) for n in range(LANES)]
        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(_rounds, lanes))
        for lane in lanes:
            _nothing_is_stuck(lane)
            lane.rest(time.time_ns())
            _reconciled(lane)
        assert sum(lane.expected(charged=False)["acme"] for lane in lanes) == provider.total()
        killed = {who: sum(lane.killed[who] for lane in lanes) for who in VICTIMS}
        found = sorted(after for lane in lanes for after in lane.found_after)
        print(killed, f"{len(found)} charged in full, found after {found[-1]:.2f} s at the latest")
        assert sum(killed.values()) >= 100 and min(killed.values()) > 0
        assert found[-1] < FOUND_S
        statuses = {asked.status for lane in lanes for asked in lane.asked.values()}
        assert statuses <= {0, 200, 402, 429} and {200, 402} <= statuses
    finally:
        for lane in lanes:
            lane.gateway.stop(signal.SIGTERM)
        mock.stop()
