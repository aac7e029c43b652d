"""What was used and what it cost, in sums and request by request, from the usage view."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bifrost.admin.objects import Time, Usd, timestamp
from bifrost.admin.problems import Problem, invalid
from bifrost.admin.queries import MOST_ROWS, Moment, Text, moment_ns
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.audit.log import Reader
from bifrost.config.settings import nano_usd
from bifrost.money import usd
from bifrost.usage.requests import document
from bifrost.usage.view import FAR_BEHIND, Filters, Row, UsageView

Group = Literal["team", "user", "key", "model", "customer", "provider"]
Amount = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,10}(\.[0-9]{1,9})?$", max_length=20, description="At least so many USD."
    ),
]
Cursor = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,19}\.[0-9]{1,19}$",
        max_length=39,
        description="The next_cursor of the page before.",
    ),
]
COLUMNS = ("requests", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
MOST_ANSWERED = 100_000  # rows of one answer of sums


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which sums."""

    by: Annotated[
        tuple[Group, ...],
        Meta(description="Group by; may repeat, or hold several with commas. Default: key."),
    ] = ()
    since: Moment = "30d"
    until: Moment | None = None
    interval: Annotated[
        Literal["1h", "1d", "1w", "1M"] | None,
        Meta(description="Sums per hour, day, week or month of the calendar."),
    ] = None
    time_zone: Annotated[
        str, Meta(min_length=1, max_length=64, description="Whose calendar: an IANA time zone.")
    ] = "UTC"


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of one group: the names asked for, and with an interval when it starts."""

    start: Time | UnsetType = UNSET
    team: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    customer: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    requests: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    cost_usd: Usd


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a window of time, dearest first (with an interval: oldest first)."""

    since: Time
    until: Time
    interval: str | UnsetType = UNSET
    time_zone: str | UnsetType = UNSET
    rows: tuple[UsageRow, ...]
    total_cost_usd: Usd


class LogsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests; all that is given must fit."""

    key: Annotated[Text | None, Meta(description="Virtual key, by id or name.")] = None
    user: Annotated[Text | None, Meta(description="User, by id or name.")] = None
    team: Annotated[Text | None, Meta(description="Team, by id or name.")] = None
    customer: Annotated[Text | None, Meta(description="Customer, by id or name.")] = None
    model: Annotated[Text | None, Meta(description="Upstream model; * and ? match.")] = None
    provider: Annotated[Text | None, Meta(description="Provider.")] = None
    status: Annotated[int, Meta(ge=100, le=599)] | None = None
    outcome: Literal["ok", "refused", "error", "cut", "broken", "unsettled"] | None = None
    code: Annotated[Text | None, Meta(description="Why it was refused.")] = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    min_cost: Amount | None = None
    request_id: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS, description="The most requests to answer.")] = (
        100
    )
    cursor: Cursor | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it was booked; names stand beside ids."""

    request_id: str | None
    at: Time
    key: str | None
    key_id: str | None
    user: str | None
    user_id: str | None
    team: str | None
    team_id: str | None
    customer: str | None
    customer_id: str | None
    asked_model: str | None
    model: str | None
    provider: str | None
    provider_key: str | None
    outcome: str
    status: int | None
    code: str | None
    stream: bool
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    thinking_tokens: int
    web_searches: int
    cost_usd: Usd
    usage_source: str | None
    output_limit: int | None
    price_table: str | None
    session_id: str | None
    agent: str | None
    upstream_request_id: str | None
    took_ms: int
    first_byte_ms: int


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """A page of requests, newest first; ``next_cursor`` asks for the next, null at the end."""

    items: tuple[Log, ...]
    limit: int
    next_cursor: str | None


