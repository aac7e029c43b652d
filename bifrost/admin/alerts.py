"""Thresholds of budgets that were reached, from the usage view."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from bifrost.admin.objects import Owner, Time, Usd, timestamp
from bifrost.admin.queries import MOST_ROWS, Moment, Text, moment_ns
from bifrost.admin.reports import reading
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.audit.events import BudgetReached
from bifrost.money import usd


class AlertsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which thresholds; all that is given must fit."""

    budget: Annotated[Text | None, Meta(description="Only of this budget, by id.")] = None
    owner: Annotated[
        Text | None, Meta(description="Only of this customer, team, user or key, by id or name.")
    ] = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS, description="The most rows to answer.")] = 100


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """The spending of a budget reached a share of its limit; once per window and threshold.

    ``position`` is the index of the event in the audit log.
    """

    at: Time
    budget_id: str
    owner: Owner
    threshold_percent: int
    spent_usd: Usd
    limit_usd: Usd
    window_start: Time
    window_end: Time
    position: int


class Alerts(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds that were reached, newest first."""

    items: tuple[Alert, ...]
    limit: int


def shown(position: int, event: BudgetReached) -> Alert:
    """An event as the contract's object."""
    return Alert(
        at=timestamp(event.at),
        budget_id=event.budget,
        owner=Owner(level=event.level, id=event.id, name=event.name),
        threshold_percent=event.threshold,
        spent_usd=usd(event.settled),
        limit_usd=usd(event.limit),
        window_start=timestamp(event.window_start),
        window_end=timestamp(event.window_end),
        position=position,
    )


def alerts(house: House, ask: Ask) -> Reply:
    """Thresholds that were reached."""
    query = ask.query
    since = moment_ns("from", query.since) if query.since is not None else 0
    until = time.time_ns() + 1_000_000_000
    if query.until is not None:
        until = moment_ns("to", query.until)
    with reading(house) as view:
        found = view.thresholds(since, until, query.limit, budget=query.budget, owner=query.owner)
    return Reply(value=Alerts(items=tuple(shown(*one) for one in found), limit=query.limit))


def operations() -> list[Operation]:
    """The row of alerts."""
    return [
        Operation(method="GET", path="/api/alerts", name="list_alerts",
                  summary="Thresholds of budgets that were reached, newest first.",
                  permission="usage:read", handler=alerts, query=AlertsQuery, answer=Alerts),
    ]  # fmt: skip
