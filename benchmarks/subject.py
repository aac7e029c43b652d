"""What the trials of money and access run against: our gateway before our mock, or any other.

A trial asks four things of a gateway: an address, a key, what the key has spent, and how to kill
and start it. Ours are known; another's are told on the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine
from benchmarks.processes import START_S, BenchError, Cores, Server

BIFROST = [sys.executable, "-m", "bifrost"]
MODEL = "claude-sonnet-4-5"
INPUT, OUTPUT = 375, 800  # tokens of every whole answer
NANO_IN, NANO_OUT = 3_000, 15_000  # nano-USD per token of the model
COST = INPUT * NANO_IN + OUTPUT * NANO_OUT  # $0.013125
PACE = ("--latency-ms", "300", "--chunks", "30", "--chunk-interval-ms", "100")
SIZES = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT))


def nano(usd: object) -> int:
    """USD as int nano-USD."""
    return int(Decimal(str(usd)) * 10**9)


def dollars(amount: int | None) -> str:
    """Nano-USD for a table."""
    return "–" if amount is None else f"${Decimal(amount) / 10**9:.6f}"


class Account:
    """The account of a mock provider: what was served, in full or until it was cut."""

    def __init__(self, url: str) -> None:
        self.url = url

    def read(self) -> dict[str, Any]:
        """The statement as it is now."""
        return _json(f"{self.url}/__mock/account")

    def requests(self, last: int = 1000) -> list[dict[str, Any]]:
        """The last requests, if the mock was started with ``--record``."""
        found: list[dict[str, Any]] = _json(f"{self.url}/__mock/requests?last={last}")["requests"]
        return found

    def billed(self) -> int:
        """Nano-USD of everything served so far."""
        total = self.read()["total"]
        return sum(
            total[part]["input_tokens"] * NANO_IN + total[part]["output_tokens"] * NANO_OUT
            for part in ("served", "cut_served")
        )


class Subject:
    """A gateway of somebody else: commands say what it spent and how it dies and comes back."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.url, self.account = asked.url.rstrip("/"), Account(asked.account_url.rstrip("/"))
        self._key, self._asked = asked.key, asked

    def key(self, budget: int | None) -> str:
        """The key to use; its budget is as whoever started this has set it."""
        return str(self._key)

    def spent(self, key: str) -> int | None:
        """Nano-USD that the gateway has booked for the key; None when nobody told how to ask."""
        if not self._asked.spent_command:
            return None
        return nano(
            subprocess.check_output(self._asked.spent_command, shell=True, text=True).strip()
        )

    def kill(self) -> bool:
        """Kills the gateway and starts it again; False when nobody told how."""
        if not self._asked.kill_command:
            return False
        subprocess.check_call(self._asked.kill_command, shell=True)
        return True

    def stop(self) -> None:
        """Nothing of it is ours."""


class Ours(Subject):
    """``bifrost serve`` before ``bifrost mock``, both of this installation, started here."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        mock: Sequence[str] = (*PACE, *SIZES),
        rate_limits: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.folder = folder
        self._number = 0
        self._mock = Server("mock", [*BIFROST, "mock", "--record", *mock], folder, None)
        self._gateway: Server | None = None
        try:
            self.account = Account(self._mock.await_output(r"(http://127\.0\.0\.1:\d+)"))
            config = folder / "bifrost.json"
            config.write_text(json.dumps(self._config(workers, rate_limits)))
            self._start()
        except BaseException:
            self.stop()
            raise

    def _config(self, workers: int, rate_limits: Sequence[dict[str, Any]]) -> dict[str, Any]:
        wide = {"budgets": [{"max_limit": "1000000", "reset_duration": "1Y"}]}
        key = {"name": "anthropic", "value": "sk-ant-not-a-real-key"}
        return {
            "server": {"workers": workers, "log_level": "warning", "shutdown_timeout_s": 1},
            "providers": {
                "anthropic": {
                    "type": "anthropic",
                    "keys": [key],
                    "network": {"base_url": self.account.url},
                }
            },
            "governance": {
                "customers": [{"name": "acme", **wide, "rate_limits": list(rate_limits)}],
                "teams": [{"name": "core", "customer": "acme", **wide}],
                "users": [{"name": "ann", "team": "core", **wide}],
            },
        }

    def _start(self) -> None:
        command = [*BIFROST, "serve", "--config", str(self.folder / "bifrost.json"), "--port", "0"]
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "gateway.log").unlink()
        self._gateway = Server(
            "gateway", [*command, "--data-dir", str(self.folder / "data")], self.folder, None
        )
        self.url = self._gateway.await_output(r"listens on (http://127\.0\.0\.1:\d+)")
        if self._number == 0:
            self._token = self._gateway.await_output(r"(bf-admin-\S+)")
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if _json(f"{self.url}/health"):
                    return
            time.sleep(0.02)
        raise BenchError(f"the gateway is not healthy:\n{self._gateway.tail()}")

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self._gateway is not None
        return self._gateway.pid

    @property
    def newest(self) -> str:
        """The name of the key that was made last."""
        return f"trial-{self._number}"

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """A request to the admin API; what it answers."""
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        return _json(f"{self.url}/api/governance/{path}", method, headers, body)

    def key(self, budget: int | None) -> str:
        """A fresh key with a budget in nano-USD, None for one that is never reached."""
        self._number += 1
        limit = "100000" if budget is None else f"{Decimal(budget) / 10**9:f}"
        made = self.admin("POST", "virtual-keys", {
            "name": self.newest, "user_id": "ann",
            "budgets": [{"max_limit": limit, "reset_duration": "1Y"}],
        })  # fmt: skip
        return str(made["value"])

    def spent(self, key: str) -> int:
        """Nano-USD that the newest key has spent, when nothing of it is held any more."""
        deadline = time.monotonic() + 10
        while True:
            [budget] = self.admin("GET", f"virtual-keys/{self.newest}")["budgets"]
            if nano(budget["reserved"]) == 0 or time.monotonic() > deadline:
                return nano(budget["current_usage"])
            time.sleep(0.05)

    def kill(self) -> bool:
        """kill -9 of every process of the gateway, then a start on the same data directory."""
        assert self._gateway is not None
        self._gateway.kill()
        self._start()
        return True

    def stop(self) -> None:
        """Ends both."""
        for server in (self._gateway, self._mock):
            if server is not None:
                server.stop()


def parser(name: str, what: str | None) -> argparse.ArgumentParser:
    """The options that all trials have."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=what)
    made.add_argument("--out", type=Path, help="folder for the JSON result")
    return made


@contextlib.contextmanager
def ours(**options: Any) -> Iterator[Ours]:
    """Our gateway and mock in a folder of their own, ended and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bifrost-trial-") as name:
        made = Ours(Path(name), **options)
        try:
            yield made
        finally:
            made.stop()


def report(name: str, result: object, out: Path | None) -> None:
    """Writes a result with the facts of this machine as JSON, if a folder was named."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "trial": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(Cores.allowed(), None, out),
        "load_average": machine.load_average(),
        "result": result,
    }
    path = out / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    print(f"written to {path}", file=sys.stderr)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], re.sub(r"[^|]+", "---", lines[0]), *lines[1:]])


def _json(
    url: str, method: str = "GET", headers: dict[str, str] | None = None, body: object = None
) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")
