"""The gateway under test and the mock provider behind it, both started by their own commands."""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from benchmarks.answer import await_answer
from benchmarks.cases import KEY
from benchmarks.load import Target
from benchmarks.processes import (
    START_S,
    BenchError,
    Cores,
    Server,
    children,
    free_port,
    has_event_loop,
    pin,
)

BIFROST = [sys.executable, "-m", "bifrost"]
BUDGET = [{"max_limit": "1000000000", "reset_duration": "1M"}]  # USD; refuses nothing here
_QUANTILE = re.compile(r'^bifrost_(\w+)_seconds\{quantile="([0-9.]+)"\} (\S+)$', re.M)
_TOTAL = re.compile(r"^bifrost_(\w+)_seconds_(sum|count) (\S+)$", re.M)
_LAG = re.compile(r"^bifrost_steward_lag_seconds (\S+)$", re.M)


def configuration(upstream: str, workers: int = 1) -> dict[str, object]:
    """One provider; budgets on customer, team, user and key."""
    return {
        "server": {"workers": workers, "log_level": "warning", "shutdown_timeout_s": 1},
        "providers": {
            "anthropic": {
                "type": "anthropic",
                "keys": [{"name": "bench", "value": "sk-ant-not-a-real-key"}],
                "network": {"base_url": upstream, "max_connections": 8192},
            }
        },
        "governance": {
            "customers": [{"name": "bench", "budgets": BUDGET}],
            "teams": [{"name": "bench", "customer": "bench", "budgets": BUDGET}],
            "users": [{"name": "bench", "team": "bench", "budgets": BUDGET}],
            "virtual_keys": [{"name": "bench", "user": "bench", "value": KEY, "budgets": BUDGET}],
        },
    }


class Mock:
    """``bifrost mock`` on the load core."""

    def __init__(self, folder: Path, core: int) -> None:
        self._server = Server("mock", [*BIFROST, "mock"], folder, core)
        try:
            self.url = self._server.await_output(r"(http://127\.0\.0\.1:\d+)")
        except BaseException:
            self.stop()
            raise
        port = urlsplit(self.url).port or 0
        pids = {"mock": self._server.pid}
        self.target = Target("direct", "127.0.0.1", port, "/v1/messages", "/v1/messages", pids)

    def stop(self) -> None:
        """Ends the mock provider."""
        self._server.stop()


class Timing(msgspec.Struct, frozen=True):
    """One timing of ``/metrics``: quantiles in microseconds by name, since the worker's start."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float


class Gateway:
    """``bifrost serve``: the worker on the proxy core, the rest on the other.

    A second worker goes to the other core too; more are dealt out in turns.
    """

    def __init__(
        self,
        folder: Path,
        upstream: str,
        cores: Cores,
        *,
        workers: int = 1,
        patience: float = START_S,
    ) -> None:
        folder.mkdir(parents=True)
        config = folder / "bifrost.json"
        config.write_text(json.dumps(configuration(upstream, workers)))
        self._port = free_port()
        command = [*BIFROST, "serve", "--config", str(config), "--data-dir", str(folder / "data")]
        began = time.monotonic()
        self._server = Server("gateway", [*command, "--port", str(self._port)], folder, cores.load)
        route = "/anthropic/v1/messages"
        self.target = Target("bifrost", "127.0.0.1", self._port, route, route, {})
        try:
            await_answer(self.target, patience, self._server.check)
            self.start_s = time.monotonic() - began  # until the first governed answer
            self.target.pids.update(self._roles(workers))
        except BaseException:
            self.stop()
            raise
        for number, pid in enumerate(self.workers()):
            pin(pid, (cores.proxy, cores.load)[number % 2])

    def workers(self) -> list[int]:
        """The workers' process ids."""
        return [pid for name, pid in self.target.pids.items() if name.startswith("worker")]

    def _roles(self, workers: int) -> dict[str, int]:
        """The supervisor and its children, told apart by who runs an event loop."""
        deadline = time.monotonic() + START_S
        while True:
            young = children(self._server.pid)
            loops = [child for child in young if has_event_loop(child)]
            if len(loops) == workers and len(young) == workers + 1:
                break
            if time.monotonic() > deadline:
                raise BenchError(f"expected {workers} workers and a steward, found {young}")
            time.sleep(0.02)
        names = ["worker", *(f"worker{n}" for n in range(2, workers + 1))]
        [steward] = set(young) - set(loops)
        return {**dict(zip(names, loops, strict=True)), "steward": steward,
                "supervisor": self._server.pid}  # fmt: skip

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def _metrics(self) -> str:
        status, page = self._get("/metrics")
        if status != 200 or not _LAG.search(page):
            raise BenchError(f"/metrics answered {status}:\n{page}\n{self._server.tail()}")
        return page

    def timings(self) -> dict[str, Timing]:
        """``governance``, ``admit``, ``settle`` … as the running worker reports them."""
        page = self._metrics()
        quantiles = {(name, q): float(value) * 1e6 for name, q, value in _QUANTILE.findall(page)}
        totals = {(name, kind): float(value) for name, kind, value in _TOTAL.findall(page)}
        found = {}
        for name in {name for name, _ in quantiles}:
            count = int(totals[name, "count"])
            mean = totals[name, "sum"] * 1e6 / max(count, 1)
            ranks = [quantiles[name, q] for q in ("0.5", "0.9", "0.99", "0.999")]
            found[name] = Timing(count, mean, *ranks)
        return found

    def lag_s(self) -> float:
        """Age in seconds of the oldest event that is not in the audit log."""
        found = _LAG.search(self._metrics())
        return float(found[1]) if found is not None else 0.0

    def await_steward(self, seconds: float = 5.0) -> bool:
        """Waits until the steward has read the events; False if it is still behind after that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.lag_s() == 0:
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """Ends the gateway with all its processes."""
        self._server.stop()
