"""Whether the steward keeps up beside live traffic, what it costs, and whether requests notice.

    python -m benchmarks.steward [--rate 5000] [--seconds 60] [--rounds 6]

One worker serves that many requests a second (open loop) for so long; twice a second the steward's
lag is asked for. Its processor time is that of all it does: log, tree, signatures, usage view,
observers. Then rounds of five seconds with the steward at work and stopped (SIGSTOP) take turns; it
catches up between them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.cases import cases
from benchmarks.gateway import Gateway
from benchmarks.processes import Window
from benchmarks.stage import Options, Stage

ROUND_S = 5.0
EVERY_S = 0.5
CATCH_UP_S = 60.0
# The generator is late where it does not get its core in time: no server is to blame for that.
FIGURES = {"request p50": "p50_us", "request p99": "p99_us", "generator late p99": "late_p99_us"}


class Lags:
    """The steward's lag over time, in seconds, asked for by a thread."""

    def __init__(self, gateway: Gateway) -> None:
        self.seen: list[float] = []
        self._gateway = gateway
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Lags:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._done.wait(EVERY_S):
            self.seen.append(self._gateway.lag_s())


def lasting(stage: Stage, gateway: Gateway, rate: int, seconds: float) -> None:
    """The long run: lag, cost, latency."""
    window = Window({"steward": gateway.target.pids["steward"]})
    with Lags(gateway) as lags:
        values, reached = stage.generated(gateway.target, cases()[0], rate, seconds)
    wall, used = window.close()
    share = used["steward"].total / wall
    caught = gateway.await_steward(CATCH_UP_S)
    print(
        f"{values['requests']:,.0f} requests in {seconds:.0f} s"
        f"{'' if reached else ', TIMETABLE NOT KEPT'}: lag p50 {median(lags.seen):.3f} s, most "
        f"{max(lags.seen):.3f} s; steward {share:.1%} of a core, "
        f"{used['steward'].total / 1e3 / max(values['requests'], 1):.1f} us an event; request p99 "
        f"{values['p99_us'] / 1e3:.2f} ms; {'all in the log' if caught else 'NOT CAUGHT UP'}"
    )


def turns(stage: Stage, gateway: Gateway, rate: int, rounds: int) -> None:
    """Request latency with the steward at work and without."""
    steward = gateway.target.pids["steward"]
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for number in range(2 * rounds):
        works, before = number % 2 == 0, len(stage.errors)
        if not works:
            os.kill(steward, signal.SIGSTOP)
        try:
            values, reached = stage.generated(gateway.target, cases()[0], rate, ROUND_S)
        finally:
            os.kill(steward, signal.SIGCONT)
        if not works:
            del stage.errors[before:]  # that it is behind is meant so
        if reached:
            found[works].append(values)
        gateway.await_steward(CATCH_UP_S)
    for works, runs in found.items():
        for name, key in FIGURES.items():
            figures = sorted(run[key] / 1e3 for run in runs)
            if figures:
                print(
                    f"steward {'at work' if works else 'stopped'}: {name} {median(figures):.2f} ms "
                    f"({figures[0]:.2f}-{figures[-1]:.2f})"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    stolen, began = machine.stolen_seconds(), time.monotonic()
    options = Options(seconds=asked.seconds, repeats=1)
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        with Stage(Path(name), options) as stage:
            gateway = stage.fresh_gateway("steward")
            try:
                stage.generated(gateway.target, cases()[0], asked.rate, 2.0)  # warm
                lasting(stage, gateway, asked.rate, asked.seconds)
                turns(stage, gateway, asked.rate, asked.rounds)
            finally:
                gateway.stop()
            for error in stage.errors:
                print(f"ERROR: {error}", file=sys.stderr)
    lost, took = machine.stolen_seconds() - stolen, time.monotonic() - began
    print(f"{lost:.1f} s of {took:.0f} s were stolen by the host")
    return 1 if stage.errors else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
