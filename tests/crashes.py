"""A gateway under load whose processes are killed, and what the provider knows of each request.

Every request has its own number: as its id, and as the output tokens the mock is told to bill. So
the mock's list of requests and of answers that ended early says of each what it was billed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from bifrost._fast.gate import alive
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.governance.entities import Budget, Kind, VirtualKey, id_number
from bifrost.identify import budget_window
from tests.commands import until
from tests.running import RunningGateway, RunningMock, bearer, budget, message

KINDS: tuple[Kind, ...] = ("customer", "team", "user", "virtual_key")
KEYS = {name: "sk-bf-" + name.ljust(40, "0") for name in ("ann-1", "ann-2", "bob-1", "tight")}
ABOVE = {
    "ann-1": ("ann", "core", "acme"),
    "ann-2": ("ann", "core", "acme"),
    "bob-1": ("bob", "infra", "acme"),
    "tight": ("bob", "infra", "acme"),
}
INPUT, MOST = 200, 16_000  # tokens; numbers stay below the output limit
MANY = 300  # requests that no lane can send between two readings of the mock's list
VICTIMS = ("worker", "worker", "worker", "steward", "steward", "supervisor", "everything")


def priced(input_tokens: int, output_tokens: int) -> int:
    """Nano-USD at the prices of claude-sonnet-4-5."""
    return input_tokens * 3_000 + output_tokens * 15_000


def governed(upstream: str) -> dict[str, Any]:
    """One customer, two teams, two users, four keys: one with little money, one with few places."""
    wide = {"budgets": budget("100000", "1Y")}
    scarce = [{"max_limit": "0.9", "reset_duration": "1Y", "tight": "refuse"}]
    places = [{"metric": "concurrency", "max_limit": 5}, {"metric": "requests", "max_limit": 9000}]
    more: dict[str, dict[str, Any]] = {
        "tight": {"budgets": scarce},
        "ann-2": {**wide, "rate_limits": places},
    }
    return {
        "server": {"log_level": "warning", "shutdown_timeout_s": 20},
        "providers": {
            "anthropic": {
                "type": "anthropic",
                "keys": [{"name": "main", "value": "sk-ant-upstream-secret"}],
                "network": {"base_url": upstream},
            }
        },
        "governance": {
            "customers": [{"name": "acme", **wide}],
            "teams": [{"name": name, "customer": "acme", **wide} for name in ("core", "infra")],
            "users": [
                {"name": name, "team": team, **wide}
                for name, team in (("ann", "core"), ("bob", "infra"))
            ],
            "virtual_keys": [
                {"name": name, "user": ABOVE[name][0], "value": secret, **more.get(name, wide)}
                for name, secret in KEYS.items()
            ],
        },
    }


class Asked(NamedTuple):
    """A request as its client saw it; ``ended`` is wall time in ns."""

    key: str
    status: int
    ended: int


class Provider:
    """The mock's own account of every request, shared by all who ask it."""

    def __init__(self, mock: RunningMock) -> None:
        self.mock = mock
        self._lock = threading.Lock()
        self._number = 0
        self._seen = self._done = 0
        self._arrived: set[int] = set()
        self._cut: dict[int, int] = {}

    def number(self) -> int:
        """A number nobody had before."""
        with self._lock:
            self._number += 1
            assert self._number < MOST
            return self._number

    def read(self) -> None:
        """Takes note of what arrived and of what ended early."""
        with self._lock:
            account = self.mock.account()
            fresh = [one for one in self.mock.requests(MANY) if one["n"] > self._seen]
            assert not fresh or fresh[0]["n"] == self._seen + 1, "requests were missed"
            for one in fresh:
                steered = dict(map(tuple, one["headers"]))["x-mock-usage"]
                self._arrived.add(json.loads(steered)["output_tokens"])
                self._seen = one["n"]
            for cut in account["cut"][-MANY:]:
                served = cut["served"]
                self._cut[cut["full"]["output"]] = priced(served["input"], served["output"])
            self._done = account["total"]["requests"]

    def billed(self, number: int) -> int:
        """Nano-USD the provider bills for a request; call ``read`` before."""
        if number not in self._arrived:
            return 0
        return self._cut.get(number, priced(INPUT, number))

    def settled(self) -> bool:
        """Whether the mock has nothing under way."""
        time.sleep(0.03)
        self.read()
        return self._done == self._seen

    def total(self) -> int:
        """Nano-USD of everything, by the mock's own sums, whole answers and ended ones."""
        total = self.mock.account()["total"]
        return sum(
            priced(total[sums]["input_tokens"], total[sums]["output_tokens"])
            for sums in ("served", "cut_served")
        )


