"""One mock provider, one gateway before it that is killed and restarted, and what both of them say.

What the gateway says is read from its log and its usage view, what the provider says from the
mock's bills, which name each request by the id it came with.
"""

from __future__ import annotations

import json
import os
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil

from bifrost._fast.density import Densities
from bifrost._fast.gate import Gate
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.governance.directory import Directory
from bifrost.usage.view import UsageView
from tests.commands import until
from tests.crashes import family_of
from tests.patrons import BYTES, PRICES, priced
from tests.running import RunningGateway, RunningMock, bearer, message

FIRST = "sk-bf-first-" + "0" * 40
WAIT_S = 90
Bill = tuple[str, dict[str, int]]


def configuration(upstream: str) -> dict[str, Any]:
    """A provider and one key; everybody else comes later."""
    return {
        "server": {"log_level": "warning", "shutdown_timeout_s": 20},
        "providers": {
            "anthropic": {
                "type": "anthropic",
                "keys": [{"name": "main", "value": "sk-ant-upstream-secret"}],
                "network": {"base_url": upstream},
            }
        },
        "governance": {"virtual_keys": [{"name": "first", "value": FIRST}]},
    }


class Premises:
    """The processes, and what became of every request so far, by its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mock = RunningMock(folder)
        self.booked: dict[str, list[events.ModelAccess]] = {}
        self.corrected: dict[str, int] = {}
        self.bills: dict[str, list[Bill]] = {}
        self._read = self._firsts = 0
        try:
            self.gateway = self._start()
        except BaseException:
            self.mock.stop()
            raise

    def _start(self) -> RunningGateway:
        return RunningGateway(self.folder / "g", configuration(self.mock.url), "--workers", "2")

    def stop(self) -> None:
        """Ends both."""
        self.gateway.stop()
        self.mock.stop()

    @property
    def stores(self) -> tuple[Directory, Gate]:
        """The gateway's own stores, as a command opens them."""
        return self.gateway.stores()

    def first(self) -> None:
        """Long streams of each model, until the gateway knows how much text a token stands for."""
        known = Densities(self.gateway.data_dir / "state" / "densities")
        for model in PRICES:
            density = known.find("anthropic", model)
            until(lambda model=model, density=density: self._stream(model) and density.output)
            assert density.output[0] == BYTES * density.output[1]

    def _stream(self, model: str) -> bool:
        self._firsts += 1
        steps = {"x-mock-chunks": "100", "x-request-id": f"first-{self._firsts}"}
        body = message(model=model, max_tokens=5000, stream=True)
        url = f"{self.gateway.url}/v1/messages"
        return httpx.post(url, headers=bearer(FIRST) | steps, json=body).status_code == 200

    # -- the end of processes ------------------------------------------------------------------

    def family(self) -> dict[str, list[psutil.Process]]:
        """The gateway's processes, once it has all of them."""
        return family_of(self.gateway.process.pid)

    def kill_all(self, family: dict[str, list[psutil.Process]]) -> None:
        """kill -9 of everything, the supervisor first so that nobody is replaced."""
        os.kill(self.gateway.process.pid, signal.SIGKILL)
        for child in (*family["worker"], *family["steward"]):
            child.kill()

    def terminate(self) -> None:
        """Tells the gateway to end once its requests have."""
        os.kill(self.gateway.process.pid, signal.SIGTERM)

    def again(self, family: dict[str, list[psutil.Process]]) -> None:
        """A new gateway on the same data, after the old one was told to end or killed."""
        self.gateway.process.wait(WAIT_S)
        self.gateway.stop()
        _, left = psutil.wait_procs([*family["worker"], *family["steward"]], WAIT_S)
        assert left == [], "processes outlive their supervisor"
        self.gateway = self._start()

    # -- rest ----------------------------------------------------------------------------------

    def rest(self) -> None:
        """Waits until nothing is under way anywhere and all of it is in the log and the view."""
        _, gate = self.stores
        until(lambda: not gate.reservations() and not gate.outbox(0, 1), WAIT_S)
        until(self._provider_rests, WAIT_S)
        self._read_log()
        self.bills = self.mock.bills()
        with_view(self.gateway.data_dir, lambda view: until(lambda: view.last() >= self._read))

    def _provider_rests(self) -> bool:
        time.sleep(0.03)
        done: int = self.mock.account()["total"]["requests"]
        last = self.mock.requests(1)
        return done == (last[-1]["n"] if last else 0)

    def _read_log(self) -> None:
        for index, raw in Reader(self.gateway.data_dir).read(self._read, 1_000_000):
            self._read = index + 1
            event = events.decode(raw)
            if isinstance(event, events.ModelAccess):
                self.booked.setdefault(event.request, []).append(event)
            elif isinstance(event, events.Reconciled):
                assert event.request not in self.corrected
                self.corrected[event.request] = event.cost

    # -- what they say -------------------------------------------------------------------------

    def cost(self, request: str) -> int:
        """Nano-USD that the gateway booked for a request, a correction included."""
        booked = sum(event.cost for event in self.booked.get(request, []))
        return booked + self.corrected.get(request, 0)

    def billed(self, request: str, model: str) -> int:
        """Nano-USD that the provider bills for it."""
        return sum(priced(model, usage) for _, usage in self.bills.get(request, []))

    def account(self) -> int:
        """Nano-USD of everything, by the sums of the mock's own account."""
        return sum(
            priced(row["model"], {
                "input_tokens": row[sums]["input_tokens"],
                "cache_creation_input_tokens": row[sums]["cache_5m_tokens"],
                "cache_read_input_tokens": row[sums]["cache_read_tokens"],
                "output_tokens": row[sums]["output_tokens"],
            })
            for row in self.mock.account()["models"]
            for sums in ("served", "cut_served")
        )  # fmt: skip

    def usage(self, by: str) -> dict[str, int]:
        """Nano-USD by key, user, team or customer, from the usage view."""
        found: dict[str, int] = {}

        def read(view: UsageView) -> None:
            for (name,), sums in view.totals((by,), 0, time.time_ns() + 10**9):
                found[name] = sums[5]

        with_view(self.gateway.data_dir, read)
        return found

    def reconcile(self, requests: dict[str, int]) -> None:
        """Books the true cost (nano-USD) of requests that were charged in full."""
        if not requests:
            return
        path = self.folder / "corrections.jsonl"
        lines = [
            {"request": request, "cost": f"{Decimal(cost) / 10**9:f}"}
            for request, cost in requests.items()
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        done = self.gateway.command("reconcile", "--file", str(path))
        assert {one["request"] for one in done["reconciled"]} == set(requests)


def with_view(data_dir: Path, read: Any) -> None:
    """Reads the usage view."""
    view = UsageView(data_dir, read_only=True)
    try:
        read(view)
    finally:
        view.close()
