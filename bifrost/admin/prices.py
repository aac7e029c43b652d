"""Own prices: list, create, read, change, remove; and the price tables that were in use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec

from bifrost.admin import bodies, objects, once, tags
from bifrost.admin.landscape import PriceTable
from bifrost.admin.price_fields import PriceFields
from bifrost.admin.problems import Problem, invalid
from bifrost.admin.queries import PageQuery, PartQuery, ReasonQuery
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.audit import policy
from bifrost.config.documents import Table
from bifrost.errors import NotFound, PriceError, Stale
from bifrost.governance import price_list
from bifrost.governance.price_list import Entry, PriceState
from bifrost.governance.replays import Replayed
from bifrost.metering.overrides import pattern_problem, place_of
from bifrost.pricing import found_in

MOST_TRIES = 8
ANSWERED = frozenset({"id", "set_at", "set_by", "set_reason"})


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """A price of the administrator's own, which wins over the price file and the catalogue."""

    id: str
    pattern: str
    price: PriceFields
    set_at: objects.Time
    set_by: str
    set_reason: str


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """A page of own prices in the order in which they are tried; the table they are part of."""

    items: tuple[Price, ...]
    total: int
    limit: int
    offset: int
    price_table: PriceTable


class UsedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A price table that was in use from a time on; how many own prices the store and the price
    file had, over the catalogue of a source and date."""

    digest: str
    used_since: objects.Time
    source: str
    date: str
    stored: int
    filed: int


class UsedTables(msgspec.Struct, frozen=True, kw_only=True):
    """A page of price tables, newest first."""

    items: tuple[UsedTable, ...]
    total: int
    limit: int
    offset: int


class WholeTable(msgspec.Struct, frozen=True, kw_only=True):
    """What a digest stands for: ``store`` over ``file`` over the catalogue named ``package``."""

    digest: str
    used_since: objects.Time
    source: str
    date: str
    package: str
    store: dict[str, PriceFields]
    file: dict[str, PriceFields]


def id_of(pattern: str) -> str:
    """The id of a pattern's price: always the same, and fit for a path."""
    return "price_" + hashlib.sha256(pattern.encode()).hexdigest()[:20]


def _shown(entry: Entry) -> Price:
    return Price(
        id=id_of(entry.pattern),
        pattern=entry.pattern,
        price=cast(PriceFields, entry.fields),  # as it was written, to be sent back so
        set_at=objects.timestamp(entry.at),
        set_by=entry.actor,
        set_reason=entry.reason,
    )


def _found(state: PriceState, reference: str) -> Entry:
    """The own price with this id or pattern; raises NotFound."""
    for entry in state.entries:
        if reference in (entry.pattern, id_of(entry.pattern)):
            return entry
    raise NotFound(f"There is no own price {reference[:400]!r}.")


def listing(house: House, ask: Ask) -> Reply:
    """One page, the narrowest patterns first."""
    query, state = ask.query, house.pricing.state()
    wanted = query.q.casefold()
    fitting = [entry for entry in state.entries if wanted in entry.pattern.casefold()]
    page = fitting[query.offset : query.offset + query.limit]
    table = PriceTable(digest=state.digest, source=state.source, date=state.date)
    return Reply(
        value=Prices(
            items=tuple(map(_shown, page)), total=len(fitting), limit=query.limit,
            offset=query.offset, price_table=table,
        )
    )  # fmt: skip


def read(house: House, ask: Ask) -> Reply:
    """One price, or that the client has it already."""
    entry = _found(house.pricing.state(), ask.params["id"])
    tag = tags.tag_of(house.directory, entry)
    if tags.is_known(ask.headers, tag):
        return Reply(status=304, headers={"etag": tag})
    return Reply(value=_shown(entry), headers={"etag": tag})


def create(house: House, ask: Ask) -> Reply:
    """A price for a pattern that has none."""
    pattern, fields, reason = _body(ask.document, None)

    def answered(state: PriceState) -> bytes:
        return _answered(house, found_in(state, pattern))

    try:
        asked = once.asked(house, ask, answered)
        with _because(reason), _placed(pattern):
            entry = house.pricing.add(pattern, fields, once=asked)
    except Replayed as before:
        return once.reply(ask, before.answer, replayed=True)
    return once.reply(ask, _answered(house, entry))


def _answered(house: House, entry: Entry) -> bytes:
    tag = tags.tag_of(house.directory, entry)
    return once.kept(id_of(entry.pattern), tag, _shown(entry))


def change(house: House, ask: Ask) -> Reply:
    """Another price for the pattern; requests under way are billed as they were admitted."""
    for _ in range(MOST_TRIES):
        old = _found(house.pricing.state(), ask.params["id"])
        pattern, fields, reason = _body(ask.document, old)
        bound = tags.require_match(ask.headers, tags.tag_of(house.directory, old))
        try:
            with _because(reason), _placed(pattern):
                entry = house.pricing.put(pattern, fields, expect=old)
        except Stale:
            if bound:
                raise tags.changed() from None
            continue  # somebody else was faster: the same change to what is there now
        return Reply(value=_shown(entry), headers={"etag": tags.tag_of(house.directory, entry)})
    raise Problem(
        503, "The price is being changed all the time; try again.", headers={"retry-after": "1"}
    )


