"""What is done to a budget by its id: reset, another limit for some windows, raise and lower."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import lmdb
import pytest

from bifrost.errors import Conflict, NotFound
from bifrost.governance import budgets
from bifrost.governance.budgets import budget_window, limit_at
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, new_id
from tests.running import RunningGateway, RunningMock, bearer, configuration, message
from tests.test_windows import ns

USD = 1_000_000_000


def budget(limit: int = 75, duration: str = "1M", **more: Any) -> Budget:
    more = {"created_at": ns("2026-01-15T10:00:00"), **more}
    return Budget(
        id=new_id("budget"), max_limit=limit * USD, reset_duration=duration, **more
    )  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    opened.close()


def put(directory: Directory, **more: Any) -> Budget:
    """A customer with two budgets; the second is the one to change."""
    made = budget(**more)
    directory.create("customer", "acme", budgets=(budget(500), made))
    return made


def test_a_reset_begins_the_window_anew_and_ends_it_as_before(directory: Directory) -> None:
    made = put(directory, calendar_aligned=True, time_zone="Europe/Berlin")
    now = ns("2026-03-10T12:00:00", "Europe/Berlin")
    kind, owner, found = budgets.reset(directory, made.id, reason=" wrong model ", now_ns=now)
    assert (kind, owner.name, found.reset_reason) == ("customer", "acme", "wrong model")
    end = ns("2026-04-01T00:00:00", "Europe/Berlin")
    assert budget_window(found, now) == (now, end)
    assert budget_window(found, now - 1)[0] == ns("2026-03-01T00:00:00", "Europe/Berlin")
    assert budget_window(found, end)[0] == end
    assert directory.get("customer", "acme").budgets[1] == found
    assert directory.get("customer", "acme").budgets[0].reset_at == 0


def test_a_request_from_before_a_reset_does_not_keep_the_old_window(directory: Directory) -> None:
    made = put(directory)
    now = ns("2026-03-10T12:00:00")
    found = budgets.reset(directory, made.id, reason="test", now_ns=now)[2]
    assert limit_at(found, now - 1) == (75 * USD, now)
    assert limit_at(found, now)[1] > now + 10**18


@pytest.mark.parametrize(
    ("aligned", "cycles", "end"),
    [(True, 1, "2026-04-01T00:00:00"), (True, 2, "2026-05-01T00:00:00"),
     (False, 1, "2026-03-15T10:00:00"), (False, 3, "2026-05-15T10:00:00")],
)  # fmt: skip
def test_an_override_holds_for_the_present_window_and_those_that_follow(
    directory: Directory, aligned: bool, cycles: int, end: str
) -> None:
    made = put(directory, calendar_aligned=aligned)
    now = ns("2026-03-10T12:00:00")
    found = budgets.override(
        directory, made.id, max_limit=200 * USD, cycles=cycles, reason="launch", now_ns=now
    )[2]
    assert limit_at(found, now) == (200 * USD, ns(end))
    assert limit_at(found, ns(end) - 1)[0] == 200 * USD
    assert limit_at(found, ns(end))[0] == 75 * USD
    assert found.override is not None and found.override.reason == "launch"


def test_an_override_ends_at_a_clock_change_to_the_second(directory: Directory) -> None:
    made = put(directory, duration="1d", calendar_aligned=True, time_zone="America/New_York")
    now = ns("2026-03-07T12:00:00", "America/New_York")
    found = budgets.override(
        directory, made.id, max_limit=1, cycles=2, reason="dst", now_ns=now
    )[2]  # fmt: skip
    assert limit_at(found, now)[1] == ns("2026-03-09T00:00:00", "America/New_York")


def test_an_override_is_replaced_and_cleared(directory: Directory) -> None:
    made = put(directory)
    budgets.override(directory, made.id, max_limit=5 * USD, reason="first")
    found = budgets.override(directory, made.id, max_limit=9 * USD, reason="second")[2]
    assert limit_at(found, time.time_ns())[0] == 9 * USD
    found = budgets.clear_override(directory, made.id)[2]
    assert (found.override, limit_at(found, time.time_ns())[0]) == (None, 75 * USD)
    with pytest.raises(Conflict, match="has no override"):
        budgets.clear_override(directory, made.id)


def test_a_limit_is_raised_and_lowered_on_the_same_budget(directory: Directory) -> None:
    made = put(directory)
    assert budgets.set_limit(directory, made.id, 90 * USD)[2].max_limit == 90 * USD
    assert budgets.set_limit(directory, made.id, 0)[2] == budget_with(made, max_limit=0)


def budget_with(made: Budget, **changes: Any) -> Budget:
    return budgets.replace(made, **changes)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "two\nlines"])
def test_a_reason_is_needed(directory: Directory, reason: str) -> None:
    made = put(directory)
    with pytest.raises(ValueError, match="expected a reason of 1 to 500"):
        budgets.reset(directory, made.id, reason=reason)
    with pytest.raises(ValueError, match="expected a reason"):
        budgets.override(directory, made.id, max_limit=1, reason=reason)
    assert directory.get("customer", "acme").budgets[1] == made


@pytest.mark.parametrize("cycles", [0, -1, 1001])
def test_cycles_are_bounded(directory: Directory, cycles: int) -> None:
    made = put(directory)
    with pytest.raises(ValueError, match="1 to 1,000 windows"):
        budgets.override(directory, made.id, max_limit=1, cycles=cycles, reason="x")
    with pytest.raises(ValueError, match="0 USD or more"):
        budgets.override(directory, made.id, max_limit=-1, reason="x")


def test_more_windows_than_the_clock_knows_are_refused(directory: Directory) -> None:
    made = put(directory, duration="1000Y", calendar_aligned=True)
    with pytest.raises(ValueError, match="too many"):
        budgets.override(directory, made.id, max_limit=1, cycles=1000, reason="x")


@pytest.mark.parametrize("identifier", ["", "bud_0123456789abcdef", "x" * 5000, "\0", "bud_\udc80"])
def test_an_unknown_budget_is_not_found(directory: Directory, identifier: str) -> None:
    put(directory)
    for act in (budgets.found, budgets.clear_override):
        with pytest.raises(NotFound, match="There is no budget"):
            act(directory, identifier)


def test_budgets_are_found_while_they_exist(directory: Directory) -> None:
    made = put(directory)
    other = budget(3)
    key, _ = directory.create_key("alice", budgets=(other,))
    assert budgets.found(directory, other.id)[:2] == ("virtual_key", key)
    directory.rotate("alice")
    directory.update("customer", "acme", name="acme2")
    assert budgets.found(directory, other.id)[2] == other
    assert budgets.found(directory, made.id)[1].name == "acme2"
    assert [(kind, one.name) for kind, one, _ in budgets.listed(directory)] == [
        ("customer", "acme2"), ("customer", "acme2"), ("virtual_key", "alice")
    ]  # fmt: skip
    directory.update("virtual_key", "alice", budgets=())
    directory.delete("customer", "acme2")
    for gone in (made, other):
        with pytest.raises(NotFound):
            budgets.found(directory, gone.id)
    assert list(budgets.listed(directory)) == []


def test_a_directory_without_an_index_gets_one(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    made = put(directory)
    directory.close()
    env = lmdb.open(str(tmp_path / "config"), max_dbs=8)
    index, meta = env.open_db(b"budgets"), env.open_db(b"meta")
    with env.begin(write=True) as txn:
        txn.drop(index)
        txn.delete(b"budgets_indexed", db=meta)
    env.close()
    directory = Directory(tmp_path)
    assert budgets.found(directory, made.id)[2] == made
    directory.close()


def _ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/messages", json=message(), headers=bearer())


def test_acts_work_at_once_in_every_worker(mock: RunningMock, tmp_path: Path) -> None:
    config = configuration(mock.url, budgets=[{"max_limit": "0.02", "reset_duration": "1d"}])
    gateway = RunningGateway(tmp_path / "gateway", config, "--workers", "2")
    try:
        directory, _ = gateway.stores()
        mine = directory.get("virtual_key", "alice-dev").budgets[0].id

        def spend() -> int:
            answers = 0
            while (answer := _ask(gateway.url)).status_code == 200:
                answers += 1
                assert answers < 100
            assert answer.headers["x-bf-error"] == "budget_exceeded"
            return answers

        first = spend()
        assert first >= 1
        budgets.reset(directory, mine, reason="again")
        assert spend() == first
        budgets.override(directory, mine, max_limit=10 * USD, reason="sprint")
        for _ in range(8):
            assert _ask(gateway.url).status_code == 200
        budgets.clear_override(directory, mine)
        for _ in range(8):
            assert _ask(gateway.url).status_code == 402
        budgets.set_limit(directory, mine, 10 * USD)
        for _ in range(8):
            assert _ask(gateway.url).status_code == 200
    finally:
        gateway.stop()


def test_an_override_that_runs_out_ends_without_any_change(
    mock: RunningMock, tmp_path: Path
) -> None:
    config = configuration(mock.url, budgets=[{"max_limit": "10", "reset_duration": "1d"}])
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        directory, _ = gateway.stores()
        key = directory.get("virtual_key", "alice-dev")
        now = time.time_ns()
        until = now + 1_500_000_000
        lowered = budgets.Override(max_limit=0, start_at=now - USD, end_at=until, reason="freeze")
        one = budgets.replace(key.budgets[0], override=lowered)
        directory.update("virtual_key", "alice-dev", budgets=(one,))
        assert _ask(gateway.url).status_code == 402 or time.time_ns() >= until
        while time.time_ns() < until:
            time.sleep(0.05)
        assert _ask(gateway.url).status_code == 200
    finally:
        gateway.stop()
