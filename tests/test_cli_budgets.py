"""Budgets and limits on the command line: how they are written, changed and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.cli.options import budget_of, rate_of
from tests.commands import Office
from tests.running import RunningGateway, RunningMock, bearer, configuration, message


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """acme > core > alice > alice-dev."""
    office = Office(tmp_path / "data")
    office.json("customers", "create", "--name", "acme", "--budget", "5000/1M,aligned")
    office.json("teams", "create", "--name", "core", "--customer", "acme")
    office.json("users", "create", "--name", "alice", "--team", "core", "--budget", "100/1M")
    office.json("keys", "create", "--name", "alice-dev", "--user", "alice", "--budget", "75/1M")
    return office


def key(office: Office, *changes: str) -> Any:
    return office.json("keys", "update", "alice-dev", *changes)


def test_a_budget_says_everything_in_one_word(office: Office) -> None:
    text = (
        "75.5/1Q,aligned,tz=Europe/Berlin,provider=anthropic,overdraft=last_request,"
        "tight=wait+clamp,fiscal=4"
    )
    found = key(office, "--budget", text)["budgets"][0]
    assert {name: found[name] for name in (
        "max_limit", "reset_duration", "calendar_aligned", "time_zone", "provider", "overdraft",
        "tight", "fiscal_start",
    )} == {
        "max_limit": "75.50", "reset_duration": "1Q", "calendar_aligned": True,
        "time_zone": "Europe/Berlin", "provider": "anthropic", "overdraft": "last_request",
        "tight": "wait,clamp", "fiscal_start": 4,
    }  # fmt: skip
    assert found["resets_at"][5:10] in ("12-31", "03-31", "06-30", "09-30")  # local midnight
    assert budget_of("1/1d").tight == "wait,clamp"
    for tight in ("wait", "clamp", "refuse"):
        assert budget_of(f"1/1d, tight={tight}").tight == tight


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("75", "expected AMOUNT/WINDOW such as 75/1M"),
        ("75/1M,aligned=yes", "a budget's options are aligned, tz="),
        ("75/1M,tz=", "a budget's options are"),
        ("75/1M,tz=Europe/Berln", "no time zone named 'Europe/Berln'"),
        ("75/1M,fiscal=4", "aligned quarters and years, such as 900/1Q,aligned,fiscal=4"),
        ("75/1Q,fiscal=4", "aligned quarters and years"),
        ("75/1Q,aligned,fiscal=13", "a month from 1 to 12, got '13'"),
        ("75/1Q,aligned,fiscal=", "a month from 1 to 12, got ''"),
        ("75/1M,overdraft=yes", "overdraft= takes none or last_request, got 'yes'"),
        ("75/1M,tight=wait,clamp", "got 'clamp'"),
        ("75/1M,tight=never", "tight= takes wait+clamp, wait, clamp or refuse"),
        ("75/1M,", "got ''"),
        ("75.0000000001/1M", "at most 9 decimals"),
    ],
)
def test_a_budget_that_is_none_says_why(office: Office, text: str, told: str) -> None:
    done = office("keys", "update", "alice-dev", "--budget", text)
    assert (done.code, done.out) == (2, "")
    assert told in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tokens", "expected METRIC=MOST/WINDOW such as tokens=100000/1h"),
        ("words=5/1m", "expected METRIC=MOST/WINDOW"),
        ("tokens=many/1m", "expected a number from 0 to 4294967295, got 'many'"),
        ("tokens=-1/1m", "got '-1'"),
        ("tokens=4294967296/1m", "got '4294967296'"),
        ("tokens=٣/1m", "expected a number"),
        ("tokens=5/1M", "one of s m h d"),
        ("concurrency=5/1m", "has no window: write concurrency=8"),
        ("tokens=5/1m,tier=x", "options are model= and provider=, got 'tier=x'"),
    ],
)
def test_a_rate_limit_that_is_none_says_why(office: Office, text: str, told: str) -> None:
    done = office("users", "update", "alice", "--rate-limit", text)
    assert done.code == 2 and told in done.err.splitlines()[-1]


def test_a_rate_limit_says_everything_in_one_word() -> None:
    found = rate_of("input_tokens=500/1h,model=claude-opus-*,provider=a*")
    assert (found.metric, found.max_limit, found.window) == ("input_tokens", 500, "1h")
    assert (found.model, found.provider) == ("claude-opus-*", "a*")
    assert rate_of("requests=5").window is None


def limits(shown: Any) -> dict[tuple[str, str, str | None], tuple[int, str]]:
    return {
        (one["metric"], one["window"], one["model"]): (one["max_limit"], one["id"])
        for one in shown["rate_limits"]
    }


@pytest.mark.parametrize("group", ["customers", "teams", "users", "keys"])
def test_limits_at_every_level_are_set_changed_and_removed_one_by_one(
    office: Office, group: str
) -> None:
    made = office.json(group, "create", "--name", "x", "--rpm", "60", "--tpm", "90000")
    office.json(group, "update", "x", "--rate-limit", "tokens=5/1h,model=opus*")
    found = office.json(group, "update", "x", "--rpm", "30", "--concurrency", "4")
    assert {what: most for what, (most, _) in limits(found).items()} == {
        ("requests", "1m", None): 30,
        ("tokens", "1m", None): 90000,
        ("tokens", "1h", "opus*"): 5,
        ("concurrency", "1m", None): 4,
    }
    before, after = limits(made), limits(found)
    assert before[("requests", "1m", None)][1] == after[("requests", "1m", None)][1]  # its count
    found = office.json(group, "update", "x", "--tpm", "none", "--concurrency", "none")
    assert set(limits(found)) == {("requests", "1m", None), ("tokens", "1h", "opus*")}
    text = office(group, "show", "x").out
    assert "rate limit: 30 requests / 1m\n" in text
    assert "rate limit: 5 tokens / 1h (model opus*)\n" in text
    assert "30 requests / 1m, 5 tokens / 1h (model opus*)" in office(group, "list").out
    left = office.json(group, "update", "x", "--no-rate-limit", "--rpm", "7")
    assert {what: most for what, (most, _) in limits(left).items()} == {("requests", "1m", None): 7}
    for wrong in ("-1", "many", "1.5", "4294967296"):
        done = office(group, "update", "x", "--rpm", wrong)
        assert done.code == 2 and "or none, got" in done.err


@pytest.mark.parametrize("group", ["customers", "teams", "users"])
def test_what_may_be_used_is_narrowed_at_every_level(office: Office, group: str) -> None:
    made = office.json(group, "create", "--name", "x")
    assert made["provider_configs"] == []
    found = office.json(group, "update", "x", "--models", "claude-haiku-*", "--provider", "a*")
    assert found["provider_configs"] == [
        {"provider": "a*", "allowed_models": ["claude-haiku-*"], "blocked_models": [],
         "weight": 1.0}
    ]  # fmt: skip
    found = office.json(group, "update", "x", "--blocked-models", "*-preview")
    assert found["provider_configs"][0]["allowed_models"] == ["claude-haiku-*"]
    assert (
        "may use: claude-haiku-* except *-preview of provider a*" in office(group, "show", "x").out
    )


def test_budgets_are_listed_with_their_owners(office: Office) -> None:
    found = office.json("budgets", "list")
    assert [(one["owner"]["level"], one["owner"]["name"], one["max_limit"]) for one in found] == [
        ("customer", "acme", "5000.00"), ("user", "alice", "100.00"), ("key", "alice-dev", "75.00")
    ]  # fmt: skip
    assert office.json("budgets", "list", "--level", "user") == [found[1]]
    assert office.json("budgets", "show", found[1]["id"]) == found[1]
    text = office("budgets", "list").out
    assert found[0]["id"] in text and "$0 of $5000.00 / 1M" in text


def test_a_budget_is_overridden_and_gets_its_own_limit_back(office: Office) -> None:
    mine = office.json("budgets", "list", "--level", "key")[0]["id"]
    args = ("budgets", "override", mine, "--limit", "200", "--cycles", "2", "--reason", "release")
    found = office.json(*args)
    override = found["override"]
    assert (override["max_limit"], override["reason"]) == ("200.00", "release")
    assert override["start_at"] < found["resets_at"] < override["end_at"]
    assert found["max_limit"] == "75.00"
    for shown in (office("keys", "show", "alice-dev").out, office("budgets", "show", mine).out):
        assert "$0 of $200.00 per 1M" in shown
        assert f"instead of $75.00 until {override['end_at']}: release" in shown
    assert "$200.00 / 1M" in office("keys", "list").out
    assert "of key alice-dev: $0 of $75.00" in office("budgets", "clear-override", mine).out
    done = office("budgets", "clear-override", mine)
    assert (done.code, done.err) == (1, f"bifrost: Budget {mine} has no override.\n")
    found = office.json("budgets", "update", mine, "--limit", "120")
    assert (found["id"], found["max_limit"]) == (mine, "120.00")


def test_reasons_are_recorded_with_the_change(office: Office) -> None:
    mine = office.json("budgets", "list", "--level", "key")[0]["id"]
    office.json("budgets", "override", mine, "--limit", "200", "--reason", "release")
    office.json("budgets", "reset", mine, "--reason", "runaway job ")
    office.json("budgets", "update", mine, "--limit", "80")
    told = [events.decode(raw) for _, raw in Reader(office.data_dir).read(0, 1000)]
    changes = [one for one in told if isinstance(one, events.PolicyChange)][-3:]
    assert [one.reason for one in changes] == ["release", "runaway job", ""]
    assert {(one.action, one.kind, one.name) for one in changes} == {
        ("update", "virtual_key", "alice-dev")
    }
    assert all(one.actor.startswith("cli:") and one.before != one.after for one in changes)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("show bud_0000000000000000", 1, "There is no budget 'bud_0000000000000000'."),
        ("reset nothing --reason x", 1, "There is no budget 'nothing'."),
        ("reset MINE", 2, "Missing option '--reason'"),
        ("reset MINE --reason ", 2, "expected a reason of 1 to 500 printable characters"),
        ("override MINE --limit 5 --cycles 0 --reason x", 2, "expected 1 to 1,000 windows, got 0"),
        ("override MINE --limit much --reason x", 2, "expected an amount in USD"),
        ("override MINE --limit -5 --reason x", 2, "expected an amount in USD"),
        ("update MINE", 2, "Missing option '--limit'"),
        ("list --level firm", 2, "'firm' is not one of"),
    ],
)
def test_errors_are_told_in_one_line(office: Office, arguments: str, code: int, told: str) -> None:
    mine = office.json("budgets", "list", "--level", "key")[0]["id"]
    done = office("budgets", *(mine if word == "MINE" else word for word in arguments.split(" ")))
    assert (done.code, done.out) == (code, "")
    assert told in done.err.splitlines()[-1]


def test_a_budget_is_reset_while_the_gateway_runs(mock: RunningMock, tmp_path: Path) -> None:
    config = configuration(mock.url, budgets=[{"max_limit": "0.03", "reset_duration": "1d"}])
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        mine = gateway.command("budgets", "list", "--level", "key")[0]

        def ask() -> int:
            answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
            return answer.status_code

        while ask() == 200:
            pass
        spent = gateway.command("budgets", "show", mine["id"])
        assert spent["current_usage"] != "0" and ask() == 402
        found = gateway.command("budgets", "reset", mine["id"], "--reason", "runaway job")
        assert (found["current_usage"], found["reset_reason"]) == ("0", "runaway job")
        assert found["resets_at"] == spent["resets_at"]
        assert ask() == 200
        assert gateway.command("budgets", "show", mine["id"])["current_usage"] != "0"
        user = gateway.command("budgets", "list", "--level", "user")[0]
        assert float(user["current_usage"]) > float(spent["current_usage"])  # others count on
    finally:
        gateway.stop()