def remove(house: House, ask: Ask) -> Reply:
    """Gone: the price file and the catalogue hold again."""
    old = _found(house.pricing.state(), ask.params["id"])
    bound = tags.require_match(ask.headers, tags.tag_of(house.directory, old))
    try:
        with _because(ask.query.reason or ""):
            house.pricing.delete(old.pattern, expect=old if bound else None)
    except Stale:
        raise tags.changed() from None
    return Reply(status=204)


def _body(document: object, old: Entry | None) -> tuple[str, dict[str, Any], str]:
    """Pattern, fields and reason in a body, what is left out as it was; raises Problem 422."""
    if isinstance(document, Table):
        document = bodies.without(document, ANSWERED)
        if old is not None:
            document.setdefault("pattern", old.pattern)
            document.setdefault("price", old.fields)
    body = bodies.parsed(bodies.PriceBody, document)
    assert isinstance(document, dict)  # or it would not have been parsed
    problem = pattern_problem(body.pattern)
    if problem is None and old is not None and body.pattern != old.pattern:
        problem = f"this is the price of {old.pattern!r}; a pattern is removed and created anew"
    if problem is not None:
        raise invalid(422, [("pattern", problem)])
    return body.pattern, _plain(document["price"]), body.reason or ""


def _plain(value: Any) -> Any:
    """JSON without the reader's own kinds of objects, as it is stored."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


@contextmanager
def _placed(pattern: str) -> Iterator[None]:
    """What is wrong with a price, with its place in the body."""
    try:
        yield
    except PriceError as error:
        place = "price" + error.place.removeprefix(place_of(pattern))
        raise invalid(422, [(place, error.problem)]) from None


@contextmanager
def _because(reason: str) -> Iterator[None]:
    """Why it is done; by default the request's id, as for every other change."""
    with policy.acting(policy.actor(), reason or policy.reason()):
        yield


def tables(house: House, ask: Ask) -> Reply:
    """One page of the tables that were in use."""
    query, found = ask.query, house.pricing.tables()[::-1]
    items = tuple(
        UsedTable(
            digest=one.digest, used_since=objects.timestamp(one.at), source=one.source,
            date=one.date, stored=len(one.store), filed=len(one.file),
        )
        for one in found[query.offset : query.offset + query.limit]
    )  # fmt: skip
    return Reply(
        value=UsedTables(items=items, total=len(found), limit=query.limit, offset=query.offset)
    )


def table(house: House, ask: Ask) -> Reply:
    """What the digest in a usage row stands for."""
    found: price_list.PriceTable = house.pricing.table(ask.params["digest"])
    return Reply(
        value=WholeTable(
            digest=found.digest, used_since=objects.timestamp(found.at), source=found.source,
            date=found.date, package=found.package,
            store=cast(dict[str, PriceFields], found.store),
            file=cast(dict[str, PriceFields], found.file),
        )
    )  # fmt: skip


def operations() -> list[Operation]:
    """The rows of own prices and price tables."""
    base, tables_at = "/api/governance/prices", "/api/governance/price-tables"
    return [
        Operation(method="GET", path=base, name="list_prices",
                  summary="List own prices in the order in which they are tried.",
                  permission="governance:read", handler=listing, query=PageQuery, answer=Prices),
        Operation(method="POST", path=base, name="create_price",
                  summary="Set a price; it holds for requests that begin afterwards.",
                  permission="governance:write", handler=create, body=bodies.PriceBody,
                  answer=Price, status=201, tagged=True, once=True, refuses=(409,)),
        Operation(method="GET", path=f"{base}/{{id}}", name="get_price",
                  summary="Read an own price, by id or pattern.", permission="governance:read",
                  handler=read, answer=Price, tagged=True, refuses=(404,)),
        Operation(method="PUT", path=f"{base}/{{id}}", name="update_price",
                  summary="Change an own price; the price is replaced as a whole.",
                  permission="governance:write", handler=change, body=bodies.PriceBody,
                  partial=True, answer=Price, tagged=True, guarded=True, refuses=(404, 412)),
        Operation(method="DELETE", path=f"{base}/{{id}}", name="delete_price",
                  summary="Remove an own price: the price file and the catalogue hold again.",
                  permission="governance:write", handler=remove, query=ReasonQuery, status=204,
                  guarded=True, refuses=(404, 412)),
        Operation(method="GET", path=tables_at, name="list_price_tables",
                  summary="List the price tables that were in use, newest first.",
                  permission="governance:read", handler=tables, query=PartQuery,
                  answer=UsedTables),
        Operation(method="GET", path=f"{tables_at}/{{digest}}", name="get_price_table",
                  summary="Read the own prices of a table, by its digest.",
                  permission="governance:read", handler=table, answer=WholeTable,
                  refuses=(404, 409)),
    ]  # fmt: skip
