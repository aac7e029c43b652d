"""``python -m benchmarks``: runs the benchmark, prints its tables, writes its results."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from benchmarks import machine
from benchmarks.measures import Measures
from benchmarks.peers import roster
from benchmarks.processes import ROOT, BenchError
from benchmarks.report import write
from benchmarks.result import Report, summarise
from benchmarks.stage import ASKED, MEASURES, Options, Sample, Stage
from benchmarks.tables import markdown

RESULTS = ROOT / "benchmarks" / "results"
LONG = ("crowd", "heavy")  # not in a quick run
RUNS = 120  # of one repeat, at most; used for the time limit only


def options(arguments: Sequence[str] | None = None) -> tuple[Options, Path | None]:
    """The options of a command line, and where results go (None: nowhere)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, rough figures")
    parser.add_argument("--seconds", type=float, help="of one run (2; quick: 1)")
    parser.add_argument("--repeats", type=int, help="of everything (3; quick: 1)")
    parser.add_argument("--only", choices=(*MEASURES, *ASKED), action="append",
                        help="may be repeated; soak runs only when it is asked for")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=20.0, help="of a soak (20)")
    parser.add_argument(
        "--out", type=Path,
        help="folder for the results; a full run writes to benchmarks/results by itself",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    usual = (1.0, 1) if asked.quick else (2.0, 3)
    seconds = usual[0] if asked.seconds is None else asked.seconds
    repeats = usual[1] if asked.repeats is None else asked.repeats
    if not 0.1 <= asked.minutes <= 100_000:
        parser.error("--minutes must be 0.1 to 100000")
    if not 0.1 <= seconds <= 600 or not 1 <= repeats <= 100:
        parser.error("--seconds must be 0.1 to 600 and --repeats 1 to 100")
    full = not asked.quick and not asked.only
    chosen = MEASURES if not asked.only else tuple(dict.fromkeys(asked.only))
    if asked.quick and not asked.only:
        chosen = tuple(name for name in MEASURES if name not in LONG)
    found = Options(seconds=seconds, repeats=repeats, quick=asked.quick, measures=chosen,
                    minutes=asked.minutes)  # fmt: skip
    return found, asked.out or (RESULTS if full else None)


def run(wanted: Options) -> Report:
    """Takes all samples; everything started is ended when this returns or raises."""
    started = datetime.now(UTC)
    began, before, stolen = time.monotonic(), machine.load_average(), machine.stolen_seconds()
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as name:
        folder = Path(name)
        with Stage(folder, wanted) as stage:
            absent = [*roster.absent(), *([] if stage.load.wrk else ["wrk"])]
            for missing in absent:
                say(f"WARNING: {missing} is not installed; it is not in these figures")
            for sample in Measures(stage, say).samples():
                samples.append(sample)
            facts = machine.facts(stage.cores, stage.load.wrk, folder)
    return Report(
        started=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        options=wanted,
        machine=facts,
        load_average=(before, machine.load_average()),
        stolen_seconds=machine.stolen_seconds() - stolen,
        absent=tuple(absent),
        errors=tuple(stage.errors),
        summary=summarise(samples),
        samples=tuple(samples),
    )


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def _too_long(_: int, __: FrameType | None) -> None:
    raise BenchError("the run took far longer than planned and was ended")


def _terminated(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 when a run had errors, 130 when interrupted."""
    wanted, out = options(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell may have SIGINT ignored
        signal.signal(number, _terminated)
    signal.signal(signal.SIGALRM, _too_long)
    length = 2 * RUNS * wanted.repeats * (wanted.seconds + 1)
    if "soak" in wanted.measures:
        length += 2 * 60 * wanted.minutes
    signal.alarm(round(300 + length))
    try:
        report = run(wanted)
    except KeyboardInterrupt:
        say("interrupted; everything is ended, nothing is written")
        return 130
    except BenchError as error:
        say(f"the benchmark failed: {error}")
        return 1
    finally:
        signal.alarm(0)
    print(markdown(report), end="")
    if out is not None:
        say(f"written: {write(report, out)} and latest.md")
    for text in report.errors:
        say(f"ERROR: {text}")
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
