"""The usage view: pages, names, versions, blocks, and what its plans may cost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from bifrost.admin import reports
from bifrost.admin.problems import Problem
from bifrost.audit.events import (
    BudgetReached,
    ModelAccess,
    PolicyChange,
    Reconciled,
    encode,
)
from bifrost.audit.log import Log
from bifrost.errors import StoreError
from bifrost.governance.windows import window
from bifrost.usage import blocks, schema
from bifrost.usage.sums import buckets
from bifrost.usage.view import GROUPS, INTERVALS, Filters, UsageView

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
BEGIN = 1_774_569_600_000_000_000  # 2026-03-27, two days before clocks change in Europe
FAR = 1 << 62


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks are joined and rolled up after a few requests, so that all take part in answers."""
    with mock.patch.multiple(blocks, FAN=2, FULL=4, ROLLED=8):
        yield


def access(at: int, **told: Any) -> ModelAccess:
    return ModelAccess(at=at, **{"request": "r", "key": "vk_1", "outcome": "ok", **told})


def test_a_page_that_was_begun_is_not_shifted_by_what_comes(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    view.apply([(n, access(BEGIN + n)) for n in range(20)], 20)
    first = view.logs(Filters(), 8)
    view.apply([(20 + n, access(BEGIN + 100 + n)) for n in range(9)], 29)
    second = view.logs(Filters(), 8, first.cursor)
    third = view.logs(Filters(), 8, second.cursor)
    seen = [one.position for page in (first, second, third) for one in page.requests]
    assert seen == list(range(19, -1, -1)) and third.cursor is None
    for wrong in ("", "x", "1", "1.2.3", "-1.2"):
        with pytest.raises(ValueError, match="not a cursor"):
            view.logs(Filters(), 8, wrong)
    for limit in (0, 1001):
        with pytest.raises(ValueError, match="expected a limit"):
            view.logs(Filters(), limit)
    view.close()


def test_a_request_is_found_with_everything_that_is_known_of_it(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    told = access(
        BEGIN, request="mine", user="usr_1", asked="sonnet", model="opus", provider="anthropic",
        status=200, stream=True, in_fresh=1, in_cache_read=2, in_cache_w5m=3, in_cache_w1h=4,
        in_tool=5, out_text=6, out_think=7, web_searches=8, cost=9, reserved=10, session="s",
        agent="claude-cli", upstream_request="up", tier="batch", prices="abc", took_ns=11,
        first_byte_ns=12,
    )  # fmt: skip
    view.apply([(0, access(BEGIN, request="other")), (1, told), (2, access(BEGIN + 1))], 3)
    view.name([("usr_1", "ada")])
    found = view.request("mine")
    assert found is not None and found.user is not None and found.key is not None
    assert (found.position, found.user.name, found.user.id, found.key.name) == (
        1, "ada", "usr_1", "vk_1",
    )  # fmt: skip
    known = told.__struct_fields__
    for name in set(found.__struct_fields__) & set(known) - {"user", "key", "team", "customer"}:
        assert getattr(found, name) == getattr(told, name), name
    assert view.request("nobody's") is None
    view.close()


def test_an_id_is_found_however_many_came_since(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    view.apply([(n, access(BEGIN + n, request=f"r{n}")) for n in range(13_000)], 13_000)
    for number in (0, 4_095, 4_096, 12_999):
        found = view.request(f"r{number}")
        assert found is not None and found.position == number
    view.close()


def test_names_follow_the_policy(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    change = PolicyChange(at=1, actor="a", action="update", kind="team", id="team_1", name="new")
    view.name([("team_1", "old")])
    view.apply([(0, access(BEGIN, team="team_1", cost=1))], 1)
    assert view.totals(("team",), 0, FAR)[0][0] == ("old",)
    view.apply([(1, change)], 2)
    assert view.totals(("team",), 0, FAR)[0][0] == ("new",)
    assert len(view.logs(Filters(team="new")).requests) == 1
    assert view.logs(Filters(team="old")).requests == []
    view.close()


def test_thresholds_are_kept_as_they_were_told(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    reached = [
        BudgetReached(
            at=BEGIN + n, budget="bud_1", level="team", id="team_1", name="core",
            window_start=BEGIN, window_end=BEGIN + DAY, threshold=percent, limit=100,
            settled=percent,
        )
        for n, percent in enumerate((50, 80, 95))
    ]  # fmt: skip
    view.apply(list(enumerate(reached)), 3)
    assert [one.threshold for _, one in view.thresholds()] == [95, 80, 50]
    assert [position for position, _ in view.thresholds(BEGIN + 1, BEGIN + 2)] == [1]
    assert view.thresholds(limit=1)[0][1].name == "core"
    view.close()


def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    view.apply([(0, access(BEGIN)), (1, access(BEGIN + 400 * DAY))], 2)
    with pytest.raises(ValueError, match="no interval '2d'"):
        view.series((), 0, FAR, "2d")
    with pytest.raises(ValueError, match="no time zone named"):
        view.series((), 0, FAR, "1d", "Mars/Olympus")
    with pytest.raises(ValueError, match="more than 10,000 intervals"):
        view.apply([(2, access(BEGIN + 4000 * DAY))], 3)
        view.series((), 0, FAR, "1h")
    assert view.series((), 0, BEGIN, "1d") == []
    assert view.totals((), -(1 << 70), 1 << 70)[0][1][0] == 3
    view.close()


def test_hours_are_those_of_the_calendar() -> None:
    for zone in ("UTC", "Asia/Kolkata", "America/Havana", "Australia/Lord_Howe", "Europe/Berlin"):
        begin = BEGIN + 17 * 60 * 10**9
        expected, here = [], begin
        while here < begin + 20 * DAY:
            expected.append(
                window("1h", now_ns=here, created_ns=0, calendar_aligned=True, time_zone=zone)
            )
            here = expected[-1][1]
        assert buckets(begin, begin + 20 * DAY, "1h", zone) == expected, zone


def test_blocks_stay_few_and_hold_every_request_once(tmp_path: Path) -> None:
    with mock.patch.multiple(blocks, FAN=8, FULL=64, ROLLED=256):
        view, position = UsageView(tmp_path), 0
        for size in [1] * 300 + [5, 100, 1, 64, 63, 3] * 9:
            view.apply(
                [(position + n, access(BEGIN + position + n, cost=1)) for n in range(size)],
                position + size,
            )
            position += size
        found = view._db.execute("SELECT first, last, number FROM blocks ORDER BY first").fetchall()
        assert [first for first, _, _ in found[1:]] == [last + 1 for _, last, _ in found[:-1]]
        assert sum(number for _, _, number in found) == position == found[-1][1] + 1
        assert len(found) < 80
        assert view._db.execute("SELECT COUNT(*) FROM rollups").fetchone()[0] >= 5
        assert view.totals((), 0, FAR)[0][1] == (position, 0, 0, 0, 0, position)
        view.close()


def test_every_end_of_a_window_and_every_tie_is_exact(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    for n in range(40):
        view.apply([(n, access(BEGIN + n // 2, cost=1))], n + 1)
    for moment in range(21):
        found = view.totals((), 0, BEGIN + moment), view.totals((), BEGIN + moment, FAR)
        assert [sum(row[1][0] for row in rows) for rows in found] == [2 * moment, 40 - 2 * moment]
    seen, page = [], view.logs(Filters(), 1)
    while page.cursor is not None:
        seen += [one.position for one in page.requests]
        page = view.logs(Filters(), 1, page.cursor)
    assert [*seen, page.requests[0].position] == list(range(39, -1, -1))
    view.close()


def test_what_is_too_large_for_a_sum_is_told_and_nothing_is_half_added(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    view.apply([(n, access(BEGIN, cost=1 << 60)) for n in range(7)], 7)
    assert view.totals((), 0, FAR)[0][1][5] == 7 << 60
    with pytest.raises(StoreError, match="Cannot write the usage view"):
        view.apply([(7, access(BEGIN, cost=1)), (8, access(BEGIN, out_text=1 << 63))], 9)
    assert view.last() == 7 and view.totals((), 0, FAR)[0][1][0] == 7
    view.apply([(7, access(BEGIN, cost=1 << 60)), (8, access(BEGIN, key="vk_2"))], 9)
    with pytest.raises(StoreError, match="63 bits"):
        view.totals((), 0, FAR)
    assert [names for names, _ in view.totals(("key",), 0, BEGIN)] == []
    view.apply([(n, access(BEGIN, cost=1 << 60)) for n in range(9, 30)], 30)
    assert view.last() == 30 and len(view.logs(Filters(), 40).requests) == 30
    assert view.totals(("key",), BEGIN + 1, FAR) == []
    view.close()


def test_a_difference_reaches_a_request_that_was_rolled_up(tmp_path: Path) -> None:
    view = UsageView(tmp_path)
    view.apply([(n, access(BEGIN + n, request=f"r{n}", cost=10)) for n in range(40)], 40)
    assert view._db.execute("SELECT COUNT(*) FROM rollups").fetchone()[0] > 0
    corrected = Reconciled(at=BEGIN + 1, done_at=FAR, request="r1", key="vk_1", before=10,
                           cost=90, actor="test")  # fmt: skip
    view.apply([(40, corrected)], 41)
    assert view.totals((), 0, FAR)[0][1][5] == 490
    assert view.totals((), BEGIN + 1, BEGIN + 2)[0][1][5] == 100
    assert [one.request for one in view.logs(Filters(min_cost=100)).requests] == ["r1"]
    assert [one.request for one in view.logs(Filters(key="vk_1", min_cost=100)).requests] == ["r1"]
    view.close()


@pytest.mark.parametrize("version", [2, schema.VERSION + 1])
def test_a_view_of_another_version_is_never_read(tmp_path: Path, version: int) -> None:
    view = UsageView(tmp_path)
    view.apply([(0, access(BEGIN, cost=5))], 1)
    view._db.execute(f"PRAGMA user_version = {version}")
    view.close()
    with pytest.raises(StoreError, match="`bifrost usage rebuild`"):
        UsageView(tmp_path, read_only=True)
    if version > schema.VERSION:
        with pytest.raises(StoreError, match="written by a newer Bifrost"):
            UsageView(tmp_path)
        return
    writer = UsageView(tmp_path)  # the steward's: it goes on from the beginning of the log
    assert writer.last() == 0 and writer.totals((), 0, FAR) == []
    assert (tmp_path / "usage-set-aside.db").exists()
    writer.close()


def test_the_api_tells_no_sums_from_a_view_that_is_still_being_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "FAR_BEHIND", 3)
    log, view = Log(tmp_path), UsageView(tmp_path)
    made = [access(time.time_ns() - 10**9, cost=n) for n in range(5)]
    log.append([encode(event) for event in made])
    house: Any = SimpleNamespace(data_dir=tmp_path)
    ask: Any = SimpleNamespace(query=reports.UsageQuery())
    lines: Any = SimpleNamespace(query=reports.LogsQuery())
    for upto in range(6):
        view.apply(list(enumerate(made[:upto])), upto)
        if 5 - upto > 3:
            for handler, asked in ((reports.usage, ask), (reports.logs, lines)):
                with pytest.raises(Problem, match="is being built from the log") as told:
                    handler(house, asked)
                assert told.value.status == 503 and told.value.headers["retry-after"]
        elif upto:
            answer = reports.usage(house, ask).value
            assert isinstance(answer, reports.Usage)
            assert answer.rows[0].requests == upto
            found = reports.logs(house, lines).value
            assert isinstance(found, reports.Logs) and len(found.items) == upto
    view.close()
    log.close()


def statements(view: UsageView, *questions: Any) -> list[str]:
    """The SQL that answers questions, with its values."""
    asked: list[str] = []
    db = view._db
    db.set_trace_callback(asked.append)
    for question in questions:
        question()
    db.set_trace_callback(None)
    return [one for one in asked if one.lstrip().upper().startswith(("SELECT", "WITH"))]


@pytest.mark.parametrize(
    "wanted",
    [
        {}, {"key": "vk_1"}, {"user": "usr_1"}, {"team": "core"}, {"customer": "cus_1"},
        {"model": "opus*"}, {"provider": "anthropic"}, {"status": 529}, {"outcome": "refused"},
        {"code": "budget_exceeded"}, {"min_cost": 50}, {"request": "r1"}, {"since": BEGIN + DAY},
        {"until": BEGIN + DAY},
    ],
    ids=lambda wanted: next(iter(wanted), "none"),
)  # fmt: skip
def test_no_filter_reads_all_requests(tmp_path: Path, wanted: dict[str, Any]) -> None:
    view = UsageView(tmp_path)
    for n in range(0, 60, 6):
        view.apply(
            [(n + i, access(BEGIN + (n + i) * HOUR, cost=n, request=f"r{n}")) for i in range(6)],
            n + 6,
        )
    several = [(), *itertools.combinations(GROUPS, 1), *itertools.combinations(GROUPS, 2), GROUPS]
    asked = statements(
        view,
        view.last,
        view.thresholds,
        lambda: view.request("r1"),
        lambda: view.after(50, Filters(**wanted)),
        lambda: view.logs(Filters(**wanted), 10),
        lambda: view.logs(Filters(**wanted), 10, f"{BEGIN + DAY}.9"),
        lambda: view.logs(Filters(**{"key": "vk_1", **wanted}), 10),
        *(lambda by=by: view.totals(by, BEGIN + 1, BEGIN + 2 * DAY - 1) for by in several),
        *(
            lambda interval=interval: view.series(GROUPS, BEGIN + 1, FAR, interval, "Asia/Kolkata")
            for interval in INTERVALS
        ),
    )
    assert len(asked) > 100
    for query in asked:
        plan = [row[3] for row in view._db.execute(f"EXPLAIN QUERY PLAN {query}")]
        scanned = {step.split()[1] for step in plan if step.startswith("SCAN")}
        assert not scanned & {"r", "requests", "d", "differences", "thresholds"}, (query, plan)
    view.close()


def test_readers_see_whole_batches_while_the_steward_writes(tmp_path: Path) -> None:
    view, stop = UsageView(tmp_path), threading.Event()
    failed: list[BaseException] = []
    seen: list[int] = []

    def read() -> None:
        try:
            reader = UsageView(tmp_path, read_only=True)
            while not stop.is_set():
                found = reader.totals(("model",), 0, FAR)
                count = sum(row[1][0] for row in found)
                assert count % 10 == 0 and sum(row[1][5] for row in found) == count * 3
                seen.append(count)
                assert len(reader.logs(Filters(key="vk_1"), 5).requests) in (0, 5)
            reader.close()
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for n in range(0, 1500, 10):
        view.apply([(n + i, access(BEGIN + n * HOUR // 7, cost=3)) for i in range(10)], n + 10)
    deadline = time.monotonic() + 20
    while max(seen, default=0) < 1500 and not failed and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    for thread in readers:
        thread.join()
    assert not failed and max(seen) == 1500
    view.close()
