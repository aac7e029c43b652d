"""The result: samples summed up as medians with their range, as JSON and as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.stage import Options, Sample


class Figure(msgspec.Struct, frozen=True):
    """One figure over the repeats."""

    median: float
    least: float
    most: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One row: every figure of a measure, case, rate and target.

    ``reached`` counts the repeats that kept their timetable; the figures are theirs alone if there
    are any.
    """

    measure: str
    case: str
    rate: int
    target: str
    repeats: int
    reached: int
    values: dict[str, Figure]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, as it is written to ``results/<date>.json``."""

    format: int = 1
    started: str
    seconds: float
    options: Options
    machine: dict[str, object]
    load_average: tuple[float, float]
    stolen_seconds: float
    absent: tuple[str, ...]
    errors: tuple[str, ...]
    summary: tuple[Summary, ...]
    samples: tuple[Sample, ...]


def summarise(samples: list[Sample]) -> tuple[Summary, ...]:
    """Rows in the order in which they were first measured."""
    groups: dict[tuple[str, str, int, str], list[Sample]] = {}
    for sample in samples:
        key = (sample.measure, sample.case, sample.rate, sample.target)
        groups.setdefault(key, []).append(sample)
    return tuple(_summary(*key, group) for key, group in groups.items())


def _summary(measure: str, case: str, rate: int, target: str, group: list[Sample]) -> Summary:
    kept = [sample for sample in group if sample.reached]
    used = kept or group
    return Summary(
        measure=measure,
        case=case,
        rate=rate,
        target=target,
        repeats=len(group),
        reached=len(kept),
        values={
            name: _figure([sample.values[name] for sample in used if name in sample.values])
            for name in sorted({name for sample in used for name in sample.values})
        },
    )


def _figure(values: list[float]) -> Figure:
    return Figure(median(values), min(values), max(values))


def write(report: Report, folder: Path) -> Path:
    """Writes ``<date>.json`` and ``latest.md`` into ``folder``; returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromisoformat(report.started).astimezone(UTC)
    path = folder / f"{moment:%Y-%m-%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (folder / "latest.md").write_text(markdown(report))
    return path


# -- Markdown ------------------------------------------------------------------------------

Cell = Callable[[Summary], str]


def show(name: str, digits: int = 1, scale: float = 1.0) -> Cell:
    """A cell: median and, if there are several repeats, (least–most); – where not measured."""

    def cell(row: Summary) -> str:
        figure = row.values.get(name)
        if figure is None:
            return "–"
        text = f"{figure.median * scale:,.{digits}f}"
        if figure.least != figure.most:
            text += f" ({figure.least * scale:,.{digits}f}–{figure.most * scale:,.{digits}f})"
        return text

    return cell


def rate(row: Summary) -> str:
    """The timetable's rate, and how often it was kept if that was not always."""
    if row.reached == row.repeats:
        return f"{row.rate:,}"
    kept = f"{row.reached} of {row.repeats}" if row.reached else "not"
    return f"{row.rate:,} ({kept} reached)"


def on_time(name: str, digits: int = 0) -> Cell:
    """As ``show``, but for a timetable that was kept at least once; latencies else say nothing."""

    def cell(row: Summary) -> str:
        return show(name, digits)(row) if row.reached else "–"

    return cell


def table(rows: list[Summary], columns: dict[str, Cell]) -> str:
    """A Markdown table, text to the left and figures to the right."""
    lines = ["| " + " | ".join(columns) + " |"]
    marks = ["---" if head in ("request", "target") else "--:" for head in columns]
    lines.append("|" + "|".join(marks) + "|")
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


