"""Sums over any window of time: whole days and hours from the roll-ups, the edges from requests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from bifrost.governance.windows import window
from bifrost.usage.schema import HOUR, SPANS

GROUPS = ("team", "user", "key", "model", "customer", "provider")
NAMED = {"team", "user", "key", "customer"}
INTERVALS = ("1h", "1d", "1w", "1M")
EDGE, TAIL = 0, -1
MOST_BUCKETS = 10_000
LAST_NS = (1 << 63) - 1

# One row per group: its values, then requests, input, cache read, cache write, output, cost.
Row = tuple[tuple[str, ...], tuple[int, int, int, int, int, int]]


class Piece(NamedTuple):
    """A part of a window: cells of ``hours`` from ``start`` to before ``end``, in hours since the
    epoch. With EDGE single requests between two moments in ns, with TAIL those in no cell yet."""

    bucket: int
    hours: int
    start: int
    end: int


class Bucket(NamedTuple):
    """One interval of a series, in ns, with the rows of its groups."""

    start: int
    end: int
    rows: list[Row]


def pieces(since: int, until: int, bucket: int = 0) -> Iterator[Piece]:
    """The window in as few and as wide pieces as the roll-ups allow."""
    first, last = -(-since // HOUR), until // HOUR
    if first >= last:
        if since < until:
            yield Piece(bucket, EDGE, since, until)
        return
    if since < first * HOUR:
        yield Piece(bucket, EDGE, since, first * HOUR)
    if until > last * HOUR:
        yield Piece(bucket, EDGE, last * HOUR, until)
    narrow, wide = SPANS
    from_, to = -(-first // wide) * wide, last // wide * wide
    if from_ >= to:
        yield Piece(bucket, narrow, first, last)
        return
    yield Piece(bucket, wide, from_, to)
    if first < from_:
        yield Piece(bucket, narrow, first, from_)
    if to < last:
        yield Piece(bucket, narrow, to, last)


_SUMS = """
WITH pieces (bucket, hours, a, b) AS MATERIALIZED (
  SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]') FROM json_each(?)
),
parts (bucket, class, requests, input, cache_read, cache_write, output, cost) AS (
  SELECT p.bucket, c.class, c.requests, c.input, c.cache_read, c.cache_write, c.output, c.cost
    FROM pieces p CROSS JOIN cells c ON c.hours = p.hours AND c.start >= p.a AND c.start < p.b
  UNION ALL
  SELECT p.bucket, r.class, 1, r.in_fresh + r.in_tool, r.in_cache_read,
    r.in_cache_w5m + r.in_cache_w1h, r.out_text + r.out_think, r.cost
    FROM pieces p CROSS JOIN requests r ON p.hours = 0 AND r.at >= p.a AND r.at < p.b
  UNION ALL
  SELECT p.bucket, r.class, 1, r.in_fresh + r.in_tool, r.in_cache_read,
    r.in_cache_w5m + r.in_cache_w1h, r.out_text + r.out_think, r.cost
    FROM pieces p CROSS JOIN requests r
    ON p.hours = -1 AND r.pos >= (SELECT rolled FROM progress) AND +r.at >= p.a AND +r.at < p.b
  UNION ALL
  SELECT p.bucket, d.class, 0, 0, 0, 0, 0, d.cost
    FROM pieces p CROSS JOIN differences d
    ON p.hours = 0 AND d.at >= p.a AND d.at < p.b AND d.class IS NOT NULL
),
sums AS (
  SELECT bucket, class, SUM(requests) requests, SUM(input) input, SUM(cache_read) cache_read,
    SUM(cache_write) cache_write, SUM(output) output, SUM(cost) cost
  FROM parts GROUP BY bucket, class
)
"""


def _query(by: Sequence[str]) -> str:
    columns: list[str] = []
    joins: list[str] = []
    for group in by:
        if group not in GROUPS or by.count(group) > 1:
            raise ValueError(f"cannot group by {group!r}; valid, once: {', '.join(GROUPS)}")
        if group in NAMED:
            joins.append(f"LEFT JOIN names n_{group} ON n_{group}.id = k.{group}")
            columns.append(f"COALESCE(n_{group}.name, NULLIF(k.{group}, ''), '-')")
        else:
            columns.append(f"COALESCE(NULLIF(k.{group}, ''), '-')")
    keys = ", ".join(columns) or "'all'"
    return (
        f"{_SUMS} SELECT bucket, {keys}, SUM(requests), SUM(input), SUM(cache_read),"
        f" SUM(cache_write), SUM(output), SUM(cost) FROM sums s JOIN classes k ON k.id = s.class"
        f" {' '.join(joins)} WHERE k.outcome <> 'refused' GROUP BY bucket, {keys}"
        f" ORDER BY bucket, SUM(cost) DESC, {keys}"
    )


def _end(db: sqlite3.Connection, which: str) -> int | None:
    """The time of the first (MIN) or last (MAX) thing that has a cost; None if there is none."""
    found = db.execute(
        f"SELECT {which}(at) FROM (SELECT {which}(at) at FROM requests UNION ALL"
        f" SELECT {which}(at) FROM differences WHERE class IS NOT NULL)"
    ).fetchone()[0]
    return None if found is None else int(found)


def _rounded(db: sqlite3.Connection, since: int, until: int) -> tuple[int, int]:
    """The same window with its ends moved to whole hours where nothing lies between."""
    since, until = max(0, since), min(until, LAST_NS)
    newest = _end(db, "MAX")
    if newest is None or until > newest:
        until = max(since, ((newest or 0) // HOUR + 1) * HOUR)
    return since, until


def _found(
    db: sqlite3.Connection, by: Sequence[str], query: str, parts: list[Piece]
) -> list[tuple[int, Row]]:
    oldest, newest = db.execute(
        "SELECT MIN(at), MAX(at) FROM requests WHERE pos >= (SELECT rolled FROM progress)"
    ).fetchone()
    tails = [
        Piece(part.bucket, TAIL, part.start * HOUR, part.end * HOUR)
        for part in parts
        if part.hours > 0 and newest is not None
        if part.start * HOUR <= newest and part.end * HOUR > oldest
    ]
    width = max(1, len(by))
    given = msgspec.json.encode(parts + tails).decode()
    rows: list[Any] = db.execute(query, (given,)).fetchall()
    return [(row[0], (tuple(row[1 : 1 + width]), tuple(row[1 + width :]))) for row in rows]


def totals(db: sqlite3.Connection, by: Sequence[str], since: int, until: int) -> list[Row]:
    """Sums per group, dearest first."""
    query = _query(by)
    parts = list(pieces(*_rounded(db, since, until)))
    return [row for _, row in _found(db, by, query, parts)]


def buckets(since: int, until: int, interval: str, time_zone: str) -> list[tuple[int, int]]:
    """The intervals of the calendar that meet a window, oldest first; ValueError if too many."""
    if interval not in INTERVALS:
        raise ValueError(f"no interval {interval!r}; valid: {', '.join(INTERVALS)}")
    found: list[tuple[int, int]] = []
    here = since
    while here < until:
        start, end = window(
            interval, now_ns=here, created_ns=0, calendar_aligned=True, time_zone=time_zone
        )
        found.append((start, end))
        if len(found) > MOST_BUCKETS:
            raise ValueError(
                f"more than {MOST_BUCKETS:,} intervals of {interval}; ask for a shorter time"
                " or a longer interval"
            )
        here = end
    return found


def series(
    db: sqlite3.Connection,
    by: Sequence[str],
    since: int,
    until: int,
    interval: str,
    time_zone: str,
) -> list[Bucket]:
    """Sums per interval and group; intervals in which nothing happened have no rows."""
    query = _query(by)
    since, until = max(0, since), min(until, LAST_NS)
    oldest = _end(db, "MIN")
    if oldest is None:
        return []
    # What lies before the first or after the last request would only be empty intervals.
    begin = max(since, oldest)
    end = min(until, _rounded(db, begin, until)[1])
    spans = buckets(begin, end, interval, time_zone)
    parts = [
        piece
        for number, (start, stop) in enumerate(spans)
        for piece in pieces(max(start, begin), min(stop, end), number)
    ]
    found = {
        number: [row for _, row in rows]
        for number, rows in groupby(_found(db, by, query, parts), key=lambda each: each[0])
    }
    return [Bucket(*span, found.get(number, [])) for number, span in enumerate(spans)]
