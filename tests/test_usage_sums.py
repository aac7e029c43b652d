"""The usage view against a plain computation over the same events, of any kind and order."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.audit.events import (
    Event,
    ModelAccess,
    PolicyChange,
    Reconciled,
)
from bifrost.usage import blocks
from bifrost.usage.view import GROUPS, Filters, UsageView

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
BEGIN = 1_774_569_600_000_000_000  # 2026-03-27, two days before clocks change in Europe
DAYS = 40
FAR = 1 << 62
CHAIN = {"vk_1": ("usr_1", "team_1", "cus_1"), "vk_2": ("usr_2", "team_1", "cus_1"),
         "vk_3": (None, "team_2", None)}  # fmt: skip


@dataclass
class Oracle:
    """The same events as a list, and the answers by reading all of it."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    loose: list[dict[str, Any]] = field(default_factory=list)  # differences without a request
    names: dict[str, str] = field(default_factory=dict)

    def add(self, position: int, event: Event) -> None:
        if isinstance(event, PolicyChange):
            self.names[event.id] = event.name
        elif isinstance(event, ModelAccess):
            row = {name: getattr(event, name) for name in event.__struct_fields__}
            self.rows.append(row | {"pos": position})
        elif isinstance(event, Reconciled):
            fitting = [
                row
                for row in self.rows
                if (row["request"], row["key"]) == (event.request, event.key)
                and row["outcome"] != "refused"
            ]
            fitting.sort(key=lambda row: (row["at"] == event.at, row["pos"]))
            if fitting:
                fitting[-1]["cost"] += event.cost
            else:
                row = {name: getattr(event, name) for name in event.__struct_fields__}
                self.loose.append(row | {"outcome": "reconciled"})

    def _label(self, row: dict[str, Any], group: str) -> str:
        value = row[group]
        if group in ("model", "provider"):
            return value or "-"
        return self.names.get(value, value) if value else "-"

    def totals(self, by: Sequence[str], since: int, until: int) -> list[Any]:
        sums: dict[tuple[str, ...], list[int]] = {}
        for row in self.rows + self.loose:
            if row["outcome"] == "refused" or not since <= row["at"] < until:
                continue
            label = tuple(self._label(row, group) for group in by) or ("all",)
            one = sums.setdefault(label, [0] * 6)
            if row["outcome"] != "reconciled":
                one[0] += 1
                one[1] += row["in_fresh"] + row["in_tool"]
                one[2] += row["in_cache_read"]
                one[3] += row["in_cache_w5m"] + row["in_cache_w1h"]
                one[4] += row["out_text"] + row["out_think"]
            one[5] += row["cost"]
        found = [(label, tuple(one)) for label, one in sums.items()]
        # Equally dear: by the names of parties, then of models and providers.
        order = sorted(range(len(by)), key=lambda place: by[place] in ("model", "provider"))
        return sorted(found, key=lambda each: (-each[1][5], [each[0][place] for place in order]))

    def logs(self, filters: Filters) -> list[int]:
        def fits(row: dict[str, Any]) -> bool:
            for name in ("key", "user", "team", "customer"):
                wanted = getattr(filters, name)
                if wanted and wanted not in (row[name], self.names.get(row[name] or "")):
                    return False
            for name in ("provider", "status", "outcome", "code", "request"):
                wanted = getattr(filters, name)
                if wanted is not None and wanted != row[name]:
                    return False
            if filters.model and not (row["model"] or "").startswith(filters.model.rstrip("*")):
                return False
            if filters.min_cost is not None and row["cost"] < filters.min_cost:
                return False
            return bool(filters.since <= row["at"] < filters.until)

        rows = [row for row in self.rows if fits(row)]
        return [r["pos"] for r in sorted(rows, key=lambda r: (r["at"], r["pos"]), reverse=True)]


