"""The README's figures, written from a result: ``python -m benchmarks.readme RESULT.json``.

The README names the result between two marks; a test compares what stands there with that file.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.report import read
from benchmarks.result import Figure, Report

README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- figures: (\S+) -->\n(.*?)<!-- end of figures -->\n", re.S)
TARGETS = ("bifrost", "nginx", "haproxy", "envoy", "portkey", "litellm")
HEADS = ("Bifrost, governed", "nginx", "haproxy", "Envoy", "Portkey", "LiteLLM")
ROWS = (
    ("CPU per request, 1 kB JSON", "closed", "json-1k", 0, "cpu_us", "µs"),
    ("CPU per request, 50 kB JSON", "closed", "json-50k", 0, "cpu_us", "µs"),
    ("CPU per request, SSE, 1 kB", "closed", "sse-1k", 0, "cpu_us", "µs"),
    ("CPU per request, SSE, 50 kB", "closed", "sse-50k", 0, "cpu_us", "µs"),
    ("… of the steward, beside it, 1 kB", "closed", "json-1k", 0, "steward_us", "µs"),
    ("requests/s on one core, 1 kB JSON", "closed", "json-1k", 0, "done_rps", ""),
    ("added p50, one connection", "single", "json-1k", 0, "added_p50_us", "µs"),
    ("added p50 at 5,000 requests/s", "open", "json-1k", 5000, "added_p50_us", "µs"),
    ("added p99 at 5,000 requests/s", "open", "json-1k", 5000, "added_p99_us", "µs"),
    ("added p50, first byte of SSE", "first", "sse-50-events", 200, "added_first_p50_us", "µs"),
    ("memory of the worker", "closed", "json-1k", 0, "resident_mb", "MB"),
    ("start to first answer", "start", "json-1k", 0, "start_ms", "ms"),
)  # fmt: skip


def figure(report: Report, place: tuple[str, str, int], target: str, name: str) -> Figure | None:
    """One figure of a report, None where it was not measured, its timetable never kept, or answers
    were not what was asked for."""
    if any(error.startswith(f"{target} {place[1]}: ") for error in report.errors):
        return None
    for row in report.summary:
        if (row.measure, row.case, row.rate, row.target) == (*place, target) and row.reached:
            return row.values.get(name)
    return None


def block(report: Report) -> str:
    """The table and the sentences beneath it."""
    lines = ["| | " + " | ".join(HEADS) + " |", "|---|" + "--:|" * len(HEADS)]
    for label, measure, case, rate, name, unit in ROWS:
        found = [figure(report, (measure, case, rate), target, name) for target in TARGETS]
        cells = ["–" if one is None else f"{one.median:,.0f} {unit}".strip() for one in found]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    said = [textwrap.fill(text, 100) for text in _sentences(report)]
    return "\n".join([*lines, "", *said]) + "\n"


def _sentences(report: Report) -> list[str]:
    ratios = []
    for name, case in (("1 kB", "json-1k"), ("50 kB", "json-50k"), ("SSE", "sse-1k")):
        of_nginx = figure(report, ("closed", case, 0), "bifrost", "x_cpu")
        of_envoy = figure(report, ("closed", case, 0), "bifrost", "x_envoy_cpu")
        if of_nginx is not None and of_envoy is not None:
            ratios.append(f"{name} {_range(of_nginx)} and {_range(of_envoy)}")
    said = [f"CPU as a multiple of nginx's and of Envoy's, least–most of the repeats: "
            f"{'; '.join(ratios)}."] if ratios else []  # fmt: skip
    rates = [row.rate for row in report.summary if row.measure == "governance" and row.reached]
    rate = max(rates, default=0)
    place = ("governance", "json-1k", rate)
    half, tail = (
        figure(report, place, "bifrost", f"governance_{rank}_us") for rank in ("p50", "p99")
    )
    if half is not None and tail is not None:
        said.append(
            f"At {rate:,} requests/s all that governance does for a request at four levels (key, "
            "allowlist, bound, reservation, price, settlement, event) takes "
            f"{half.median:.1f} µs at the median and {tail.median:.1f} µs at p99, timed inside "
            "the running gateway."
        )
    place = ("crowd", "sse-50-events", 0)
    streams, lost, size = (
        figure(report, place, "bifrost", name) for name in ("streams", "lost", "stream_kb")
    )
    if streams is not None and lost is not None and size is not None:
        said.append(
            f"{streams.median:,.0f} streams at the same time with 20 events/s each: "
            f"{lost.median:,.0f} events lost, {size.median:.0f} kB of memory per stream."
        )
    return said


def _range(found: Figure) -> str:
    return f"{found.median:.2f} ({found.least:.2f}–{found.most:.2f})"


def main() -> None:
    """Replaces what stands between the marks."""
    path = Path(sys.argv[1]).resolve()
    text = BLOCK.sub(
        lambda _: (
            f"<!-- figures: {path.relative_to(ROOT)} -->\n{block(read(path))}"
            "<!-- end of figures -->\n"
        ),
        README.read_text(),
    )
    README.write_text(text)


if __name__ == "__main__":
    main()
