"""Lists of requests, newest first, by any mixture of filters.

The columns of the blocks say what fits; only the requests of the page are then read. Order is by
time, then by position in the log, and a cursor names both: a page never repeats a row of another.
"""

from __future__ import annotations

import bisect
import re
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bifrost._fast import columns
from bifrost.money import usd
from bifrost.usage import blocks
from bifrost.usage.blocks import LAST_NS, Block, RollUp
from bifrost.usage.intake import FIND_REQUEST
from bifrost.usage.schema import COUNTS, PARTIES

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
    for kind in PARTIES:
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


_TEXTS = ("model", "provider", "code")
_TEXT_OF_DETAIL = ("asked", "provider_key", "source", "agent", "tier", "speed", "geo", "prices")
_COLUMNS = ", ".join(
    [
        "r.pos position", "r.at", "r.request", "r.session", "r.upstream_request",
        "k.outcome", "k.status", "d.stream",
        *(f"r.{name}" for name in COUNTS),
        *(f"w.{name}" for name in PARTIES),
        "t.model", "t.provider", "k.code",
        *(f"d.{name}" for name in _TEXT_OF_DETAIL),
        *(f"(SELECT name FROM names WHERE id = w.{name}) {name}_name" for name in PARTIES),
    ]
)  # fmt: skip
_JOINS = (
    "JOIN classes k ON k.id = r.class JOIN parties w ON w.id = k.party"
    " JOIN targets t ON t.id = k.target JOIN details d ON d.id = r.detail"
)


def page(db: sqlite3.Connection, filters: Filters, limit: int, cursor: str | None) -> Page:
    """The newest ``limit`` requests that fit and come after the cursor; ValueError for a cursor
    that is none and for a limit out of range."""
    if not 1 <= limit <= MOST:
        raise ValueError(f"expected a limit from 1 to {MOST:,}, got {limit}")
    before = _parsed(cursor) if cursor is not None else None
    if filters.request is not None:
        found = _by_id(db, filters, before)
    else:
        found = _fitting(db, filters, before, limit + 1)
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
        f"SELECT pos FROM requests r NOT INDEXED WHERE pos > ? AND {condition}"
        " ORDER BY pos LIMIT ?",
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
    for name in PARTIES:
        identifier, shown = row[name], row.pop(f"{name}_name")
        row[name] = Party(identifier, shown or identifier) if identifier else None
    for name in (*_TEXTS, *_TEXT_OF_DETAIL):
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
    for column in PARTIES:
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
    query = (
        "SELECT json_group_array(k.id) FROM parties w JOIN classes k ON k.party = w.id"
        f" JOIN targets t ON t.id = k.target WHERE {' AND '.join(tests)}"
    )
    return msgspec.json.decode(db.execute(query, values).fetchone()[0], type=list[int])


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
    if filters.request is not None:
        tests.append("r.request = ?")
        parameters.append(filters.request)
    if filters.min_cost is not None:
        tests.append("r.cost >= ?")
        parameters.append(min(filters.min_cost, LAST_NS))
    return " AND ".join(tests), parameters


def _fitting(
    db: sqlite3.Connection, filters: Filters, before: tuple[int, int] | None, limit: int
) -> list[tuple[int, int]]:
    """The newest ``limit`` that fit, as time and position."""
    kinds = _classes(db, filters)
    if kinds == []:
        return []
    flags = bytearray(max(kinds) + 1 if kinds else 0)
    for kind in kinds or ():
        flags[kind] = 1
    since, until = max(0, filters.since), min(filters.until, LAST_NS)
    before = before or (LAST_NS, LAST_NS)
    dearest = -LAST_NS if filters.min_cost is None else min(filters.min_cost, LAST_NS)
    found: list[tuple[int, int]] = []
    candidates = blocks.blocks(db, since, min(until, before[0] + 1))
    candidates.sort(key=lambda block: block.newest, reverse=True)
    promising = _Promising(db, blocks.rollups(db, since, until), bytes(flags), dearest)
    for block in candidates:
        if len(found) == limit and block.newest < found[-1][0]:
            break
        if block.dearest < dearest or not promising.at(block):
            continue
        for first, keys in blocks.read(db, "keys", (block.first,)):
            found += columns.fitting(keys, first, bytes(flags), since, until, dearest, *before)
        found.sort(reverse=True)
        del found[limit:]
    return found


class _Promising:
    """Which blocks are worth a look: the roll-ups know for many of them at once."""

    def __init__(
        self, db: sqlite3.Connection, known: list[RollUp], flags: bytes, dearest: int
    ) -> None:
        self._db = db
        self._known = known
        self._firsts = [rollup.first for rollup in known]
        self._flags, self._dearest = flags, dearest
        self._answers: dict[int, bool] = {}

    def at(self, block: Block) -> bool:
        """Whether a block may hold something that fits."""
        place = bisect.bisect_right(self._firsts, block.first) - 1
        if not self._flags or place < 0 or block.first > self._known[place].last:
            return True
        first = self._firsts[place]
        if first not in self._answers:
            [(_, cells)] = blocks.read(self._db, "cells", (first,))
            self._answers[first] = columns.holds(cells, self._flags, self._dearest)
        return self._answers[first]
