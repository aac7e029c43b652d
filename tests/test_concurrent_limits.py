"""Shared limits under concurrency: several workers, a thousand at once, pushed rate limits."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import threading
import time
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.governance.entities import Kind, id_number
from bifrost.identify import budget_window
from tests.commands import until
from tests.running import RunningGateway, RunningMock, bearer, budget, configuration, message

KINDS: tuple[Kind, ...] = ("customer", "team", "user", "virtual_key")
USAGE = {"input_tokens": 100, "output_tokens": 100}
COST = 100 * 3_000 + 100 * 15_000
AT_ONCE = 1_000
KEYS = {name: "sk-bf-" + name.ljust(40, "0") for name in ("k1", "k2", "k3", "k4")}
ABOVE = {
    "k1": ("ann", "core", "acme"),
    "k2": ("ann", "core", "acme"),
    "k3": ("bob", "core", "acme"),
    "k4": ("eve", "infra", "acme"),
}
LIMITS = {  # USD; 1,000 requests cost $1.80, and something is too small at every level
    "acme": "1.2", "core": "0.9", "infra": "0.5", "ann": "0.45", "bob": "0.6", "eve": "0.4",
    "k1": "0.15", "k2": "2", "k3": "2", "k4": "0.35",
}  # fmt: skip


def governed(upstream: str) -> dict[str, Any]:
    """Four keys of three users in two teams; a budget everywhere."""

    def one(name: str, **more: str) -> dict[str, Any]:
        return {"name": name, "budgets": budget(LIMITS[name]), **more}

    config = configuration(upstream)
    config["governance"] = {
        "customers": [one("acme")],
        "teams": [one("core", customer="acme"), one("infra", customer="acme")],
        "users": [one("ann", team="core"), one("bob", team="core"), one("eve", team="infra")],
        "virtual_keys": [one(k, user=ABOVE[k][0], value=secret) for k, secret in KEYS.items()],
    }
    return config


class Watcher(threading.Thread):
    """Reads all budgets as fast as it may and keeps the worst moment of each, in nano-USD."""

    def __init__(self, gateway: RunningGateway) -> None:
        super().__init__(daemon=True)
        directory, self.gate = gateway.stores()
        now = time.time_ns()
        budgets = {
            entity.name: entity.budgets[0] for kind in KINDS for entity in directory.all(kind)
        }
        self.limits = {name: one.max_limit for name, one in budgets.items()}
        self.accounts = [
            (id_number(one.id), budget_window(one, now)[0]) for one in budgets.values()
        ]
        self.worst = dict.fromkeys(budgets, 0)
        self.looks = 0
        self.over = threading.Event()

    def read(self) -> dict[str, tuple[int, int]]:
        """(settled, reserved) by name."""
        cells = self.gate.counters(self.accounts)
        return {name: cell[:2] for name, cell in zip(self.worst, cells, strict=True)}

    def run(self) -> None:
        while not self.over.wait(0.001):
            for name, (settled, reserved) in self.read().items():
                self.worst[name] = max(self.worst[name], settled + reserved)
            self.looks += 1


async def _ask(host: str, port: int, key: str, slow_ms: int) -> int:
    """One request on a connection of its own; the answer's status once it is whole."""
    body = json.dumps(message(max_tokens=1000)).encode()
    steer = {"x-mock-usage": json.dumps(USAGE), "x-mock-latency-ms": str(slow_ms)}
    headers = bearer(KEYS[key]) | steer | {"connection": "close", "content-length": str(len(body))}
    lines = [f"POST /v1/messages HTTP/1.1\r\nhost: {host}:{port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = await reader.read()
    finally:
        writer.close()
    return int(answer[9:12])


async def _all_at_once(url: str) -> Counter[tuple[str, int]]:
    place = httpx.URL(url)
    rng = random.Random(1)
    keys = [rng.choice(list(KEYS)) for _ in range(AT_ONCE)]
    statuses = await asyncio.gather(
        *(_ask(place.host, place.port or 80, key, rng.randrange(100, 500)) for key in keys)
    )
    return Counter(zip(keys, statuses, strict=True))


@pytest.mark.parametrize("workers", [2, 4])
def test_a_thousand_at_once_on_budgets_at_every_level(
    mock: RunningMock, tmp_path: Path, workers: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    mock.reset()
    gateway = RunningGateway(tmp_path, governed(mock.url), "--workers", str(workers))
    watcher = Watcher(gateway)
    watcher.start()
    try:
        answers = asyncio.run(_all_at_once(gateway.url))
        until(lambda: not any(held for _, held in watcher.read().values()))
        books = {name: settled for name, (settled, _) in watcher.read().items()}
    finally:
        watcher.over.set()
        watcher.join(10)
        gateway.stop()
    assert {status for _, status in answers} == {200, 402}
    expected = dict.fromkeys(LIMITS, 0)
    for (key, status), count in answers.items():
        for name in (key, *ABOVE[key]) if status == 200 else ():
            expected[name] += count * COST
    assert books == expected
    assert mock.account()["total"]["completed"] * COST == books["acme"]
    assert watcher.looks > 100
    for name, limit in watcher.limits.items():
        assert max(watcher.worst[name], books[name]) <= limit
    assert books["acme"] > watcher.limits["acme"] // 2  # most of the money could be used


WINDOW_S, MOST, PUSHED_S = 10, 100, 25


class Pusher(threading.Thread):
    """Asks about twelve times a second, for as long as it is let."""

    def __init__(self, url: str, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.over = url, over
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        with httpx.Client(base_url=self.url, headers=bearer(), timeout=30) as client:
            while not self.over.wait(0.08):
                self.statuses[client.post("/v1/messages", json=message()).status_code] += 1


def _passed(gateway: RunningGateway) -> list[int]:
    """When each request was let in, as the log says."""
    _, gate = gateway.stores()
    until(lambda: not gate.outbox(0, 1))
    found = [events.decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 100_000)]
    requests = [event for event in found if isinstance(event, events.ModelAccess)]
    return sorted(event.at for event in requests if event.outcome == "ok")


def test_a_pushed_limit_is_kept_in_any_window_and_used_up(
    mock: RunningMock, tmp_path: Path
) -> None:
    config = configuration(mock.url)
    limit = {"metric": "requests", "max_limit": MOST, "window": f"{WINDOW_S}s"}
    config["governance"]["teams"][0]["rate_limits"] = [limit]
    gateway = RunningGateway(tmp_path, config, "--workers", "2")
    over = threading.Event()
    pushers = [Pusher(gateway.url, over) for _ in range(3)]
    try:
        for pusher in pushers:
            pusher.start()
        time.sleep(PUSHED_S)
        over.set()
        for pusher in pushers:
            pusher.join(30)
        assert {status for pusher in pushers for status in pusher.statuses} == {200, 429}
        passed, window = _passed(gateway), WINDOW_S * 10**9
        for number, at in enumerate(passed):
            assert bisect_left(passed, at + window) - number <= MOST
        assert bisect_left(passed, passed[0] + 2 * window) >= 2 * MOST * 95 // 100
        _retry_after_is_true(gateway)
    finally:
        over.set()
        gateway.stop()


def _retry_after_is_true(gateway: RunningGateway) -> None:
    """Whoever is alone and waits exactly as long as told gets in."""
    with httpx.Client(base_url=gateway.url, headers=bearer(), timeout=30) as client:
        for _ in range(3):
            while (answer := client.post("/v1/messages", json=message())).status_code == 200:
                pass
            assert answer.status_code == 429
            time.sleep(int(answer.headers["retry-after"]))
            assert client.post("/v1/messages", json=message()).status_code == 200
