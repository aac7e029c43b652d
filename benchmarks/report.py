"""The result: samples summed up as medians with their range, written as JSON, tables and plots.

``python -m benchmarks.report A.json B.json … --out DIR`` joins runs of different measures at the
same commit into one result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import plots, tables
from benchmarks.processes import BenchError
from benchmarks.result import Report, summarise


def join(reports: Sequence[Report]) -> Report:
    """One report of several runs; BenchError if they are not of the same commit and machine.

    Each run's figures keep their own peers and repeats: nothing is compared across runs.
    """
    first, last = reports[0], reports[-1]
    if len({(report.machine["commit"], report.machine["cpu"]) for report in reports}) > 1:
        raise BenchError("runs of different commits or machines are not one result")
    samples = [sample for report in reports for sample in report.samples]
    measures = tuple(dict.fromkeys(m for report in reports for m in report.options.measures))
    return msgspec.structs.replace(
        first,
        seconds=sum(report.seconds for report in reports),
        options=msgspec.structs.replace(first.options, measures=measures),
        load_average=(first.load_average[0], last.load_average[1]),
        stolen_seconds=sum(report.stolen_seconds for report in reports),
        absent=tuple(dict.fromkeys(name for report in reports for name in report.absent)),
        errors=tuple(error for report in reports for error in report.errors),
        summary=summarise(samples),
        samples=tuple(samples),
    )


def read(path: Path) -> Report:
    """A report that was written."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def write(report: Report, folder: Path) -> Path:
    """Writes ``<date>.json``, ``latest.md`` and the plots into ``folder``; the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromisoformat(report.started).astimezone(UTC)
    path = folder / f"{moment:%Y-%m-%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    drawn = plots.draw(report, folder)
    (folder / "latest.md").write_text(tables.markdown(report, drawn))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="JSON files of runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    asked = parser.parse_args(arguments)
    try:
        print(write(join([read(path) for path in asked.runs]), asked.out))
    except (BenchError, OSError, msgspec.DecodeError) as error:
        sys.exit(f"benchmarks: {error}")


if __name__ == "__main__":
    main()
