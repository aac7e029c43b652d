"""Taking access away while streams are open: when every worker refuses, and when streams end.

Starts this Bifrost with two workers before its mock provider. Each trial opens streams, disables a
key, user, team or customer through the admin API (or deletes the key) and measures, from the moment
the change is on the disk (the directory's epoch), until each worker's first refusal and until each
stream's end.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from benchmarks.processes import START_S, BenchError, children, has_event_loop
from benchmarks.subject import MODEL, NANO_IN, NANO_OUT, Ours, nano, ours, parser, report, table
from bifrost.governance.directory import Directory

WORKERS, STREAMS = 2, 4
REFUSED_MS, CUT_MS = 50.0, 250.0
# 100 s of text: nothing ends by itself while it is measured.
MOCK = ("--chunks", "5000", "--chunk-interval-ms", "20", "--input-tokens", "375",
        "--output-tokens", "20000")  # fmt: skip
OUTPUT = 20_000
ACTS = ("virtual key", "user", "team", "customer", "deleted key")


class Found(msgspec.Struct, frozen=True):
    """What all trials measured, milliseconds; money in nano-USD."""

    trials: int
    streams: int
    refused_ms: list[float]
    cut_ms: list[float]
    acknowledged_ms: list[float]
    statuses: dict[str, int]
    billed: int
    booked: int


def quantile(values: Sequence[float], q: float) -> float:
    """The nearest-rank quantile."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-int(q * 1000) * len(ranked) // 1000) - 1))]


