"""A limit of 600 requests a minute, pushed for three minutes through two workers.

Starts this Bifrost before its mock provider, pushes more requests than the limit allows and reads
from the mock when each of them arrived: in no 60 seconds may there be more than 600, and in each of
the three minutes at least 590.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import httpx
import msgspec

from benchmarks.processes import BenchError
from benchmarks.subject import MODEL, Ours, ours, parser, report, table

NS = 1_000_000_000
WORKERS, CONNECTIONS = 2, 8


class Found(msgspec.Struct, frozen=True):
    """What was let through a limit of ``limit`` requests per ``window_s``."""

    limit: int
    window_s: int
    seconds: int
    pushed: int
    passed: int
    most: int
    per_window: list[int]
    statuses: dict[str, int]
    untrue: int
    waited: int


def most_in(times: Sequence[int], window_ns: int) -> int:
    """The largest number of sorted instants in any stretch of that length (half-open)."""
    return max((bisect_left(times, at + window_ns) - i for i, at in enumerate(times)), default=0)


class Pusher:
    """Pushes at a steady rate for a time; one client obeys ``retry-after`` to the second."""

    def __init__(self, subject: Ours, rate: int, seconds: int) -> None:
        self.subject, self.rate, self.seconds = subject, rate, seconds
        headers = {
            "authorization": f"Bearer {subject.key(None)}",
            "anthropic-version": "2023-06-01",
        }
        limits = httpx.Limits(max_connections=CONNECTIONS * 4)
        self.client = httpx.AsyncClient(
            base_url=subject.url, headers=headers, limits=limits, timeout=30
        )
        self.statuses: Counter[str] = Counter()
        self.arrived: list[int] = []
        self.began = 0
        self._seen = 0

    async def ask(self) -> httpx.Response:
        """One small request."""
        hello = [{"role": "user", "content": "Hello"}]
        body = {"model": MODEL, "max_tokens": 16, "messages": hello}
        answer = await self.client.post("/v1/messages", json=body)
        self.statuses[str(answer.status_code)] += 1
        return answer

    async def run(self) -> None:
        """All requests on their timetable, and the mock's list of arrivals as it goes."""
        self.began = time.monotonic_ns()
        done = asyncio.Event()
        reading = asyncio.create_task(self._read(done))
        due = [self.began + n * NS // self.rate for n in range(self.rate * self.seconds)]
        places = asyncio.Semaphore(CONNECTIONS * 4)
        async with asyncio.TaskGroup() as group:
            for at in due:
                await asyncio.sleep(max(0, at - time.monotonic_ns()) / NS)
                await places.acquire()
                group.create_task(self._one(places))
        done.set()
        await reading

    async def _one(self, places: asyncio.Semaphore) -> None:
        try:
            await self.ask()
        finally:
            places.release()

    async def _read(self, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                await asyncio.wait_for(done.wait(), 2)
            except TimeoutError:
                pass
            found = await asyncio.to_thread(self.subject.account.requests)
            fresh = [one for one in found if one["n"] > self._seen]
            if fresh and fresh[0]["n"] != self._seen + 1:
                raise BenchError("the mock forgot requests before they were read; push less")
            self._seen += len(fresh)
            self.arrived += [one["at_ns"] for one in fresh]


async def patient(pusher: Pusher, times: int) -> tuple[int, int]:
    """Alone now: waits as long as told; (how often it was refused all the same, how often told)."""
    untrue = waited = 0
    for _ in range(times):
        answer = await pusher.ask()
        while answer.status_code == 200:
            answer = await pusher.ask()
        await asyncio.sleep(int(answer.headers["retry-after"]))
        waited += 1
        untrue += (await pusher.ask()).status_code != 200
    return untrue, waited


def run(limit: int, window_s: int, seconds: int, rate: int, workers: int, times: int) -> Found:
    """One trial from start to end."""
    limits = [{"metric": "requests", "max_limit": limit, "window": f"{window_s}s"}]
    with ours(workers=workers, mock=(), rate_limits=limits) as subject:
        pusher = Pusher(subject, rate, seconds)

        async def all_of_it() -> tuple[int, int]:
            await pusher.run()
            pushed.update(pusher.statuses)
            found = await patient(pusher, times)
            await pusher.client.aclose()
            return found

        pushed: Counter[str] = Counter()
        untrue, waited = asyncio.run(all_of_it())
        window = window_s * NS
        begins = range(pusher.began, pusher.began + seconds * NS - window + 1, window)
        return Found(
            limit=limit, window_s=window_s, seconds=seconds, pushed=pushed.total(),
            passed=len(pusher.arrived), most=most_in(pusher.arrived, window),
            per_window=[sum(at <= t < at + window for t in pusher.arrived) for at in begins],
            statuses=dict(pushed), untrue=untrue, waited=waited,
        )  # fmt: skip


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser("limits", __doc__)
    made.add_argument("--limit", type=int, default=600, help="requests in a window")
    made.add_argument("--window", type=int, default=60, help="its length in seconds")
    made.add_argument("--seconds", type=int, default=180, help="of pushing")
    made.add_argument("--rate", type=int, default=50, help="requests pushed per second")
    made.add_argument("--waits", type=int, default=3, help="times to obey retry-after at the end")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trial and prints its table; 1 if the limit was passed or not used up."""
    asked = options(arguments)
    found = run(asked.limit, asked.window, asked.seconds, asked.rate, WORKERS, asked.waits)
    span = f"{asked.window} s"
    rows = [
        ("pushed", "passed", f"most in any {span}", f"in each {span}", "retry-after untrue"),
        (str(found.pushed), str(found.passed), str(found.most),
         ", ".join(map(str, found.per_window)), f"{found.untrue} of {found.waited}"),
    ]  # fmt: skip
    print(table(rows))
    report("limits", found, asked.out)
    least = asked.limit * 59 // 60
    kept = found.most <= asked.limit and min(found.per_window) >= least
    return int(not kept or found.untrue > 0 or set(found.statuses) - {"200", "429"} != set())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
