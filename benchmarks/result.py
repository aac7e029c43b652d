"""The result of a run: samples, and their medians and ranges over the repeats."""

from __future__ import annotations

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
