"""The result as pictures: CPU per request, added latency, requests/s, and memory over a soak."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import Report, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHERS = "#1f6feb", "#b9c2cc"
LINES = {"bifrost": OURS, "nginx": "#57606a", "haproxy": "#bf8700", "envoy": "#1a7f37"}
RANKS = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}
SMALLEST = 1.0  # µs, on a logarithmic axis


def draw(report: Report, folder: Path) -> list[str]:
    """Writes ``latest.svg`` and ``latest.png``; their names for the tables, SVG only.

    Without matplotlib, or when there is nothing to draw, nothing is written.
    """
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plots (pip install '.[bench]')", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [panel for panel in (_small, _large, _rates, _added, _soak) if panel(report, None)]
    if not panels:
        return []
    with matplotlib.rc_context({"svg.hashsalt": "bifrost", "font.size": 9}):
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        size = (5.2 * columns, 3.6 * rows)
        figure, axes = pyplot.subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained"
        )
        for place in axes.flat[len(panels) :]:
            place.set_visible(False)
        for panel, place in zip(panels, axes.flat, strict=False):
            panel(report, place)
        figure.suptitle(f"{report.started[:10]}, commit {report.machine['commit']}")
        figure.savefig(folder / "latest.svg", metadata={"Date": None})
        figure.savefig(folder / "latest.png", dpi=130)
        pyplot.close(figure)
    return ["latest.svg"]


Panel = Callable[[Report, "Axes | None"], bool]


def _rows(report: Report, measure: str, case: str, name: str) -> list[Summary]:
    """The rows of a case that have a figure, direct left out, smallest first."""
    rows = [
        row
        for row in report.summary
        if row.measure == measure and row.case == case and row.target != "direct"
        and row.reached and name in row.values
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.values[name].median)


def _bars(axes: Axes, rows: list[Summary], name: str, title: str) -> None:
    names = [row.target for row in rows]
    values = [row.values[name].median for row in rows]
    least = [row.values[name].median - row.values[name].least for row in rows]
    most = [row.values[name].most - row.values[name].median for row in rows]
    colours = [OURS if name == "bifrost" else OTHERS for name in names]
    bars = axes.barh(names, values, color=colours, xerr=[least, most], ecolor="#57606a")
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=6)
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.set_title(title)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _small(report: Report, axes: Axes | None) -> bool:
    return _cpu(report, axes, "json-1k", "CPU per request, 1 kB JSON (µs)")


def _large(report: Report, axes: Axes | None) -> bool:
    return _cpu(report, axes, "json-50k", "CPU per request of Claude Code, 50 kB (µs)")


def _cpu(report: Report, axes: Axes | None, case: str, title: str) -> bool:
    rows = _rows(report, "closed", case, "cpu_us")
    if axes is not None:
        _bars(axes, rows, "cpu_us", title)
        least, most = (rows[at].values["cpu_us"].median for at in (0, -1))
        if most > 20 * least:
            axes.set_xscale("log")
            axes.margins(x=0.4)
    return bool(rows)


def _rates(report: Report, axes: Axes | None) -> bool:
    rows = _rows(report, "closed", "json-1k", "done_rps")[::-1]
    if axes is not None:
        _bars(axes, rows, "done_rps", "requests/s on one core, 1 kB JSON")
    return bool(rows)


def _added(report: Report, axes: Axes | None) -> bool:
    """Added latency by quantile at the highest rate that anybody kept."""
    rows = [
        row for row in report.summary
        if row.measure == "open" and row.case == "json-1k" and row.reached
        and "added_p50_us" in row.values
    ]  # fmt: skip
    rate = max((row.rate for row in rows), default=0)
    if axes is not None:
        for row in rows:
            if row.rate == rate:
                found = {
                    shown: row.values[f"added_{name}_us"].median
                    for name, shown in RANKS.items()
                    if f"added_{name}_us" in row.values
                }
                ours = row.target == "bifrost"
                axes.plot(
                    list(found), [max(value, SMALLEST) for value in found.values()],
                    marker="o", label=row.target, linewidth=2.5 if ours else 1.2,
                    color=LINES.get(row.target),
                )  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(f"added latency at {rate:,} requests/s (µs)")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    return bool(rows)


def _soak(report: Report, axes: Axes | None) -> bool:
    samples = [sample for sample in report.samples if sample.measure == "soak" and sample.series]
    if axes is not None:
        for sample in samples:
            minutes = [at / 60 for at, _ in sample.series]
            axes.plot(minutes, [size for _, size in sample.series], label=sample.target)
        axes.set_ylim(0, 1.3 * max(size for sample in samples for _, size in sample.series))
        axes.set_title("memory over time (RSS MB, minutes)")
        axes.legend(frameon=False)
    return bool(samples)
