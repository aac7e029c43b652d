"""A million keys: what admitting costs beside a thousand, and what they take of disk and memory.

Makes two data directories with ``bifrost keys import``, opens both in one process and admits
requests in turns, a block of one after a block of the other, so that noise of the machine meets
both. Timed is ``Governor.admit``: key lookup, allowlist, reservation at three levels.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks.processes import BenchError
from benchmarks.subject import MODEL, parser, report, table
from bifrost._fast import wire
from bifrost.call import Call, new_request_id
from bifrost.config.settings import Settings
from bifrost.core import Core
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, new_id

HOT = 1_000  # keys that most of the traffic comes from
BLOCK = 2_000  # requests of one directory before it is the other's turn
MOST_RATIO = 3.0
LIMIT = 10**18
BODY = json.dumps(
    {"model": MODEL, "max_tokens": 1_000, "messages": [{"role": "user", "content": "Hello"}]}
).encode()


class Made(msgspec.Struct, frozen=True):
    """What a directory of ``keys`` took: seconds to import, bytes on the disk."""

    keys: int
    import_s: float
    config_bytes: int
    state_bytes: int
    audit_bytes: int


class Cost(msgspec.Struct, frozen=True):
    """Admitting, in microseconds."""

    requests: int
    p50: float
    p99: float


class Found(msgspec.Struct, frozen=True):
    """Costs by kind of traffic: of the small and of the large directory."""

    made: list[Made]
    costs: dict[str, tuple[Cost, Cost]]
    bytes_per_grant: int
    resident_bytes: int

    def ratio(self, kind: str) -> float:
        """How many times as dear the large directory is, by p50."""
        small, large = self.costs[kind]
        return large.p50 / small.p50


def secret(number: int) -> str:
    """The value of key number ``number``."""
    return f"sk-bf-{number:043d}"


def make(folder: Path, keys: int) -> Made:
    """Customers and teams with a budget each, then keys with a budget each from a file."""
    directory = Directory(folder / "data")
    teams = max(1, min(1_000, keys // 100))
    for number in range(max(1, teams // 100)):
        directory.create("customer", f"customer-{number}", budgets=(_budget(),))
    for number in range(teams):
        customer = f"customer-{number // 100}"
        directory.create("team", f"team-{number}", customer=customer, budgets=(_budget(),))
    directory.close()
    sheet = folder / "keys.csv"
    with sheet.open("w") as file:
        file.write("name,value,team,budget\n")
        for number in range(keys):
            file.write(f"key-{number},{secret(number)},team-{number % teams},1000000/1M\n")
    began = time.monotonic()
    command = [sys.executable, "-m", "bifrost", "keys", "import", str(sheet)]
    done = subprocess.run(
        [*command, "--data-dir", str(folder / "data")], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"the import failed: {done.stderr.strip()}")
    took = time.monotonic() - began
    sizes = [_size(folder / "data" / name) for name in ("config", "state", "audit")]
    return Made(keys, took, *sizes)


def _budget() -> Budget:
    return Budget(
        id=new_id("budget"), max_limit=LIMIT, reset_duration="1M", created_at=time.time_ns()
    )


def _size(folder: Path) -> int:
    """Bytes of a folder on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def resident() -> int:
    """Bytes of this process's own memory: without what is mapped from files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


class Counter:
    """Where requests of one directory are admitted and given back."""

    def __init__(self, folder: Path, keys: int) -> None:
        provider = {"type": "anthropic", "keys": [{"name": "none", "value": "sk-ant-none"}]}
        settings = msgspec.convert({"providers": {"anthropic": provider}}, Settings)
        self.core = Core(settings, folder / "data")
        self.keys = keys
        self.times: dict[str, list[int]] = {}
        self._scan = wire.scan(BODY)

    def admit(self, kind: str, numbers: Iterable[int]) -> None:
        """Admits one request of each of these keys, and notes what it took."""
        times = self.times.setdefault(kind, [])
        governor, clock = self.core.governor, time.perf_counter_ns
        for number in numbers:
            call = Call(new_request_id(), None)
            call.head = wire.read_head([(b"x-api-key", secret(number).encode())])
            call.scan, call.body = self._scan, BODY
            began = clock()
            governor.admit(call)
            times.append(clock() - began)
            governor.settle(call, None, "error")
        gate = self.core.gate
        while batch := gate.outbox(0, 10_000):
            gate.forget(batch[-1][0])

    def cost(self, kind: str) -> Cost:
        """The quantiles of one kind of traffic."""
        times = sorted(self.times[kind])
        return Cost(len(times), times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3)


def run(keys: Sequence[int], requests: int) -> Found:
    """Makes a directory for each number of keys and measures both in turns."""
    with tempfile.TemporaryDirectory(prefix="bifrost-scale-") as name:
        made, counters = [], []
        for number in keys:
            folder = Path(name) / str(number)
            folder.mkdir()
            print(f"importing {number:,} keys", file=sys.stderr)
            made.append(make(folder, number))
            counters.append(Counter(folder, number))
        try:
            grants = _touch(counters)
            costs = _measure(counters, requests)
            for one, counter in zip(list(made), counters, strict=True):
                made[made.index(one)] = msgspec.structs.replace(
                    one, state_bytes=_size(counter.core.data_dir / "state")
                )
            return Found(made, costs, grants, resident())
        finally:
            for counter in counters:
                counter.core.close()


def _touch(counters: Sequence[Counter]) -> int:
    """Every key once; returns the bytes of memory that a key met before takes."""
    before = resident()
    for counter in counters:
        print(f"first request of {counter.keys:,} keys", file=sys.stderr)
        order = random.sample(range(counter.keys), counter.keys)
        for at in range(0, len(order), BLOCK):
            counter.admit("first", order[at : at + BLOCK])
    gc.collect()
    gc.freeze()  # as a worker does
    return (resident() - before) // sum(counter.keys for counter in counters)


def _measure(counters: Sequence[Counter], requests: int) -> dict[str, tuple[Cost, Cost]]:
    hot = [random.sample(range(one.keys), min(HOT, one.keys)) for one in counters]
    for _ in range(-(-requests // BLOCK)):
        for one, some in zip(counters, hot, strict=True):
            one.admit("warm-up", random.choices(some, k=BLOCK))
            one.admit("hot", random.choices(some, k=BLOCK))
            one.admit("spread", (random.randrange(one.keys) for _ in range(BLOCK)))
    small, large = counters
    return {kind: (small.cost(kind), large.cost(kind)) for kind in ("hot", "spread", "first")}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser("scale", __doc__)
    made.add_argument("--few", type=int, default=1_000, help="keys of the small directory")
    made.add_argument("--keys", type=int, default=1_000_000, help="keys of the large directory")
    made.add_argument("--requests", type=int, default=100_000, help="per kind of traffic")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the tables; 1 if keys met before cost more than three times as much."""
    asked = options(arguments)
    random.seed(1)
    found = run([asked.few, asked.keys], asked.requests)
    print(table([
        ("keys, a budget each", "import", "keys/s", "config", "state", "audit"),
        *((f"{one.keys:,}", f"{one.import_s:.1f} s", f"{one.keys / one.import_s:,.0f}",
           *(f"{size / 2**20:,.0f} MiB"
             for size in (one.config_bytes, one.state_bytes, one.audit_bytes)))
          for one in found.made),
    ]))  # fmt: skip
    print()
    says = {"hot": f"{HOT:,} keys", "spread": "any key, met before", "first": "first request"}
    print(table([
        ("admit, us", f"{asked.few:,} keys p50 / p99", f"{asked.keys:,} keys p50 / p99", "ratio"),
        *((says[kind], *(f"{cost.p50:.2f} / {cost.p99:.2f}" for cost in found.costs[kind]),
           f"{found.ratio(kind):.2f}") for kind in found.costs),
    ]))  # fmt: skip
    print(f"\n{found.bytes_per_grant:,} bytes of memory per key met before; this process, "
          f"{found.resident_bytes / 2**20:,.0f} MiB; load {os.getloadavg()[0]:.1f}")  # fmt: skip
    report("scale", found, asked.out)
    return int(max(found.ratio("hot"), found.ratio("spread")) > MOST_RATIO)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
