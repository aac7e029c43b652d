"""The result as Markdown tables, with what is needed to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.cases import cases
from benchmarks.result import Report, Summary

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
    "× envoy": show("x_envoy_cpu", 2),
    "user": lambda row: show("user_us")(row).split(" ")[0],
    "system": lambda row: show("system_us")(row).split(" ")[0],
    "requests/s": show("done_rps", 0),
    "core used %": show("busy_share", 0, 100),
    "waited for core %": show("waited_share", 0, 100),
    "p50 ms": show("p50_us", 2, 1e-3),
    "p90 ms": show("p90_us", 2, 1e-3),
    "p99 ms": show("p99_us", 2, 1e-3),
    "p99.9 ms": show("p999_us", 2, 1e-3),
    "added p50 ms": show("added_p50_us", 2, 1e-3),
    "added p99 ms": show("added_p99_us", 2, 1e-3),
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
    **{
        f"added {rank} µs": on_time(f"added_{name}_us")
        for rank, name in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p999"))
    },
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


SINGLE: dict[str, Cell] = {
    **CASE,
    "p50 µs": show("p50_us", 0),
    "p99 µs": show("p99_us", 0),
    "added p50 µs": show("added_p50_us", 0),
    "added p99 µs": show("added_p99_us", 0),
    "requests/s": show("done_rps", 0),
    "CPU µs/request": show("cpu_us"),
}
START: dict[str, Cell] = {
    "target": lambda row: row.target,
    "start to first answer ms": show("start_ms", 0),
}
WORKERS: dict[str, Cell] = {
    **CASE,
    "rate/s": rate,
    "CPU µs/request, all workers": show("each_cpu_us"),
    "of it the second's %": show("second_share", 0, 100),
    "requests/s": show("done_rps", 0),
    "first's core used %": show("busy_share", 0, 100),
    "first waited for core %": show("waited_share", 0, 100),
}
IDLE: dict[str, Cell] = {
    "process": lambda row: row.target,
    "RSS MB": show("resident_mb", 1),
    "CPU %": show("busy_share", 2, 100),
}
CROWD: dict[str, Cell] = {
    "target": lambda row: row.target,
    "streams": show("streams", 0),
    "whole": show("whole", 0),
    "events lost": show("lost", 0),
    "events/s": show("events_rps", 0),
    "CPU µs/event": show("event_us", 2),
    "× nginx": show("x_event", 2),
    "core used %": show("busy_share", 0, 100),
    "memory kB/stream": show("stream_kb", 1),
    "RSS MB": show("resident_mb", 0),
    "event p50 ms": show("chunk_p50_us", 2, 1e-3),
    "event p99 ms": show("chunk_p99_us", 2, 1e-3),
    "added p50 ms": show("added_chunk_p50_us", 2, 1e-3),
    "added p99 ms": show("added_chunk_p99_us", 2, 1e-3),
}
SOAK: dict[str, Cell] = {
    "process": lambda row: row.target,
    "minutes": show("minutes", 1),
    "requests": show("requests", 0),
    "RSS MB at first": show("first_mb", 1),
    "in the end": show("last_mb", 1),
    "growth in the second half %": show("growth_share", 2, 100),
}


class Section(NamedTuple):
    """One table: whose rows, what a reader needs to know, which columns."""

    measure: str
    title: str
    columns: dict[str, Cell]


def markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The tables of a run with what is needed to read them; ``pictures`` are file names."""
    parts = ["# Benchmark", _head(report)]
    order = [case.name for case in cases()]
    for section in SECTIONS:
        rows = [row for row in report.summary if row.measure == section.measure]
        if section.measure == "closed":  # slow peers were measured last
            rows.sort(key=lambda row: order.index(row.case) if row.case in order else 0)
        if rows:
            parts += [section.title, table(rows, section.columns)]
    parts += [
        f"The generator and the provider alone, sharing the load core: "
        f"{row.values['done_rps'].median:,.0f} requests/s of {row.case}."
        for row in report.summary
        if row.measure == "generator"
    ]
    parts += [f"![the figures of this run]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    facts = report.machine
    lines = [
        f"- {report.started}, commit {facts['commit']}, {report.seconds:.0f} s; "
        f"{report.options.repeats} repeats of {report.options.seconds:g} s, interleaved; "
        "median (least–most)",
        f"- {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['python']}, "
        f"uvloop {_version(facts, 'uvloop')}, wrk {facts['wrk']}; "
        f"store on {facts['store']}",
        f"- {_peers(facts)}",
        f"- gateway worker or a peer alone on core {facts['proxy_core']}; load, provider, steward "
        f"and supervisor on core {facts['load_core']}",
        f"- load average {report.load_average[0]:.1f} before, {report.load_average[1]:.1f} after; "
        f"{report.stolen_seconds:.1f} s of CPU stolen by the host",
    ]
    if facts["proxy_core"] == facts["load_core"]:
        lines.append("- **only one core: proxy and load share it, the figures mean little**")
    lines += [f"- **{name} is not installed: not measured**" for name in report.absent]
    lines += [f"- **error: {error}**" for error in report.errors]
    return "\n".join(lines)


def _peers(facts: dict[str, object]) -> str:
    """The versions of what was compared with."""
    peers = facts["peers"]
    found = peers.items() if isinstance(peers, dict) else ()
    return "peers: " + ", ".join(f"{name} {version or 'absent'}" for name, version in found)


def _version(facts: dict[str, object], name: str) -> object:
    packages = facts["packages"]
    return packages.get(name) if isinstance(packages, dict) else None


SECTIONS = (
    Section(
        "governance",
        """## Governance inside the running gateway

Admit and settle as the worker times them (`/metrics`), from its start, coldest requests included,
while the open loop sends json-1k. "Gate" is the store's two transactions in them.""",
        TIMING,
    ),
    Section(
        "closed",
        """## CPU per request and requests/s at saturation

Closed loop. CPU is the worker's; the steward's and the supervisor's are beside it. Where "core
used" is far below 100 %, the load core was the limit: requests/s is then not the target's, and its
CPU per request is higher than it would be under full load. "Waited" is other programs' doing.
"Added" over direct is what waits in line at saturation. LiteLLM and Portkey are before the mock
provider and ran after the others, one by one; neither has keys or budgets here.""",
        CLOSED,
    ),
    Section(
        "single",
        """## One connection

One request after another. "Added" is the difference to direct in the same repeat.""",
        SINGLE,
    ),
    Section(
        "open",
        """## Latency on a fixed timetable

Open loop over 64 connections; time counts from when a request was due. "Added" is the difference
of the quantiles to direct in the same repeat. "Late" is the generator's own lateness.""",
        OPEN,
    ),
    Section(
        "stream",
        """## Streams

50 events, 1 ms apart, closed loop, mock provider. CPU per event: the difference to 2 events, by
48.""",
        STREAM,
    ),
    Section(
        "first",
        """## First byte of a stream

200 streams/s on a timetable, 50 events, 1 ms apart; from due to the first byte of the body.""",
        FIRST,
    ),
    Section(
        "crowd",
        """## Many streams at the same time

20 events/s in each, all open together. CPU per event has the opening and the settling in it; memory
is the growth of the worker's RSS, by the number of streams. An event's time is from the provider's
writing to the client's reading, of the 2 % of streams that are read at once.""",
        CROWD,
    ),
    Section(
        "workers",
        """## Two workers

Open loop with 3,000 requests/s for each worker: one on the proxy core, then two over the same data,
the second on the load core beside generator and provider. Connections go to whichever worker takes
them: runs in which one took nearly all are not in these figures.""",
        WORKERS,
    ),
    Section("idle", "## At rest\n\nOne request was answered, then none for seconds.", IDLE),
    Section(
        "start",
        "## Start\n\nFrom the command to the first answer; ours on a fresh data directory.",
        START,
    ),
    Section(
        "soak",
        """## Soak

RSS by process; first and end are medians of a tenth of the time each, growth is from the middle
tenth to the last. The steward's database cache fills during the first 180,000 requests.""",
        SOAK,
    ),
)
