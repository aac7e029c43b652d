"""The stage: providers and proxies running side by side, and samples taken of them in turn."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from benchmarks.cases import Case
from benchmarks.fixed import provider
from benchmarks.gateway import Gateway, Mock
from benchmarks.lineup import Lineup, Provider
from benchmarks.load import Load, Target
from benchmarks.openloop import Outcome
from benchmarks.peers import roster
from benchmarks.peers.peer import Peer
from benchmarks.processes import Cores, Window, resident_bytes

MEASURES = (
    *("closed", "single", "open", "governance", "stream"),
    *("start", "workers", "idle", "crowd", "heavy"),
)
ASKED = ("soak",)  # only when asked for


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; ``seconds`` is the length of one run, ``rates`` are requests/s."""

    seconds: float
    repeats: int
    quick: bool = False
    measures: tuple[str, ...] = MEASURES
    connections: int = 16
    rates: tuple[int, ...] = (500, 5000)
    minutes: float = 20.0  # of a soak


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One run: what was measured on which target, and the figures by name.

    The end of a figure's name is its unit: ``_us`` microseconds, ``_rps`` requests/s, ``_mb``
    10^6 bytes, ``_share`` a part of 1, ``x_`` before it a ratio. ``reached`` is False when a
    timetable could not be kept; its latencies then say only that.
    """

    measure: str
    case: str
    target: str
    repeat: int
    values: dict[str, float]
    rate: int = 0
    reached: bool = True
    series: tuple[tuple[float, float], ...] = ()  # of a soak: seconds since its start, RSS in MB


class Stage:
    """Everything that runs, as a context manager; on leaving, all of it is ended."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self.cores = Cores.allowed()
        self.load = Load(folder, self.cores, options.connections)
        self.errors: list[str] = []
        self._gateways: dict[int, Gateway] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def fixed(self) -> Lineup:
        """The provider with fixed answers and every light proxy before it."""
        return self._lineup("fixed", provider(self.folder, self.cores.load))

    @functools.cached_property
    def paced(self) -> Lineup:
        """The mock provider, which can send streams at a pace, and every light proxy before it."""
        return self._lineup("paced", Mock(self.folder, self.cores.load))

    @contextmanager
    def heavy(self, kind: type[Peer]) -> Iterator[Peer]:
        """A slow peer by itself before the mock provider, ended afterwards."""
        upstream = self.paced.provider.url.removeprefix("http://")
        peer = kind(upstream, self.folder, self.cores.proxy)
        try:
            yield peer
        finally:
            peer.stop()

    def _lineup(self, name: str, source: Provider) -> Lineup:
        light = roster.found(heavy=False)
        made = Lineup(source, self.folder / f"{name}-lineup", self.cores, light)
        self._stack.callback(made.close)
        self._gateways[made.gateway.target.port] = made.gateway
        return made

    def fresh_gateway(self, name: str, workers: int = 1) -> Gateway:
        """Another gateway before the provider with fixed answers; the caller stops it."""
        url = self.fixed.provider.url
        gateway = Gateway(self.folder / name, url, self.cores, workers=workers)
        self._gateways[gateway.target.port] = gateway
        return gateway

    def closed(self, target: Target, case: Case, seconds: float) -> dict[str, float]:
        """One closed-loop run with its CPU accounting."""
        window, books = self._windows(target)
        outcome = self.load.closed(target, case, seconds)
        return self._figures(target, case, outcome, window, books)

    def generated(
        self,
        target: Target,
        case: Case,
        rate: int,
        seconds: float,
        connections: int | None = None,
    ) -> tuple[dict[str, float], bool]:
        """One run of the built-in generator (closed loop for rate 0), and whether it kept time."""
        window, books = self._windows(target)
        if rate:
            outcome = self.load.open(target, case, rate, seconds)
        else:
            several = connections or self.load.connections
            outcome = self.load.generated(target, case, 0, seconds, several)
        figures = self._figures(target, case, outcome, window, books)
        figures["late_p50_us"] = outcome.late.p50
        figures["late_p99_us"] = outcome.late.p99
        if case.stream:
            figures["first_p50_us"] = outcome.first.p50
            figures["first_p99_us"] = outcome.first.p99
        return figures, outcome.reached

    @staticmethod
    def _windows(target: Target) -> tuple[Window, Window]:
        """Of the process under test, and of those beside it, which may finish later."""
        others = {name: pid for name, pid in target.pids.items() if name != target.main}
        return Window({target.main: target.pids[target.main]}), Window(others)

    def _figures(
        self, target: Target, case: Case, outcome: Outcome, window: Window, books: Window
    ) -> dict[str, float]:
        _, used = window.close()
        gateway = self._gateways.get(target.port)
        if gateway is not None and not gateway.await_steward():
            self.errors.append(f"{case.name}: the steward is 5 s behind the worker")
        _, beside = books.close()
        if outcome.errors:
            self.errors.append(
                f"{target.name} {case.name}: {outcome.failed} answers were not 2xx and "
                f"{outcome.broken} connections broke, of {outcome.due} requests"
            )
        answered = max(outcome.answered, 1)
        main = used[target.main]
        figures = {
            "requests": float(outcome.answered),
            "done_rps": outcome.answered / outcome.seconds,
            "cpu_us": main.total / answered / 1e3,
            "user_us": main.user / answered / 1e3,
            "system_us": (main.total - main.user) / answered / 1e3,
            "busy_share": main.total / (outcome.seconds * 1e9),
            "waited_share": main.waited / (outcome.seconds * 1e9),
            "resident_mb": resident_bytes(target.pids[target.main]) / 1e6,
            "p50_us": outcome.latency.p50,
            "p90_us": outcome.latency.p90,
            "p99_us": outcome.latency.p99,
            "p999_us": outcome.latency.p999,
        }
        for name, usage in beside.items():
            figures[f"{name}_us"] = usage.total / answered / 1e3
        return figures
