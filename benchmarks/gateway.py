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

from benchmarks.cases import KEY
from benchmarks.load import Target
from benchmarks.processes import (
    START_S,
    BenchError,
    Cores,
    Server,
    children,
    has_event_loop,
    pin,
)

BIFROST = [sys.executable, "-m", "bifrost"]
BUDGET = [{"max_limit": "1000000000", "reset_duration": "1M"}]  # USD; refuses nothing here
_QUANTILE = re.compile(r'^bifrost_(\w+)_seconds\{quantile="([0-9.]+)"\} (\S+)$', re.M)
_TOTAL = re.compile(r"^bifrost_(\w+)_seconds_(sum|count) (\S+)$", re.M)
_LAG = re.compile(r"^bifrost_steward_lag_seconds (\S+)$", re.M)


def configuration(upstream: str) -> dict[str, object]:
    """One worker, one provider; budgets on customer, team, user and key."""
    return {
        "server": {"workers": 1, "log_level": "warning", "shutdown_timeout_s": 1},
        "providers": {
            "anthropic": {
                "type": "anthropic",
                "keys": [{"name": "bench", "value": "sk-ant-not-a-real-key"}],
                "network": {"base_url": upstream},
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
    """``bifrost serve`` with one worker: the worker on the proxy core, the rest on the other."""

    def __init__(self, folder: Path, upstream: str, cores: Cores) -> None:
        folder.mkdir(parents=True)
        config = folder / "bifrost.json"
        config.write_text(json.dumps(configuration(upstream)))
        command = [*BIFROST, "serve", "--config", str(config), "--data-dir", str(folder / "data")]
        self._server = Server("gateway", [*command, "--port", "0"], folder, cores.load)
        try:
            url = self._server.await_output(r"listens on (http://127\.0\.0\.1:\d+)")
            self._port = urlsplit(url).port or 0
            self._await_health()
            pids = self._roles()
        except BaseException:
            self.stop()
            raise
        pin(pids["worker"], cores.proxy)
        route = "/anthropic/v1/messages"
        self.target = Target("bifrost", "127.0.0.1", self._port, route, route, pids)

    def _roles(self) -> dict[str, int]:
        """The supervisor and its two children, told apart by who runs an event loop."""
        found = {"supervisor": self._server.pid}
        for child in children(self._server.pid):
            found["worker" if has_event_loop(child) else "steward"] = child
        if len(found) != 3:
            raise BenchError(f"expected one worker and one steward, found {found}")
        return found

    def _await_health(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._server.check()
            try:
                if self._get("/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise BenchError(f"the gateway is not healthy:\n{self._server.tail()}")

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

    def await_steward(self, seconds: float = 5.0) -> bool:
        """Waits until the steward has read the events; False if it is still behind after that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lag = _LAG.search(self._metrics())
            if lag is not None and float(lag[1]) == 0:
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """Ends the gateway with all its processes."""
        self._server.stop()
