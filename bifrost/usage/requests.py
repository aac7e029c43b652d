"""Lists of requests, newest first, by any mixture of filters.

The roll-ups say in which days, then hours, something fits; only those are read. Order is by time,
then by position in the log, and a cursor names both: a page never repeats a row of another.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bifrost.money import usd
from bifrost.usage.intake import FIND_REQUEST
from bifrost.usage.schema import COUNTS, HOUR, SPANS

LAST_NS = (1 << 63) - 1
FEW = 20  # classes that are looked up hour by hour; more are found by reading a day's cells
MOST = 1_000


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What requests must fit. Key, user, team and customer are ids or names; ``model`` may hold
    ``*`` and ``?``; times in ns, ``until`` exclusive; ``min_cost`` in nano-USD."""

    key: str | None = None
    user: str | None = None
    team: str | None = None
    customer: str | None = None
    model: str | None = None
    provider: str | None = None
    status: int | None = None
    outcome: str | None = None
    code: str | None = None
    since: int = 0
    until: int = LAST_NS
    min_cost: int | None = None
    request: str | None = None


class Party(msgspec.Struct, frozen=True):
    """Somebody a request is booked on: the id in the event and the present name."""

    id: str
    name: str


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it was booked. Times in ns, money in nano-USD; ``cost`` holds differences."""

    position: int
    at: int
    request: str | None
    key: Party | None
    user: Party | None
    team: Party | None
    customer: Party | None
    asked: str | None
    model: str | None
    provider: str | None
    provider_key: str | None
    outcome: str
    status: int
    code: str | None
    stream: bool
    source: str | None
    session: str | None
    agent: str | None
    upstream_request: str | None
    tier: str | None
    speed: str | None
    geo: str | None
    prices: str | None
    in_fresh: int
    in_cache_read: int
    in_cache_w5m: int
    in_cache_w1h: int
    in_tool: int
    out_text: int
    out_think: int
    web_searches: int
    cost: int
    reserved: int
    output_limit: int
    took_ns: int
    first_byte_ns: int


def document(one: Logged) -> dict[str, Any]:
    """A request as data for people and programs: names beside ids, money in USD as text."""
    parties: dict[str, str | None] = {}
    for kind in _PARTIES:
        party: Party | None = getattr(one, kind)
        parties[kind] = party.name if party else None
        parties[f"{kind}_id"] = party.id if party else None
    moment = datetime.fromtimestamp(one.at // 1_000_000_000, UTC)
    return {
        "request_id": one.request,
        "at": f"{moment:%Y-%m-%dT%H:%M:%S}.{one.at % 1_000_000_000 // 1_000:06d}Z",
        **parties,
        "asked_model": one.asked,
        "model": one.model,
        "provider": one.provider,
        "provider_key": one.provider_key,
        "outcome": one.outcome,
        "status": one.status or None,
        "code": one.code,
        "stream": one.stream,
        "input_tokens": one.in_fresh + one.in_tool,
        "cache_read_tokens": one.in_cache_read,
        "cache_write_tokens": one.in_cache_w5m + one.in_cache_w1h,
        "output_tokens": one.out_text + one.out_think,
        "thinking_tokens": one.out_think,
        "web_searches": one.web_searches,
        "cost_usd": usd(one.cost),
        "usage_source": one.source,
        "output_limit": one.output_limit or None,
        "price_table": one.prices,
        "session_id": one.session,
        "agent": one.agent,
        "upstream_request_id": one.upstream_request,
        "took_ms": one.took_ns // 1_000_000,
        "first_byte_ms": one.first_byte_ns // 1_000_000,
    }


class Page(msgspec.Struct, frozen=True):
    """Requests, and the cursor of the next page or None at the end."""

    requests: list[Logged]
    cursor: str | None


_PARTIES = ("key", "user", "team", "customer")
_TEXT_OF_CLASS = ("model", "provider", "code")
_TEXT_OF_DETAIL = ("asked", "provider_key", "source", "agent", "tier", "speed", "geo", "prices")
_COLUMNS = ", ".join(
    [
        "r.pos position", "r.at", "r.request", "r.session", "r.upstream_request",
        "k.outcome", "k.status", "d.stream",
        *(f"r.{name}" for name in COUNTS),
        *(f"k.{name}" for name in (*_PARTIES, *_TEXT_OF_CLASS)),
        *(f"d.{name}" for name in _TEXT_OF_DETAIL),
        *(f"(SELECT name FROM names WHERE id = k.{name}) {name}_name" for name in _PARTIES),
    ]
)  # fmt: skip
_JOINS = "JOIN classes k ON k.id = r.class JOIN details d ON d.id = r.detail"


def page(db: sqlite3.Connection, filters: Filters, limit: int, cursor: str | None) -> Page:
    """The newest ``limit`` requests that fit and come after the cursor; ValueError for a cursor
    that is none and for a limit out of range."""
    if not 1 <= limit <= MOST:
        raise ValueError(f"expected a limit from 1 to {MOST:,}, got {limit}")
    before = _parsed(cursor) if cursor is not None else None
    found: list[tuple[int, int]] = []
    if filters.request is not None:
        found = _by_id(db, filters, before)
    else:
        for at, pos in _fitting(db, filters, before, limit + 1):
            found.append((at, pos))
            if len(found) > limit:
                break
    more = len(found) > limit
    found = found[:limit]
    last = f"{found[-1][0]}.{found[-1][1]}" if more else None
    return Page(_loaded(db, [pos for _, pos in found]), last)


def after(db: sqlite3.Connection, position: int, filters: Filters, limit: int) -> list[Logged]:
    """Up to ``limit`` fitting requests behind a position of the log, in the order of the log."""
    kinds = _classes(db, filters)
    if kinds == []:
        return []
    condition, values = _condition(filters, kinds)
    rows = db.execute(
        f"SELECT pos FROM requests r WHERE pos > ? AND {condition} ORDER BY pos LIMIT ?",
        (position, *values, limit),
    )
    return _loaded(db, [row[0] for row in rows])


def one(db: sqlite3.Connection, request: str) -> Logged | None:
    """The newest request with this id."""
    found = sorted(_by_id(db, Filters(request=request), None), reverse=True)
    return _loaded(db, [found[0][1]])[0] if found else None


def _parsed(cursor: str) -> tuple[int, int]:
    shape = re.fullmatch(r"([0-9]{1,19})\.([0-9]{1,19})", cursor)
    if shape is None:
        raise ValueError(f"{cursor[:48]!r} is not a cursor; use the one a page came with")
    return min(int(shape[1]), LAST_NS), min(int(shape[2]), LAST_NS)


def _loaded(db: sqlite3.Connection, positions: Sequence[int]) -> list[Logged]:
    """The requests at these positions, in this order."""
    cursor = db.execute(
        f"SELECT {_COLUMNS} FROM json_each(?) j CROSS JOIN requests r ON r.pos = j.value {_JOINS}"
        " ORDER BY j.key",
        (msgspec.json.encode(positions).decode(),),
    )
    names = [column[0] for column in cursor.description]
    return [_logged(dict(zip(names, row, strict=True))) for row in cursor]


def _logged(row: dict[str, Any]) -> Logged:
    for name in _PARTIES:
        identifier, shown = row[name], row.pop(f"{name}_name")
        row[name] = Party(identifier, shown or identifier) if identifier else None
    for name in (*_TEXT_OF_CLASS, *_TEXT_OF_DETAIL):
        row[name] = row[name] or None
    row["stream"] = bool(row["stream"])
    return Logged(**row)


def _by_id(
    db: sqlite3.Connection, filters: Filters, before: tuple[int, int] | None
) -> list[tuple[int, int]]:
    kinds = _classes(db, filters)
    if kinds == []:
        return []
    condition, values = _condition(filters, kinds, before)
    rows = db.execute(
        f"SELECT r.at, r.pos FROM ({FIND_REQUEST}) f CROSS JOIN requests r ON r.pos = f.pos"
        f" WHERE {condition} ORDER BY r.at DESC, r.pos DESC",
        (filters.request, *values),
    )
    return [tuple(row) for row in rows]


def _classes(db: sqlite3.Connection, filters: Filters) -> list[int] | None:
    """The classes that fit, or None when every class does."""
    tests: list[str] = []
    values: list[Any] = []
    for column in _PARTIES:
        wanted = getattr(filters, column)
        if wanted is not None:
            tests.append(f"{column} IN (SELECT ? UNION SELECT id FROM names WHERE name = ?)")
            values += [wanted, wanted]
    for column in ("provider", "status", "outcome", "code"):
        wanted = getattr(filters, column)
        if wanted is not None:
            tests.append(f"{column} = ?")
            values.append(wanted)
    if filters.model is not None:
        tests.append("model GLOB ?")
        values.append(filters.model.replace("[", "[[]"))
    if not tests:
        return None
    query = f"SELECT id FROM classes WHERE {' AND '.join(tests)}"
    return [row[0] for row in db.execute(query, values)]


def _condition(
    filters: Filters, kinds: list[int] | None, before: tuple[int, int] | None = None
) -> tuple[str, list[Any]]:
    """What a row of requests must fulfil."""
    until = min(filters.until, LAST_NS)
    tests, values = ["r.at >= ?", "r.at < ?"], [max(0, filters.since), max(0, until)]
    if before is not None:
        tests.append("r.at <= ? AND (r.at < ? OR r.pos < ?)")
        values += [before[0], *before]
    parameters: list[Any] = list(values)
    if kinds is not None:
        tests.append("r.class IN (SELECT value FROM json_each(?))")
        parameters.append(msgspec.json.encode(kinds).decode())
    if filters.min_cost is not None:
        tests.append("r.cost >= ?")
        parameters.append(min(filters.min_cost, LAST_NS))
    return " AND ".join(tests), parameters


def _fitting(
    db: sqlite3.Connection, filters: Filters, before: tuple[int, int] | None, limit: int
) -> Iterator[tuple[int, int]]:
    kinds = _classes(db, filters)
    if kinds == []:
        return
    since, until = max(0, filters.since), min(filters.until, LAST_NS)
    if before is not None:
        until = min(until, before[0] + 1)
    if kinds is None and filters.min_cost is None:
        spans: Iterator[tuple[int, int]] = iter([(since, until)])
    else:
        spans = _hours(db, kinds, filters.min_cost, since, until)
    for start, end in spans:
        narrowed = msgspec.structs.replace(filters, since=max(since, start), until=min(until, end))
        condition, values = _condition(narrowed, kinds, before)
        yield from db.execute(
            f"SELECT r.at, r.pos FROM requests r WHERE {condition}"
            " ORDER BY r.at DESC, r.pos DESC LIMIT ?",
            (*values, limit),
        ).fetchall()


def _hours(
    db: sqlite3.Connection, kinds: list[int] | None, dearest: int | None, since: int, until: int
) -> Iterator[tuple[int, int]]:
    """The hours that hold something of these classes and at least this dear, newest first."""
    if since >= until:
        return
    narrow, wide = SPANS
    first, last = since // HOUR, (until - 1) // HOUR
    tail = [hour for hour in _tail(db, kinds, dearest) if first <= hour <= last]
    days = {hour - hour % wide for hour in tail}
    days.update(_starts(db, wide, first - first % wide, last, kinds, dearest))
    for day in sorted(days, reverse=True):
        low, high = max(first, day), min(last, day + wide - 1)
        hours = {hour for hour in tail if low <= hour <= high}
        hours.update(_starts(db, narrow, low, high, kinds, dearest))
        for hour in sorted(hours, reverse=True):
            yield hour * HOUR, (hour + narrow) * HOUR


def _tail(db: sqlite3.Connection, kinds: list[int] | None, dearest: int | None) -> list[int]:
    """The hours of requests that are in no cell yet."""
    tests = ["pos >= (SELECT rolled FROM progress)"]
    values: list[Any] = []
    if kinds is not None:
        tests.append("+class IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(kinds).decode())
    if dearest is not None:
        tests.append("cost >= ?")
        values.append(min(dearest, LAST_NS))
    query = f"SELECT DISTINCT at / {HOUR} FROM requests WHERE {' AND '.join(tests)}"
    return [row[0] for row in db.execute(query, values)]


def _starts(
    db: sqlite3.Connection,
    span: int,
    first: int,
    last: int,
    kinds: list[int] | None,
    dearest: int | None,
) -> list[int]:
    """The starts of the cells that fit."""
    tests: list[str] = ["hours = ?"]
    values: list[Any] = [span]
    if kinds is not None and len(kinds) <= FEW and last - first < SPANS[-1]:
        tests.append("start IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(list(range(first, last + 1))).decode())
    else:
        tests.append("start BETWEEN ? AND ?")
        values += [first, last]
    if kinds is not None:
        tests.append("class IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(kinds).decode())
    if dearest is not None:
        tests.append("dearest >= ?")
        values.append(min(dearest, LAST_NS))
    query = f"SELECT DISTINCT start FROM cells WHERE {' AND '.join(tests)}"
    return [row[0] for row in db.execute(query, values)]