def local_start(ns: int, interval: str, zone: str) -> datetime:
    """The interval of the calendar an instant is in, by its first moment on the wall clock."""
    wall = datetime.fromtimestamp(ns // 10**9, ZoneInfo(zone))
    if interval == "1h":
        return wall.replace(minute=0, second=0)
    day = wall.replace(hour=0, minute=0, second=0)
    if interval == "1w":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if interval == "1M" else day


# Moments lie close together around the edges of hours and days, as well as anywhere.
moments = st.one_of(
    st.integers(0, DAYS * DAY),
    st.builds(
        lambda hour, off: max(0, hour * HOUR + off), st.integers(0, DAYS * 24), st.integers(-2, 2)
    ),
).map(lambda offset: BEGIN + offset)
tokens = st.one_of(st.integers(0, 5), st.sampled_from([(1 << 32) - 1, 1 << 32]))
request_ids = st.sampled_from(["r1", "r2", "r3"])


@st.composite
def model_events(draw: st.DrawFn) -> ModelAccess:
    key = draw(st.sampled_from(sorted(CHAIN)))
    user, team, customer = CHAIN[key]
    model, provider = draw(
        st.sampled_from([("opus", "anthropic"), ("opus-5", "bedrock"), (None, None)])
    )
    outcome, status, code = draw(
        st.sampled_from(
            [("ok", 200, None), ("error", 529, None), ("refused", 402, "budget_exceeded"),
             ("unsettled", 0, None)]
        )
    )  # fmt: skip
    return ModelAccess(
        at=draw(moments), request=draw(request_ids), key=key, user=user, team=team,
        customer=customer, model=model, provider=provider, outcome=outcome, status=status,
        code=code, in_fresh=draw(tokens), in_tool=draw(tokens), in_cache_read=draw(tokens),
        in_cache_w5m=draw(tokens), in_cache_w1h=draw(tokens), out_text=draw(tokens),
        out_think=draw(tokens), cost=0 if outcome == "refused" else draw(st.integers(0, 100)),
    )  # fmt: skip


@st.composite
def reconciled_events(draw: st.DrawFn) -> Reconciled:
    key = draw(st.sampled_from(sorted(CHAIN)))
    user, team, customer = CHAIN[key]
    return Reconciled(
        at=draw(moments), done_at=FAR, request=draw(request_ids), key=key, user=user, team=team,
        customer=customer, model="opus", provider="anthropic", before=100,
        cost=draw(st.integers(-50, 50)), actor="test",
    )  # fmt: skip


policy_events = st.builds(
    lambda id_, name: PolicyChange(
        at=BEGIN, actor="test", action="update", kind="team", id=id_, name=name
    ),
    st.sampled_from(["vk_1", "vk_2", "usr_1", "team_1"]),
    st.sampled_from(["laptop", "core", "ada"]),
)
histories = st.lists(
    st.one_of(model_events(), model_events(), model_events(), reconciled_events(), policy_events),
    min_size=5,
    max_size=40,
)
windows = st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair)))
groupings = st.lists(st.sampled_from(GROUPS), unique=True, max_size=3)


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks are joined and rolled up after a few requests, so that all take part in answers."""
    with mock.patch.multiple(blocks, FAN=2, FULL=4, ROLLED=8):
        yield


def built(folder: Path, history: Sequence[Event], batch: int = 5) -> tuple[UsageView, Oracle]:
    view, oracle = UsageView(folder), Oracle()
    for start in range(0, len(history), batch):
        part = list(enumerate(history[start : start + batch], start))
        view.apply(part, start + len(part))
        for position, event in part:
            oracle.add(position, event)
    return view, oracle


@settings(max_examples=50, derandomize=True, deadline=None)
@given(histories, st.integers(1, 9), st.lists(st.tuples(windows, groupings), min_size=1))
def test_totals_are_those_of_the_plain_list(
    history: list[Event], batch: int, questions: list[tuple[tuple[int, int], list[str]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        view, oracle = built(Path(folder), history, batch)
        for (since, until), by in questions:
            assert view.totals(by, since, until) == oracle.totals(by, since, until)
            assert view.totals(by, since, FAR) == oracle.totals(by, since, FAR)
        assert view.totals((), 0, FAR) == oracle.totals((), 0, FAR)
        view.apply(list(enumerate(history)), len(history))  # once more: harmless
        assert view.totals((), 0, FAR) == oracle.totals((), 0, FAR)
        view.close()


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    histories,
    windows,
    groupings,
    st.sampled_from(["1h", "1d", "1w", "1M"]),
    st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
    ),
)
def test_series_are_those_of_the_plain_list(
    history: list[Event], between: tuple[int, int], by: list[str], interval: str, zone: str
) -> None:
    since, until = between
    with tempfile.TemporaryDirectory() as folder:
        view, oracle = built(Path(folder), history)
        found = view.series(by, since, until, interval, zone)
        view.close()
    assert [b.end for b in found[:-1]] == [b.start for b in found[1:]]
    assert sum(row[1][5] for bucket in found for row in bucket.rows) == sum(
        row[1][5] for row in oracle.totals(by, since, until)
    )
    for bucket in found:
        start, end = max(bucket.start, since), min(bucket.end, until)
        assert bucket.rows == oracle.totals(by, start, end)
        wall = datetime.fromtimestamp(bucket.start // 10**9, ZoneInfo(zone))
        assert local_start(bucket.start, interval, zone) == wall
        assert local_start(bucket.end - 1, interval, zone).date() == wall.date()


values: dict[str, st.SearchStrategy[Any]] = {
    "key": st.sampled_from(["vk_1", "vk_3", "laptop", "nobody"]),
    "user": st.sampled_from(["usr_1", "ada"]),
    "team": st.sampled_from(["team_1", "team_2", "core"]),
    "customer": st.just("cus_1"),
    "model": st.sampled_from(["opus", "opus*", "opus-*"]),
    "provider": st.sampled_from(["anthropic", "bedrock"]),
    "status": st.sampled_from([200, 402, 529]),
    "outcome": st.sampled_from(["ok", "refused", "unsettled"]),
    "code": st.just("budget_exceeded"),
    "min_cost": st.integers(0, 100),
    "request": request_ids,
    "since": moments,
    "until": moments,
}
# With more than three filters hardly anything would be left to compare.
chosen = st.lists(st.sampled_from(sorted(values)), unique=True, max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: values[name] for name in names})
)


@settings(max_examples=70, derandomize=True, deadline=None)
@given(histories, chosen, st.integers(1, 7))
def test_logs_page_by_page_are_those_of_the_plain_list(
    history: list[Event], wanted: dict[str, Any], limit: int
) -> None:
    filters = Filters(**wanted)
    with tempfile.TemporaryDirectory() as folder:
        view, oracle = built(Path(folder), history)
        expected = oracle.logs(filters)
        if filters.model == "opus":
            names = {row["pos"]: row["model"] for row in oracle.rows}
            expected = [pos for pos in expected if names[pos] == "opus"]
        pages, cursor = [], None
        while True:
            page = view.logs(filters, limit, cursor)
            pages.append([one.position for one in page.requests])
            if (cursor := page.cursor) is None:
                break
        assert list(itertools.chain(*pages)) == expected
        assert all(len(page) == limit for page in pages[:-1])
        costs = {row["pos"]: row["cost"] for row in oracle.rows}
        assert [one.cost for one in page.requests] == [costs[pos] for pos in pages[-1]]
        assert [one.position for one in view.after(-1, filters, 1000)] == sorted(expected)
        view.close()
