"""Load on a target: the closed loop by ``wrk`` (or the built-in generator), the open loop by ours.

Each run is a process of its own on the load core.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from benchmarks.cases import KEY, Case
from benchmarks.openloop import Outcome, Plan, Quantiles
from benchmarks.processes import ROOT, BenchError, Cores, finish

SCRIPT = ROOT / "benchmarks" / "wrk" / "messages.lua"
PATIENCE_S = 20.0
STREAMED = ("x-bench-stream", "1")  # by this the fixed provider knows what the body asks for


class Target(msgspec.Struct, frozen=True):
    """Where a case's requests go: the mock itself or a proxy before it."""

    name: str
    host: str
    port: int
    whole: str
    stream: str
    pids: dict[str, int] = {}
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def main(self) -> str:
        """The name of the process under test."""
        return "worker" if "worker" in self.pids else next(iter(self.pids))

    def path(self, case: Case) -> str:
        """The path for this kind of request."""
        return self.stream if case.stream else self.whole

    def more(self, case: Case) -> tuple[tuple[str, str], ...]:
        """Headers beside the case's own."""
        return (*self.headers, STREAMED) if case.stream else self.headers

    def message(self, case: Case) -> bytes:
        """A request of that kind as this target is sent it."""
        return case.message(f"{self.host}:{self.port}", self.path(case), self.more(case))


class WrkResult(msgspec.Struct, frozen=True):
    """What ``wrk/messages.lua`` writes; times in microseconds."""

    requests: int
    microseconds: int
    bad_status: int
    broken: int
    p50: int
    p90: int
    p99: int
    p999: int
    most: int


class Load:
    """Sends load from one core; scratch files go to ``folder``."""

    def __init__(self, folder: Path, cores: Cores, connections: int) -> None:
        self._folder = folder
        self._core = cores.load
        self.connections = connections
        self.wrk = shutil.which("wrk")
        self._count = 0

    def closed(self, target: Target, case: Case, seconds: float) -> Outcome:
        """As many requests as ``connections`` that never wait can send; by wrk if installed."""
        if self.wrk is None or seconds < 1:  # wrk takes whole seconds only
            return self.generated(target, case, 0, seconds, self.connections)
        return self._wrk(self.wrk, target, case, round(seconds))

    def open(self, target: Target, case: Case, rate: int, seconds: float) -> Outcome:
        """``rate`` requests per second on a timetable, over 64 connections."""
        return self.generated(target, case, rate, seconds, 64)

    def generated(
        self, target: Target, case: Case, rate: int, seconds: float, connections: int
    ) -> Outcome:
        """The built-in generator; ``rate`` 0 is a closed loop."""
        plan = Plan(
            host=target.host,
            port=target.port,
            message=target.message(case),
            rate=rate,
            connections=connections,
            seconds=seconds,
            stream=case.stream,
        )
        path = self._scratch("plan.json")
        path.write_bytes(msgspec.json.encode(plan))
        command = [sys.executable, "-m", "benchmarks.openloop", str(path)]
        said = finish(command, self._core, seconds + PATIENCE_S)
        return msgspec.json.decode(said, type=Outcome)

    def _wrk(self, wrk: str, target: Target, case: Case, seconds: int) -> Outcome:
        body, result = self._scratch("body"), self._scratch("wrk.json")
        body.write_bytes(case.body)
        finish(
            [wrk, "-t1", f"-c{self.connections}", f"-d{seconds}s", "--latency",
             "-s", str(SCRIPT), f"http://{target.host}:{target.port}{target.path(case)}"],
            self._core,
            seconds + PATIENCE_S,
            BIFROST_KEY=KEY,
            BIFROST_BODY=str(body),
            BIFROST_HEADERS="\n".join(
                f"{name}: {value}" for name, value in (*case.headers, *target.more(case))
            ),
            BIFROST_RESULT=str(result),
        )  # fmt: skip
        found = msgspec.json.decode(result.read_bytes(), type=WrkResult)
        if not found.requests:
            raise BenchError(f"{target.name} answered no request of {case.name}")
        return Outcome(
            due=found.requests,
            answered=found.requests,
            failed=found.bad_status,
            broken=found.broken,
            unanswered=0,
            seconds=found.microseconds / 1e6,
            queue=0,
            latency=Quantiles(found.p50, found.p90, found.p99, found.p999, found.most),
            first=Quantiles(),
            late=Quantiles(),
        )

    def _scratch(self, name: str) -> Path:
        self._count += 1
        return self._folder / f"{self._count}-{name}"
