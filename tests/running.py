"""Real processes for the tests: a gateway and a mock provider, each started by its own command."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from bifrost._fast.gate import Gate
from bifrost.cli.store import budgets_shown
from bifrost.core import stores
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Kind
from tests.commands import until

START_S = 30.0
LISTENER = os.environ.get("BIFROST_TEST_LISTENER", "native")  # of every gateway of a test run
PAYERS = ("keys:alice-dev", "users:alice", "teams:core", "customers:acme")  # of the example
BIFROST = [sys.executable, "-W", "error", "-m", "bifrost"]


def environment() -> dict[str, str]:
    """The tests' own environment without anything that configures a gateway or a client."""
    drop = ("ANTHROPIC_", "BIFROST_", "CLAUDE_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    return clean | {"BIFROST_LISTENER": LISTENER}


class Process:
    """A started command whose standard output is read until a line says it is ready."""

    def __init__(self, arguments: Sequence[str], ready: str, log: Path) -> None:
        self.log = log
        self._errors = log.open("wb")
        self.process = subprocess.Popen(
            [*BIFROST, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            cwd=log.parent,
        )
        self.output = ""
        self.match = self._await(re.compile(ready))

    def _await(self, ready: re.Pattern[str]) -> re.Match[str]:
        deadline = time.monotonic() + START_S
        assert self.process.stdout is not None
        while time.monotonic() < deadline:
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                read = os.read(self.process.stdout.fileno(), 65536)
                self.output += read.decode()
                if found := ready.search(self.output):
                    return found
                if not read:
                    break
        self.stop()
        raise AssertionError(f"did not start:\n{self.output}\n{self.log.read_text()}")

    def more(self, wait_s: float = 0.2) -> str:
        """Everything printed so far."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], wait_s)[0]:
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                break
            self.output += read.decode()
        return self.output

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the process and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()
        return self.process.returncode


class RunningMock(Process):
    """``bifrost mock`` on a free port."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(
            ["mock", "--record", *options], r"(http://127\.0\.0\.1:\d+)", folder / "mock.log"
        )
        self.url = self.match[1]

    def account(self) -> dict[str, Any]:
        """What the mock says it served."""
        found: dict[str, Any] = httpx.get(f"{self.url}/__mock/account").json()
        return found

    def requests(self, last: int = 1) -> list[dict[str, Any]]:
        """The last requests the mock saw."""
        found: Any = httpx.get(f"{self.url}/__mock/requests", params={"last": last}).json()
        return list(found["requests"] if isinstance(found, dict) else found)

    def bills(self) -> dict[str, list[tuple[str, dict[str, int]]]]:
        """How each request ended and what it was billed, as usage, by the id it came with."""
        found = httpx.get(f"{self.url}/__mock/bills", params={"last": 1 << 20}, timeout=30).json()
        bills: dict[str, list[tuple[str, dict[str, int]]]] = {}
        for one in found["bills"]:
            bills.setdefault(one["request_id"], []).append(
                (one["outcome"], anthropic_usage(one["usage"]))
            )
        return bills

    def reset(self) -> None:
        """Forgets what was served."""
        httpx.post(f"{self.url}/__mock/reset")


def anthropic_usage(billed: dict[str, int]) -> dict[str, int]:
    """A usage of the mock's account in Anthropic's names."""
    return {
        "input_tokens": billed["input"],
        "cache_creation_input_tokens": billed["cache_5m"] + billed["cache_1h"],
        "cache_read_input_tokens": billed["cache_read"],
        "output_tokens": billed["output"],
    }


def budget(limit: str, window: str = "1M") -> list[dict[str, Any]]:
    """One budget of a configuration."""
    return [{"max_limit": limit, "reset_duration": window}]


def configuration(upstream: str, **key: Any) -> dict[str, Any]:
    """Customer, team, user and key of the contract's example before one provider."""
    return {
        "providers": {
            "anthropic": {
                "type": "anthropic",
                "keys": [{"name": "main", "value": "sk-ant-upstream-secret"}],
                "network": {"base_url": upstream},
            }
        },
        "governance": {
            "customers": [{"name": "acme", "budgets": budget("5000")}],
            "teams": [{"name": "core", "customer": "acme", "budgets": budget("500")}],
            "users": [{"name": "alice", "team": "core", "budgets": budget("100")}],
            "virtual_keys": [
                {
                    "name": "alice-dev",
                    "user": "alice",
                    "value": KEY,
                    "budgets": budget("75"),
                    **key,
                }
            ],
        },
    }


KEY = "sk-bf-alice-dev-0123456789abcdefghijklmnopqrstuv"


class RunningGateway(Process):
    """``bifrost serve`` on a free port with a configuration."""

    def __init__(self, folder: Path, config: dict[str, Any], *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._open = ExitStack()
        self._stores: tuple[Directory, Gate] | None = None
        self.data_dir = folder / "data"
        self.config = folder / "bifrost.json"
        self.config.write_text(json.dumps(config))
        super().__init__(
            ["serve", "--config", str(self.config), "--data-dir", str(self.data_dir),
             "--port", "0", *options],
            r"listens on (http://127\.0\.0\.1:\d+)",
            folder / "gateway.log",
        )  # fmt: skip
        self.url = self.match[1]
        self._await_ready()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"not healthy:\n{self.log.read_text()}")

    def command(self, *arguments: str) -> Any:
        """A command on this gateway's data directory, its JSON answer."""
        done = subprocess.run(
            [*BIFROST, *arguments, "--data-dir", str(self.data_dir), "--json"],
            capture_output=True, text=True, timeout=30, env=environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stores(self) -> tuple[Directory, Gate]:
        """The gateway's own stores, opened once in this process until ``stop``."""
        if self._stores is None:
            self._stores = self._open.enter_context(stores(self.data_dir))
        return self._stores

    def spent(self) -> dict[str, tuple[str, str]]:
        """(spent, reserved) USD of the key, its user, team and customer, from the shared store."""
        kinds: dict[str, Kind] = {
            "keys": "virtual_key", "users": "user", "teams": "team", "customers": "customer"
        }  # fmt: skip
        directory, gate = self.stores()
        return {
            f"{group}:{entity.name}": (one["current_usage"], one["reserved"])
            for group, kind in kinds.items()
            for entity in directory.all(kind)
            for one in budgets_shown(entity.budgets, gate)
        }

    def settled(self) -> Decimal:
        """USD spent by each of ``PAYERS`` alike, once nothing is reserved."""
        until(lambda: {reserved for _, reserved in self.spent().values()} == {"0"})
        found = self.spent()
        [spent] = {Decimal(found[who][0]) for who in PAYERS}
        return spent

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Closes the stores here, then ends the gateway."""
        self._open.close()
        self._stores = None
        return super().stop(number)


def message(**changes: Any) -> dict[str, Any]:
    """A small Messages request."""
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "Hello"}],
        **changes,
    }


def bearer(key: str = KEY) -> dict[str, str]:
    """The headers of a client with a virtual key."""
    return {
        "authorization": f"Bearer {key}",
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
    }