CASE: dict[str, Cell] = {"request": lambda row: row.case, "target": lambda row: row.target}
CLOSED: dict[str, Cell] = {
    **CASE,
    "CPU µs/request": show("cpu_us"),
    "× nginx": show("x_cpu", 2),
    "user": lambda row: show("user_us")(row).split(" ")[0],
    "system": lambda row: show("system_us")(row).split(" ")[0],
    "requests/s": show("done_rps", 0),
    "core used %": show("busy_share", 0, 100),
    "waited for core %": show("waited_share", 0, 100),
    "p50 ms": show("p50_us", 2, 1e-3),
    "p99 ms": show("p99_us", 2, 1e-3),
    "steward µs": show("steward_us"),
    "supervisor µs": show("supervisor_us"),
    "RSS MB": show("resident_mb", 0),
}
OPEN: dict[str, Cell] = {
    "request": lambda row: row.case,
    "rate/s": rate,
    "target": lambda row: row.target,
    "done/s": show("done_rps", 0),
    "p50 µs": on_time("p50_us"),
    "p99 µs": on_time("p99_us"),
    "added p50 µs": on_time("added_p50_us"),
    "added p99 µs": on_time("added_p99_us"),
    "CPU µs/request": show("cpu_us"),
    "× nginx": show("x_cpu", 2),
    "late p50 µs": show("late_p50_us", 0),
    "late p99 µs": show("late_p99_us", 0),
}
STREAM: dict[str, Cell] = {
    **CASE,
    "CPU µs/stream": show("cpu_us"),
    "CPU µs/event": show("event_us", 2),
    "× nginx (stream)": show("x_cpu", 2),
    "× nginx (event)": show("x_event", 2),
    "streams/s": show("done_rps", 0),
    "core used %": show("busy_share", 0, 100),
}
FIRST: dict[str, Cell] = {
    **CASE,
    "first byte p50 µs": on_time("first_p50_us"),
    "first byte p99 µs": on_time("first_p99_us"),
    "added p50 µs": on_time("added_first_p50_us"),
    "added p99 µs": on_time("added_first_p99_us"),
}
TIMING: dict[str, Cell] = {
    "rate/s": rate,
    "timed": show("governance_count", 0),
    **{
        f"{name} {rank} µs": show(f"{name}_{rank}_us")
        for name in ("governance", "admit", "settle", "gate")
        for rank in ("p50", "p99")
    },
    "governance mean µs": show("governance_mean_us"),
    "CPU µs/request": show("cpu_us"),
}


def markdown(report: Report) -> str:
    """The tables of a run with what is needed to read them."""

    def rows(measure: str) -> list[Summary]:
        return [row for row in report.summary if row.measure == measure]

    parts = ["# Benchmark", _head(report)]
    for measure, title, columns in (
        ("governance", GOVERNANCE_TITLE, TIMING),
        ("closed", CLOSED_TITLE, CLOSED),
        ("open", OPEN_TITLE, OPEN),
        ("stream", STREAM_TITLE, STREAM),
        ("first", FIRST_TITLE, FIRST),
    ):
        if found := rows(measure):
            parts += [title, table(found, columns)]
    parts += [
        f"The generator and the mock alone, sharing the load core: "
        f"{row.values['done_rps'].median:,.0f} requests/s of {row.case}."
        for row in rows("generator")
    ]
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    facts = report.machine
    lines = [
        f"- {report.started}, commit {facts['commit']}, {report.seconds:.0f} s; "
        f"{report.options.repeats} repeats of {report.options.seconds:g} s, interleaved; "
        "median (least–most)",
        f"- {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['python']}, "
        f"uvloop {_version(facts, 'uvloop')}, nginx {facts['nginx']}, wrk {facts['wrk']}; "
        f"store on {facts['store']}",
        f"- gateway worker or nginx alone on core {facts['proxy_core']}; load, mock, steward and "
        f"supervisor on core {facts['load_core']}",
        f"- load average {report.load_average[0]:.1f} before, {report.load_average[1]:.1f} after; "
        f"{report.stolen_seconds:.1f} s of CPU stolen by the host",
    ]
    if facts["proxy_core"] == facts["load_core"]:
        lines.append("- **only one core: proxy and load share it, the figures mean little**")
    lines += [f"- **{name} is not installed: not measured**" for name in report.absent]
    lines += [f"- **error: {error}**" for error in report.errors]
    return "\n".join(lines)


def _version(facts: dict[str, object], name: str) -> object:
    packages = facts["packages"]
    return packages.get(name) if isinstance(packages, dict) else None


GOVERNANCE_TITLE = """## Governance inside the running gateway

Admit and settle as the worker times them (`/metrics`), from its start, coldest requests included,
while the open loop sends json-1k. "Gate" is the store's two transactions in them."""
CLOSED_TITLE = """## CPU per request and requests/s at saturation

Closed loop. CPU is the worker's; the steward's and the supervisor's are beside it. Where "core
used" is far below 100 %, the load core was the limit: requests/s is then not the target's, and its
CPU per request is higher than it would be under full load. "Waited" is other programs' doing."""
OPEN_TITLE = """## Latency on a fixed timetable

Open loop over 64 connections; time counts from when a request was due. "Added" is the difference
of the quantiles to direct in the same repeat. "Late" is the generator's own lateness."""
STREAM_TITLE = """## Streams

50 events, 1 ms apart, closed loop. CPU per event: the difference to 2 events, by 48."""
FIRST_TITLE = """## First byte of a stream

200 streams/s on a timetable, 50 events, 1 ms apart; from due to the first byte of the body."""
