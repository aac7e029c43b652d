"""Sums over any window of time and calendar, by any groups, from blocks and roll-ups."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bifrost._fast import columns
from bifrost.governance.windows import window
from bifrost.usage import blocks
from bifrost.usage.blocks import LAST_NS
from bifrost.usage.schema import PARTIES

GROUPS = ("team", "user", "key", "model", "customer", "provider")
INTERVALS = ("1h", "1d", "1w", "1M")
HOUR = 3_600_000_000_000
MOST_BUCKETS = 10_000

# One row per group: its values, then requests, input, cache read, cache write, output, cost.
Row = tuple[tuple[str, ...], tuple[int, int, int, int, int, int]]


class Bucket(NamedTuple):
    """One interval of a series, in ns, with the rows of its groups."""

    start: int
    end: int
    rows: list[Row]


def _checked(by: Sequence[str]) -> Sequence[str]:
    for group in by:
        if group not in GROUPS or by.count(group) > 1:
            raise ValueError(f"cannot group by {group!r}; valid, once: {', '.join(GROUPS)}")
    return by


class _Labels:
    """What rows of ``parties`` or ``targets`` are called: names in their order, and for each id the
    place of its name."""

    def __init__(self, db: sqlite3.Connection, table: str, groups: Sequence[str]) -> None:
        fields, joins = ["t.id"], []
        for group in groups:
            if group in PARTIES:
                joins.append(f"LEFT JOIN names n_{group} ON n_{group}.id = t.{group}")
                fields.append(f"COALESCE(n_{group}.name, NULLIF(t.{group}, ''), '-')")
            else:
                fields.append(f"COALESCE(NULLIF(t.{group}, ''), '-')")
        query = f"SELECT {', '.join(fields)} FROM {table} t {' '.join(joins)}"
        rows = db.execute(query).fetchall()
        self.names: list[tuple[str, ...]] = sorted({row[1:] for row in rows})
        places = {name: place for place, name in enumerate(self.names)}
        self.places = [0] * (max([row[0] for row in rows], default=0) + 1)
        for row in rows:
            self.places[row[0]] = places[row[1:]]


def _found(db: sqlite3.Connection, by: Sequence[str], bounds: list[int]) -> dict[int, list[Row]]:
    """Rows by interval, dearest first, then by the names of parties, then of targets."""
    of_party = [group for group in by if group in PARTIES]
    of_target = [group for group in by if group not in PARTIES]
    parties, targets = _Labels(db, "parties", of_party), _Labels(db, "targets", of_target)
    width = max(1, len(targets.names))
    # As three texts the numbers of all classes are here several times sooner than row by row.
    kinds, ones, others = (
        msgspec.json.decode(text, type=list[int])
        for text in db.execute(
            "SELECT json_group_array(id), json_group_array(party), json_group_array(target)"
            " FROM classes WHERE outcome <> 'refused'"
        ).fetchone()
    )
    order = [[*of_party, *of_target].index(group) for group in by]

    def name(group: int) -> tuple[str, ...]:
        label = parties.names[group // width] + targets.names[group % width]
        return tuple([label[place] for place in order]) or ("all",)

    groups = columns.grouped(kinds, ones, others, parties.places, targets.places, width)
    return blocks.sums(db, groups, bounds).rows(name)


def totals(db: sqlite3.Connection, by: Sequence[str], since: int, until: int) -> list[Row]:
    """Sums per group, dearest first."""
    since, until = max(0, since), min(until, LAST_NS)
    found = _found(db, _checked(by), [since, until]) if since < until else {}
    return found.get(0, [])


def buckets(since: int, until: int, interval: str, time_zone: str) -> list[tuple[int, int]]:
    """The intervals of the calendar that meet a window, oldest first; ValueError if too many."""
    if interval not in INTERVALS:
        raise ValueError(f"no interval {interval!r}; valid: {', '.join(INTERVALS)}")
    found: list[tuple[int, int]] = []
    here = since
    while here < until:
        found += _hours(here, until, time_zone) if interval == "1h" else []
        if not found or found[-1][1] <= here:
            found.append(_window(interval, here, time_zone))
        if len(found) > MOST_BUCKETS:
            raise ValueError(
                f"more than {MOST_BUCKETS:,} intervals of {interval}; ask for a shorter time"
                " or a longer interval"
            )
        here = found[-1][1]
    return found


def _hours(here: int, until: int, time_zone: str) -> list[tuple[int, int]]:
    """The hours left of a day, from the calendar at once; none of a day of odd length."""
    day, next_day = _window("1d", here, time_zone)
    if (next_day - day) % HOUR:
        return []
    first = here - (here - day) % HOUR
    return [(start, start + HOUR) for start in range(first, min(next_day, until), HOUR)]


def _window(interval: str, now: int, time_zone: str) -> tuple[int, int]:
    return window(interval, now_ns=now, created_ns=0, calendar_aligned=True, time_zone=time_zone)


def series(
    db: sqlite3.Connection,
    by: Sequence[str],
    since: int,
    until: int,
    interval: str,
    time_zone: str,
) -> list[Bucket]:
    """Sums per interval and group; intervals in which nothing happened have no rows."""
    _checked(by)
    ends = blocks.ends(db)
    # What lies before the first or after the last request would only be empty intervals.
    begin = max(0, since, ends[0]) if ends else 0
    end = min(until, ends[1] + 1, LAST_NS) if ends else 0
    spans = buckets(begin, end, interval, time_zone)
    if not spans:
        return []
    bounds = [begin, *(start for start, _ in spans[1:]), end]
    found = _found(db, by, bounds)
    return [Bucket(*span, found.get(number, [])) for number, span in enumerate(spans)]