class Probe:
    """A connection that one worker serves, asking without pause whether the key still works."""

    def __init__(self, url: httpx.URL, headers: dict[str, str]) -> None:
        self.host, self.port = url.host, url.port or 80
        content = json.dumps(message(False)).encode()
        lines = ["POST /v1/messages/count_tokens HTTP/1.1", f"host: {url.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"content-length: {len(content)}")
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
        self.pid = 0
        self.refused = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def open(self, workers: Sequence[int]) -> None:
        """Connects and finds out which worker took the connection."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        await self._ask()
        port = self.writer.get_extra_info("sockname")[1]
        self.pid = next((pid for pid in workers if _serves(pid, self.port, port)), 0)

    async def _ask(self) -> int:
        self.writer.write(self.request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:])
            for line in head.lower().split(b"\r\n")
            if line[:15] == b"content-length:"
        )
        await self.reader.readexactly(length)
        return int(head[9:12])

    def start(self) -> None:
        """Begins to ask."""
        self._task = asyncio.get_running_loop().create_task(self._until_refused())

    async def _until_refused(self) -> None:
        while (status := await self._ask()) == 200:
            await asyncio.sleep(0.001)
        self.refused.set_result((time.time_ns(), status))

    def close(self) -> None:
        """Ends the connection."""
        if self._task is not None:
            self._task.cancel()
        self.writer.close()


def _serves(pid: int, port: int, peer: int) -> bool:
    """Whether a process holds the server's end of a connection on the loopback interface."""
    ends = (f":{port:04X}", f":{peer:04X}")
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            return f"socket:[{fields[9]}]" in _sockets(pid)
    return False


def _sockets(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue
    return found


def _workers(supervisor: int) -> list[int]:
    """The processes that serve, once all do; BenchError if they do not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = [pid for pid in children(supervisor) if has_event_loop(pid)]
        if len(found) == WORKERS:
            return found
        time.sleep(0.05)
    raise BenchError(f"expected {WORKERS} workers, found {len(found)}")


def message(stream: bool) -> dict[str, object]:
    """A Messages request."""
    hello = [{"role": "user", "content": "Hello"}]
    return {"model": MODEL, "max_tokens": OUTPUT, "stream": stream, "messages": hello}


async def _stream(client: httpx.AsyncClient, begun: asyncio.Event) -> tuple[int, bool]:
    """Reads a stream to its end; when that was, and whether it said why."""
    text = b""
    async with client.stream("POST", "/v1/messages", json=message(True)) as answer:
        async for piece in answer.aiter_raw():
            text = (text + piece)[-4096:]
            if not begun.is_set() and b"content_block_delta" in text:
                begun.set()
    return time.time_ns(), b"event: error" in text


class Trials:
    """Runs trials on one gateway and keeps what they measure."""

    def __init__(self, subject: Ours) -> None:
        self.subject = subject
        self.url = httpx.URL(subject.url)
        self.workers = _workers(subject.pid)
        self.directory = Directory(subject.folder / "data")
        self.refused: list[float] = []
        self.cut: list[float] = []
        self.acknowledged: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def probes(self, headers: dict[str, str]) -> list[Probe]:
        """One connection to every worker."""
        found: dict[int, Probe] = {}
        for _ in range(200):
            probe = Probe(self.url, headers)
            await probe.open(self.workers)
            if probe.pid and probe.pid not in found:
                found[probe.pid] = probe
            else:
                probe.close()
            if len(found) == WORKERS:
                return list(found.values())
        raise BenchError("one worker takes no connections")

    async def one(self, act: str) -> None:
        """Opens streams, takes the access away, waits for every worker and every stream."""
        key = self.subject.key(None)
        headers = {
            "authorization": f"Bearer {key}", "anthropic-version": "2023-06-01",
            "content-type": "application/json",
        }  # fmt: skip
        probes = await self.probes(headers)
        begun = [asyncio.Event() for _ in range(STREAMS)]
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60) as client:
            streams = [asyncio.create_task(_stream(client, event)) for event in begun]
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in begun)), 20)
            for probe in probes:
                probe.start()
            await asyncio.sleep(0.1)
            loop = asyncio.get_running_loop()
            sent, before = time.monotonic(), self.directory.epoch()
            await loop.run_in_executor(None, functools.partial(self._take, act))
            self.acknowledged.append((time.monotonic() - sent) * 1e3)
            changed = self.directory.epoch()
            assert changed > before
            for probe in probes:
                at, status = await asyncio.wait_for(probe.refused, 10)
                self.refused.append((at - changed) / 1e6)
                self.statuses[f"refused with {status}"] += 1
                probe.close()
            late = max(self.refused[-WORKERS:])
            if late > REFUSED_MS:
                print(f"{act}: refused after {late:.0f} ms", file=sys.stderr, flush=True)
            for at, said in await asyncio.wait_for(asyncio.gather(*streams), 30):
                self.cut.append((at - changed) / 1e6)
                self.statuses["cut with an error event" if said else "cut without a word"] += 1
        await loop.run_in_executor(None, functools.partial(self._give_back, act))

    def _path(self, act: str) -> str:
        return {
            "virtual key": f"virtual-keys/{self.subject.newest}", "user": "users/ann",
            "team": "teams/core", "customer": "customers/acme",
            "deleted key": f"virtual-keys/{self.subject.newest}",
        }[act]  # fmt: skip

    def _take(self, act: str) -> None:
        if act == "deleted key":
            self.subject.admin("DELETE", self._path(act))
        else:
            self.subject.admin("PUT", self._path(act), {"is_active": False})

    def _give_back(self, act: str) -> None:
        if act != "deleted key":
            self.subject.admin("PUT", self._path(act), {"is_active": True})


def run(subject: Ours, count: int) -> Found:
    """All trials; money is compared at the customer, who lives through all of them."""
    trials = Trials(subject)
    for number in range(count):
        asyncio.run(trials.one(ACTS[number % len(ACTS)]))
        if (number + 1) % 20 == 0:
            print(f"{number + 1} of {count}", file=sys.stderr, flush=True)
    deadline = time.monotonic() + 10
    while True:
        [budget] = subject.admin("GET", "customers/acme")["budgets"]
        account = subject.account.read()
        if nano(budget["reserved"]) == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    trials.directory.close()
    served = account["total"]["cut_served"]
    return Found(
        trials=count, streams=len(trials.cut), refused_ms=trials.refused, cut_ms=trials.cut,
        acknowledged_ms=trials.acknowledged, statuses=dict(trials.statuses),
        billed=served["input_tokens"] * NANO_IN + served["output_tokens"] * NANO_OUT,
        booked=nano(budget["current_usage"]),
    )  # fmt: skip


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser("revocation", __doc__)
    made.add_argument("--trials", type=int, default=200)
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trials and prints their table; 1 if a bound was passed."""
    asked = options(arguments)
    with ours(workers=WORKERS, mock=MOCK) as subject:
        found = run(subject, asked.trials)
    rows = [("ms", "n", "p50", "p90", "p99", "max", "bound (p99)")]
    for name, values, bound in (
        ("the admin's request, until acknowledged", found.acknowledged_ms, None),
        ("from the change to the first refusal of each worker", found.refused_ms, REFUSED_MS),
        ("from the change to the end of each open stream", found.cut_ms, CUT_MS),
    ):
        shown = [f"{quantile(values, q):.1f}" for q in (0.5, 0.9, 0.99, 1.0)]
        rows.append((name, str(len(values)), *shown, f"{bound:.0f}" if bound else ""))
    print(table(rows))
    print(
        f"\n{found.statuses}; billed {found.billed / 1e9:.6f} USD, booked {found.booked / 1e9:.6f}"
    )
    report("revocation", found, asked.out)
    kept = quantile(found.refused_ms, 0.99) <= REFUSED_MS and quantile(found.cut_ms, 0.99) <= CUT_MS
    silent = found.statuses.get("cut without a word", 0)
    return int(not kept or silent > 0 or found.booked < found.billed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
