"""The generator: requests on a fixed timetable (open loop), or one after the other (closed loop).

Raw uvloop protocols and httptools, keep-alive, no pipelining. Run as a process of its own:
``python -m benchmarks.openloop PLAN`` with a plan file, the result is JSON on standard output. An
answer's time counts from the moment its request was due, not from when it could be sent: a server
that stalls cannot hide the requests that should have come meanwhile (coordinated omission).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import cast

import httptools
import msgspec
import uvloop

DRAIN_S = 2.0  # for answers after the last request was due
LEAD_NS = 20_000_000  # from the last connection to the first request
CLOCK_MONOTONIC, TFD_FLAGS = 1, 0o2004000  # non-blocking, close on exec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. ``rate`` per second, 0 for a closed loop; the warm-up is not recorded."""

    host: str
    port: int
    message: bytes
    rate: int
    connections: int
    seconds: float
    warmup: float = 0.2
    stream: bool = False


class Quantiles(msgspec.Struct, frozen=True):
    """Of a set of durations, in microseconds."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    most: float = 0.0

    @classmethod
    def of(cls, durations: array[int]) -> Quantiles:
        """Nearest-rank quantiles of nanoseconds."""
        if not durations:
            return cls()
        ranked = sorted(durations)
        p50, p90, p99, p999 = (
            ranked[min(len(ranked) - 1, int(len(ranked) * q))] / 1000
            for q in (0.5, 0.9, 0.99, 0.999)
        )
        return cls(p50, p90, p99, p999, ranked[-1] / 1000)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a plan.

    ``failed`` counts answers other than 2xx, ``broken`` connections lost under a request,
    ``unanswered`` requests that were due and had no answer 2 s after the last one was due.
    ``seconds`` runs from the first due time to the last answer; ``behind``, also in seconds, is how
    late the last request was sent. ``latency`` from due to the last
    byte, ``first`` from due to the first byte of the body (streams only), ``late`` from due to
    sent where a connection was free: the generator's own lateness. ``queue`` is the longest wait
    line for a connection.
    """

    due: int
    answered: int
    failed: int
    broken: int
    unanswered: int
    seconds: float
    queue: int
    latency: Quantiles
    first: Quantiles
    late: Quantiles

    behind: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether the timetable was kept: all answered, the last one sent at most 100 ms late."""
        return not self.unanswered and self.behind < 0.1

    @property
    def errors(self) -> int:
        """Requests that went wrong for another reason than too much load."""
        return self.failed + self.broken


class Wire(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self.due = 0
        self.first = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, due: int) -> None:
        """Sends the plan's request, due at ``due``."""
        self.due = due
        self.first = 0
        self._transport.write(self._driver.plan.message)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        """Called by the parser: an answer is whole."""
        due, self.due = self.due, 0
        self._driver.answered(self, due, self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.lost = True
        self._driver.lost(self)

    def close(self) -> None:
        """Drops the connection."""
        self._transport.abort()


class StreamWire(Wire):
    """Also notes when the first byte of the body came."""

    def on_body(self, _: bytes) -> None:
        """Called by the parser."""
        if not self.first:
            self.first = time.monotonic_ns()


class Driver:
    """Carries out one plan on one event loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Wire] = deque()
        self._wires: set[Wire] = set()
        self._waiting: deque[int] = deque()
        self._joining: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._start = self._end = self._count_from = self._next = 0
        self._step = 1_000_000_000 // plan.rate if plan.rate else 0
        self._total = round(plan.rate * plan.seconds)
        self._sent = self._queue = self._last = self._behind = 0
        self._answered = self._failed = self._broken = 0
        self._latency, self._first, self._late = array("q"), array("q"), array("q")

    async def run(self) -> Outcome:
        """Connects, sends by the plan and waits for what is owed."""
        await asyncio.gather(*(self._connect() for _ in range(self.plan.connections)))
        self._start = self._next = time.monotonic_ns() + LEAD_NS
        self._end = self._start + round(self.plan.seconds * 1e9)
        self._count_from = self._start + round(min(self.plan.warmup, self.plan.seconds / 2) * 1e9)
        timer = self._timetable() if self.plan.rate else -1
        if timer < 0:
            self._start_all()
        await asyncio.wait([self._over], timeout=self.plan.seconds + DRAIN_S)
        if timer >= 0:
            self._loop.remove_reader(timer)
            os.close(timer)
        self._over.cancel()
        for wire in self._wires:
            wire.close()
        return self._outcome()

    async def _connect(self) -> None:
        maker = StreamWire if self.plan.stream else Wire
        _, wire = await self._loop.create_connection(
            lambda: maker(self), self.plan.host, self.plan.port
        )
        self._wires.add(wire)
        self._free(wire)

    def _timetable(self) -> int:
        """A kernel timer that fires at every due time; the loop's own timers have only ms."""
        libc = ctypes.CDLL(None, use_errno=True)
        timer = libc.timerfd_create(CLOCK_MONOTONIC, TFD_FLAGS)
        times = (ctypes.c_long * 4)(*divmod(self._step, 10**9), *divmod(self._start, 10**9))
        if timer < 0 or libc.timerfd_settime(timer, 1, ctypes.byref(times), None):
            raise OSError(ctypes.get_errno(), "no kernel timer")
        self._timer = timer
        self._loop.add_reader(timer, self._tick)
        return int(timer)

    def _tick(self) -> None:
        """Sends everything that is due."""
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return
        now = time.monotonic_ns()
        while self._next <= now and self._sent < self._total:
            due = self._next
            self._sent += 1
            self._next = due + self._step
            if self._idle:
                self._behind = now - due
                self._late.append(self._behind)
                self._idle.popleft().send(due)
            else:
                self._waiting.append(due)
                self._queue = max(self._queue, len(self._waiting))

    def _start_all(self) -> None:
        wires, self._idle = self._idle, deque()
        for wire in wires:
            self._again(wire)

    def _again(self, wire: Wire) -> None:
        """Closed loop: the next request at once, until the time is over."""
        now = time.monotonic_ns()
        if now < self._end:
            self._sent += 1
            wire.send(now)
            return
        self._idle.append(wire)
        if len(self._idle) == len(self._wires):
            self._finish()

    def answered(self, wire: Wire, due: int, status: int) -> None:
        """Called by a wire: its request has its answer."""
        now = self._last = time.monotonic_ns()
        self._answered += 1
        if not 200 <= status < 300:
            self._failed += 1
        if due >= self._count_from:
            self._latency.append(now - due)
            if wire.first:
                self._first.append(wire.first - due)
        self._free(wire)

    def _free(self, wire: Wire) -> None:
        if not self._start:
            self._idle.append(wire)
        elif not self.plan.rate:
            self._again(wire)
        elif self._waiting:
            due = self._waiting.popleft()
            self._behind = time.monotonic_ns() - due
            wire.send(due)
        else:
            self._idle.append(wire)
            if self._answered + self._broken == self._total:
                self._finish()

    def lost(self, wire: Wire) -> None:
        """Called by a wire: its connection is gone; another takes its place."""
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        if self._over.done():
            return
        if wire.due:
            self._broken += 1
        if self._broken > 1000:
            self._finish()
        else:
            joining = self._loop.create_task(self._connect())
            self._joining.add(joining)
            joining.add_done_callback(self._joining.discard)

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _outcome(self) -> Outcome:
        due = self._total or self._sent
        end = self._last or self._start
        return Outcome(
            due=due,
            answered=self._answered,
            failed=self._failed,
            broken=self._broken,
            unanswered=due - self._answered - self._broken,
            seconds=max(end - self._start, 1) / 1e9,
            behind=self._behind / 1e9,
            queue=self._queue,
            latency=Quantiles.of(self._latency),
            first=Quantiles.of(self._first),
            late=Quantiles.of(self._late),
        )


async def carry_out(plan: Plan) -> Outcome:
    """Runs a plan on the running uvloop event loop."""
    return await Driver(plan).run()


def main() -> None:
    """``python -m benchmarks.openloop PLAN``."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(carry_out(plan))))


if __name__ == "__main__":
    main()
