"""``/metrics``: this worker's own figures in Prometheus' text form."""

from __future__ import annotations

import time

from bifrost._fast.timing import Timing
from bifrost.core import Core

QUANTILES = (0.5, 0.9, 0.99, 0.999)


def exposition(core: Core, calls: int) -> str:
    """The metrics page of one worker; times in seconds."""
    gate = core.gate
    lines = ["# TYPE bifrost_calls_in_flight gauge", f"bifrost_calls_in_flight {calls}"]
    for name, timing, text in (
        ("gate", gate.gating, "The two transactions of a request: admit and settle."),
        ("admit", gate.admitting, "Identify, route, price and reserve, per request."),
        ("settle", gate.settling, "Meter, price and settle, per request."),
        ("governance", gate.governing, "Admit and settle together, per request."),
    ):
        lines += _summary(f"bifrost_{name}_seconds", timing, text)
    lines += [
        "# TYPE bifrost_steward_lag_seconds gauge",
        f"bifrost_steward_lag_seconds {core.lag_ns(time.time_ns()) / 1e9:.3f}",
    ]
    return "\n".join(lines) + "\n"


def _summary(name: str, timing: Timing, text: str) -> list[str]:
    quantiles = [f'{name}{{quantile="{q}"}} {timing.quantile(q) / 1e9:.9f}' for q in QUANTILES]
    return [
        f"# HELP {name} {text}",
        f"# TYPE {name} summary",
        *quantiles,
        f"{name}_sum {timing.total_ns / 1e9:.9f}",
        f"{name}_count {timing.count}",
    ]
