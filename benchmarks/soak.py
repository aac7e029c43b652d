"""A gateway under moderate load for a long time: does its memory stay where it is?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from benchmarks.cases import cases
from benchmarks.processes import resident_bytes
from benchmarks.stage import Sample, Stage

RATE = 500  # requests/s
ROUND_S = 10.0  # of one kind of request, then it is the next one's turn

Series = list[tuple[float, float]]


def soak(stage: Stage, minutes: float) -> Iterator[Sample]:
    """One sample for each process of the gateway: its memory over time."""
    gateway = stage.fresh_gateway("soak")
    series: dict[str, Series] = {name: [] for name in gateway.target.pids}
    began, requests, kinds = time.monotonic(), 0.0, cases()
    length = min(ROUND_S, minutes * 60 / 10)
    try:
        while time.monotonic() - began < minutes * 60:
            values, _ = stage.generated(gateway.target, kinds[0], RATE, length)
            requests += values["requests"]
            kinds.append(kinds.pop(0))
            for name, pid in gateway.target.pids.items():
                series[name].append((time.monotonic() - began, resident_bytes(pid) / 1e6))
    finally:
        gateway.stop()
    for name, points in series.items():
        values = {"minutes": (time.monotonic() - began) / 60, "requests": requests}
        yield Sample(
            measure="soak", case="all", target=name, repeat=0, rate=RATE,
            values={**values, **growth(points)}, series=tuple(points),
        )  # fmt: skip


def growth(points: Series) -> dict[str, float]:
    """Memory at first and in the end, and how much of it was added in the second half.

    Each is the median of a tenth of the points, so that one garbage collection decides nothing.
    """
    tenth = max(1, len(points) // 10)
    sizes = [size for _, size in points]
    middle = len(sizes) // 2
    first, last = median(sizes[:tenth]), median(sizes[-tenth:])
    half = median(sizes[middle : middle + tenth])
    return {"first_mb": first, "last_mb": last, "growth_share": last / half - 1}