@contextmanager
def reading(house: House) -> Iterator[UsageView]:
    """The usage view; Problem 503 while it knows too little of the log to tell the truth."""
    with closing(UsageView(house.data_dir, read_only=True)) as view:
        behind = Reader(house.data_dir).end() - view.last()
        if behind > FAR_BEHIND:
            raise Problem(
                503,
                f"The usage view is being built from the log and has {behind:,} entries to go;"
                " ask again in a minute.",
                headers={"retry-after": "60"},
            )
        yield view


def usage(house: House, ask: Ask) -> Reply:
    """Sums per group, and per interval if there is one."""
    query = ask.query
    by = tuple(dict.fromkeys(query.by)) or ("key",)
    since = moment_ns("since", query.since)
    until = time.time_ns() + 1_000_000_000
    if query.until is not None:
        until = moment_ns("until", query.until)
    rows: list[UsageRow] = []
    total = 0
    with reading(house) as view:
        for start, row in _parts(view, by, since, until, query):
            rows.append(_row(by, start, row))
            total += row[1][5]
            if len(rows) > MOST_ANSWERED:
                raise invalid(400, [("since", f"more than {MOST_ANSWERED:,} rows; ask for less")])
    calendar = {"interval": query.interval, "time_zone": query.time_zone} if query.interval else {}
    return Reply(
        value=Usage(
            since=timestamp(since),
            until=timestamp(until),
            rows=tuple(rows),
            total_cost_usd=usd(total),
            **calendar,
        )
    )


def _parts(
    view: UsageView, by: tuple[str, ...], since: int, until: int, query: UsageQuery
) -> Iterator[tuple[str | None, Row]]:
    if query.interval is None:
        for row in view.totals(by, since, until):
            yield None, row
        return
    try:
        zone = ZoneInfo(query.time_zone)
    except (KeyError, ValueError, OSError):
        shown = repr(query.time_zone)
        raise invalid(400, [("time_zone", f"no time zone named {shown}")]) from None
    try:
        buckets = view.series(by, since, until, query.interval, query.time_zone)
    except ValueError as error:
        raise invalid(400, [("interval", str(error))]) from None
    for bucket in buckets:
        start = datetime.fromtimestamp(bucket.start // 1_000_000_000, zone).isoformat()
        for row in bucket.rows:
            yield start, row


def _row(by: tuple[str, ...], start: str | None, row: Row) -> UsageRow:
    names, sums = row
    fields: dict[str, Any] = {
        **dict(zip(by, names, strict=True)),
        **dict(zip(COLUMNS, sums[:5], strict=True)),
        "cost_usd": usd(sums[5]),
    }
    if start is not None:
        fields["start"] = start
    return UsageRow(**fields)


def logs(house: House, ask: Ask) -> Reply:
    """Single requests, refused ones too."""
    query = ask.query
    given: dict[str, Any] = {
        name: getattr(query, name)
        for name in ("key", "user", "team", "customer", "model", "provider", "status", "outcome",
                     "code")
    }  # fmt: skip
    if query.since is not None:
        given["since"] = moment_ns("from", query.since)
    if query.until is not None:
        given["until"] = moment_ns("to", query.until)
    if query.min_cost is not None:
        try:
            given["min_cost"] = nano_usd(query.min_cost)
        except ValueError as error:
            raise invalid(400, [("min_cost", str(error))]) from None
    filters = Filters(request=query.request_id, **given)
    with reading(house) as view:
        page = view.logs(filters, query.limit, query.cursor)
    items = tuple(Log(**document(one)) for one in page.requests)
    return Reply(value=Logs(items=items, limit=query.limit, next_cursor=page.cursor))


def operations() -> list[Operation]:
    """The rows of reports."""
    return [
        Operation(method="GET", path="/api/usage", name="get_usage",
                  summary="What was used and what it cost, in sums.", permission="usage:read",
                  handler=usage, query=UsageQuery, answer=Usage),
        Operation(method="GET", path="/api/logs", name="list_logs",
                  summary="Single requests, newest first.", permission="logs:read",
                  handler=logs, query=LogsQuery, answer=Logs),
    ]  # fmt: skip