def family_of(supervisor: int) -> dict[str, list[psutil.Process]]:
    """The processes of a gateway with two workers by role; those with an event loop are workers."""

    def found() -> dict[str, list[psutil.Process]] | None:
        roles: dict[str, list[psutil.Process]] = {"worker": [], "steward": []}
        for child in psutil.Process(supervisor).children():
            try:
                entries = [os.readlink(one) for one in Path(f"/proc/{child.pid}/fd").iterdir()]
            except OSError:
                continue
            if not entries:  # dead, and its parent does not know yet
                continue
            roles["worker" if any("eventpoll" in e for e in entries) else "steward"] += [child]
        whole = len(roles["worker"]) == 2 and len(roles["steward"]) == 1
        return roles if whole else None

    roles: dict[str, list[psutil.Process]] = until(found, 60)
    return roles


def _stack(pid: int) -> str:
    """Where a process is: in Python if py-spy is installed, else what the kernel says."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        spy = [str(Path(sys.executable).with_name("py-spy")), "dump", "--pid", str(pid)]
        return subprocess.run(spy, capture_output=True, text=True, timeout=20, check=True).stdout
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/wchan").read_text()
    return "?"


class Lane:
    """One data directory, its gateway restarted after each death of the whole."""

    def __init__(self, folder: Path, provider: Provider, seed: int) -> None:
        self.folder, self.provider = folder, provider
        self.random = random.Random(seed)
        self.asked: dict[int, Asked] = {}
        self.unsettled: dict[int, events.ModelAccess] = {}
        self.killed: dict[str, int] = dict.fromkeys(VICTIMS, 0)
        self.found_after: list[float] = []
        self.logged: dict[str, int] = {}  # nano-USD by id, summed over the log
        self._read = 0
        self.gateway = self._start()

    def _start(self) -> RunningGateway:
        config = governed(self.provider.mock.url)
        return RunningGateway(self.folder, config, "--workers", "2")

    # -- load ------------------------------------------------------------------------------------

    async def _ask(self, client: httpx.AsyncClient, key: str, number: int) -> None:
        rng, status = self.random, 0
        usage = {"input_tokens": INPUT, "output_tokens": number}
        headers = bearer(KEYS[key]) | {
            "x-request-id": f"n-{number}",
            "x-mock-usage": json.dumps(usage),
            "x-mock-latency-ms": str(rng.randrange(150)),
            "x-mock-chunks": str(rng.randrange(1, 9)),
            "x-mock-chunk-interval-ms": str(rng.randrange(25)),
        }
        body = message(max_tokens=MOST, stream=rng.random() < 0.5)
        await asyncio.sleep(rng.random() * 0.25)
        try:
            answer = await client.post("/v1/messages", json=body, headers=headers)
            status = answer.status_code
            if status == 200 and b'"type":"error"' in answer.content.replace(b" ", b""):
                status = 0  # a stream that the gateway ended early
        except httpx.TransportError:
            pass
        self.note(number, key, status)

    def note(self, number: int, key: str, status: int) -> None:
        """Takes note of a request that has ended; status 0 if it had no whole answer."""
        self.asked[number] = Asked(key, status, time.time_ns())

    async def _load(self, count: int, kill: Any) -> None:
        limits = httpx.Limits(max_connections=count)
        base = self.gateway.url
        async with httpx.AsyncClient(base_url=base, timeout=30, limits=limits) as client:
            names = list(KEYS)
            requests = [
                self._ask(client, self.random.choice(names), self.provider.number())
                for _ in range(count)
            ]
            await asyncio.gather(*requests, kill())

    # -- death -----------------------------------------------------------------------------------

    def crash(self, requests: int) -> tuple[str, int]:
        """Loads, kills somebody, brings it back; returns who and when (wall time in ns)."""
        victim = self.random.choice(VICTIMS)
        family = family_of(self.gateway.process.pid)
        children = [*family["worker"], *family["steward"]]
        when = self.random.random() * 0.4
        killed = 0

        async def kill() -> None:
            nonlocal killed
            await asyncio.sleep(when)
            if victim in family:
                self.random.choice(family[victim]).kill()
            else:
                os.kill(self.gateway.process.pid, signal.SIGKILL)
                for child in children if victim == "everything" else ():
                    child.kill()
            killed = time.time_ns()

        asyncio.run(self._load(requests, kill))
        self.killed[victim] += 1
        if victim not in family:
            self.gateway.stop(signal.SIGKILL)
            self.gateway = self._start()
            killed = time.time_ns() if victim == "everything" else killed
            _, left = psutil.wait_procs(children, 60)
            assert left == [], "workers outlive their supervisor"
        return victim, killed

    # -- the books -------------------------------------------------------------------------------

    def rest(self, killed: int) -> None:
        """Waits until nothing is under way and all is in the log; reads who was charged in full."""
        _, gate = self.gateway.stores()
        try:
            until(lambda: not gate.reservations() and not gate.outbox(0, 1), 60)
        except AssertionError as error:
            error.add_note(self._story(killed))
            raise
        until(self.provider.settled, 60)
        for index, raw in Reader(self.gateway.data_dir).read(self._read, 1_000_000):
            self._read = index + 1
            event = events.decode(raw)
            if isinstance(event, events.ModelAccess | events.Reconciled):
                for who in (event.key, event.user, event.team, event.customer):
                    self.logged[who or ""] = self.logged.get(who or "", 0) + event.cost
            if isinstance(event, events.ModelAccess) and event.outcome == "unsettled":
                self.unsettled[int(event.request.removeprefix("n-"))] = event
                self.found_after.append((event.seq - killed) / 1e9)

    def _story(self, killed: int) -> str:
        """What is not at rest, for whoever must find out why."""
        _, gate = self.gateway.stores()
        supervisor = psutil.Process(self.gateway.process.pid)
        family = [supervisor, *supervisor.children(recursive=True)]
        waiting = [
            f"reservation {sequence} of {amount} by owner {owner}, "
            f"{(created - killed) / 1e9:+.3f} s from the death: {note[:200]!r}"
            for owner, sequence, amount, created, note in gate.reservations()
        ]
        processes = [
            f"{one.pid} {one.status()}, {one.cpu_times().user:.1f} s, threads {one.num_threads()}\n"
            + _stack(one.pid)
            for one in family
        ]
        locks = [
            f"{path.name}: {'held' if alive(path.parent, int(path.stem[6:])) else 'free'}"
            for path in (self.gateway.data_dir / "state").glob("owner-*.lock")
        ]
        held = [f"{len(gate.outbox(0, 100))} events in the outbox, barred: {gate.barred}"]
        logged = self.gateway.log.read_text(errors="replace")[-4000:]
        return "\n".join([*waiting, *held, *locks, *processes, logged])

    def books(self) -> dict[str, tuple[int, int]]:
        """(settled, reserved) nano-USD of everybody's budget, by name."""
        directory, gate = self.gateway.stores()
        found = {}
        for kind in KINDS:
            for entity in directory.all(kind):
                start = budget_window(entity.budgets[0], time.time_ns())[0]
                cell = gate.counters([(id_number(entity.budgets[0].id), start)])[0]
                found[entity.name] = cell[:2]
        return found

    def in_log(self) -> dict[str, int]:
        """Nano-USD by name, as the log says; call ``rest`` before."""
        directory, _ = self.gateway.stores()
        everybody = [entity for kind in KINDS for entity in directory.all(kind)]
        return {entity.name: self.logged.get(entity.id, 0) for entity in everybody}

    def places(self) -> int:
        """Requests that hold a place of the concurrency limit."""
        directory, gate = self.gateway.stores()
        [limit, _] = directory.get("virtual_key", "ann-2").rate_limits
        return gate.counters([(id_number(limit.id), 0)])[0][1]

    def tight(self) -> Budget:
        """The small budget."""
        key = self.gateway.stores()[0].get("virtual_key", "tight")
        assert isinstance(key, VirtualKey)
        return key.budgets[0]

    def expected(self, *, charged: bool) -> dict[str, int]:
        """What the provider bills at every level; ``charged``: with full charges for the lost."""
        sums = dict.fromkeys((*KEYS, *(name for above in ABOVE.values() for name in above)), 0)
        for number, asked in self.asked.items():
            lost = self.unsettled.get(number) if charged else None
            cost = lost.cost if lost is not None else self.provider.billed(number)
            for name in (asked.key, *ABOVE[asked.key]):
                sums[name] += cost
        return sums
