"""The command line: help, data, exit codes, errors in one line, secrets shown once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest

from bifrost.audit import events
from bifrost.cli import cli
from bifrost.cli.store import opened
from tests.commands import Office, bifrost, stored
from tests.running import RunningGateway, RunningMock, bearer, configuration, message

BUDGET_KEYS = {
    "id", "max_limit", "reset_duration", "calendar_aligned", "time_zone", "overdraft", "tight",
    "current_usage", "reserved", "resets_at",
}  # fmt: skip
MORE_KEYS = {"provider", "fiscal_start", "reset_at", "reset_reason", "override"}
KEY_KEYS = {
    "id", "name", "is_active", "expires_at", "customer_id", "team_id", "user_id",
    "provider_configs", "budgets", "rate_limits", "mcp_configs", "created_at", "updated_at",
}  # fmt: skip
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "data")


@pytest.fixture
def staffed(office: Office) -> Office:
    """acme > core > alice > alice-dev."""
    office.json("customers", "create", "--name", "acme", "--budget", "5000/1M")
    office.json("teams", "create", "--name", "core", "--customer", "acme")
    office.json("users", "create", "--name", "alice", "--team", "core", "--budget", "100/1M")
    office.json("keys", "create", "--name", "alice-dev", "--user", "alice", "--budget", "75/1M")
    return office


def tree(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from tree(found, (*path, name))


@pytest.mark.parametrize("path", list(tree(cli)), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    done = bifrost(*path, "--help")
    assert done.code == 0
    assert re.search(rf"Example:\n\s+bifrost {' '.join(path)}", done.out)
    assert bifrost(*path, "-h").out == done.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("keys show nobody", 1, "bifrost: There is no virtual key 'nobody'."),
        ("keys rotate nobody", 1, "There is no virtual key 'nobody'."),
        ("keys revoke vk_0123456789abcdef", 1, "There is no virtual key 'vk_0123456789abcdef'."),
        ("users delete nobody", 1, "There is no user 'nobody'."),
        ("customers create --name acme", 1, "There is already a customer named 'acme'."),
        ("keys create --name alice-dev", 1, "There is already a virtual key named 'alice-dev'."),
        ("teams create --name x --customer y", 1, "There is no customer 'y'."),
        ("keys create --name x --user alice --team core", 1, "belongs to one of user or team."),
        ("users update alice --name ", 1, "A name needs 1 to 200 printable characters"),
        ("customers create --name a\nb", 1, "A name needs 1 to 200 printable characters"),
        ("keys create --name x --budget 75", 2, "expected AMOUNT/WINDOW such as 75/1M, got '75'"),
        ("keys create --name x --budget 75/1x", 2, "m h d w M Q Y"),
        ("keys create --name x --budget -5/1M", 2, "expected an amount in USD"),
        ("keys create --name x --budget 1e3/1M", 2, "expected an amount in USD"),
        ("keys create --name x --expires tomorrow", 2, "expected a time with its offset"),
        ("usage --by nothing", 2, "'nothing' is not one of"),
        ("usage --since soon", 2, "expected 30d, 12h or a time"),
        ("keys frobnicate", 2, "No such command 'frobnicate'"),
    ],
)
def test_errors_are_told_in_one_line(staffed: Office, arguments: str, code: int, told: str) -> None:
    done = staffed(*arguments.split(" "))
    assert (done.code, done.out) == (code, "")
    assert told in done.err.splitlines()[-1]
    if code == 1:
        assert len(done.err.splitlines()) == 1 and done.err.startswith("bifrost: ")


@pytest.mark.parametrize("name", ["x" * 201, "語" * 200, "\udcff", " padded "])
def test_impossible_names_are_told(office: Office, name: str) -> None:
    done = office("teams", "create", "--name", name)
    assert done.code == 1 and "A name needs 1 to 200" in done.err
    office("teams", "create", "--name", "core")
    assert "A name needs" in office("teams", "update", "core", "--name", name).err
    assert "There is no team" in office("teams", "show", name).err


@pytest.mark.parametrize("command", ["keys list", "keys show x", "teams list", "usage"])
def test_a_missing_data_directory_is_told(tmp_path: Path, command: str) -> None:
    done = bifrost(*command.split(), "--data-dir", tmp_path / "none")
    assert done.code == 1 and not (tmp_path / "none").exists()
    assert "is not a data directory" in done.err and "--data-dir" in done.err
    assert len(done.err.splitlines()) == 1


def test_the_key_object_is_the_contracts(staffed: Office) -> None:
    made = staffed.json(
        "keys", "create", "--name", "ci", "--team", "core", "--budget", "75/1M", "--budget",
        "5.5/1d", "--models", "claude-haiku-*, claude-sonnet-*", "--blocked-models", "*-preview",
        "--expires", "2099-01-31T00:00:00Z",
    )  # fmt: skip
    secret = made.pop("value")
    assert re.fullmatch(r"sk-bf-[A-Za-z0-9_-]{32,}", secret)
    shown = staffed.json("keys", "show", "ci")
    assert shown == made and set(shown) >= KEY_KEYS and "value" not in shown
    assert shown == staffed.json("keys", "show", made["id"])
    assert shown in staffed.json("keys", "list")
    assert shown["expires_at"] == "2099-01-31T00:00:00Z"
    assert RFC3339.fullmatch(shown["created_at"]) and RFC3339.fullmatch(shown["updated_at"])
    assert shown["team_id"] == staffed.json("teams", "show", "core")["id"]
    assert (shown["user_id"], shown["customer_id"]) == (None, None)
    assert shown["provider_configs"] == [
        {
            "provider": "*",
            "allowed_models": ["claude-haiku-*", "claude-sonnet-*"],
            "blocked_models": ["*-preview"],
            "weight": 1.0,
        }
    ]
    budgets = shown["budgets"]
    assert [(b["max_limit"], b["reset_duration"]) for b in budgets] == [
        ("75.00", "1M"), ("5.50", "1d"),
    ]  # fmt: skip
    for one in budgets:
        assert set(one) == BUDGET_KEYS | MORE_KEYS
        assert (one["current_usage"], one["reserved"]) == ("0", "0")
        assert RFC3339.fullmatch(one["resets_at"])


def test_entities_are_created_listed_changed_and_deleted_in_order(staffed: Office) -> None:
    assert [user["name"] for user in staffed.json("users", "list")] == ["alice"]
    assert "$0 of $100.00 / 1M" in staffed("users", "list").out
    old = staffed.json("users", "show", "alice")["budgets"][0]
    new = staffed.json("users", "update", "alice", "--budget", "200/1M", "--name", "alice b.")
    assert new["budgets"][0] == {**old, "max_limit": "200.00"}
    assert staffed.json("keys", "show", "alice-dev")["user_id"] == new["id"]
    for group, name in (("customers", "acme"), ("teams", "core"), ("users", "alice b.")):
        refused = staffed(group, "delete", name)
        assert refused.code == 1 and f"{name!r} still has" in refused.err
    staffed.json("keys", "update", "alice-dev", "--team", "core")
    assert "virtual key 'alice-dev'" in staffed("teams", "delete", "core").err
    staffed.json("keys", "update", "alice-dev", "--team", "")
    for group, name in (("users", "alice b."), ("teams", "core"), ("customers", "acme")):
        assert staffed.json(group, "delete", name)["name"] == name
        assert staffed.json(group, "list") == []
    assert staffed("customers", "delete", "acme").code == 1
    assert "Deleted" not in staffed("users", "list").out


def test_an_update_changes_only_what_it_names(staffed: Office) -> None:
    def update(*changes: str) -> Any:
        return staffed.json("keys", "update", "alice-dev", *changes)

    before = update("--models", "claude-haiku-*")
    assert update()["updated_at"] == before["updated_at"]
    rule = update("--blocked-models", "claude-haiku-3*", "--inactive")["provider_configs"][0]
    assert rule["allowed_models"] == ["claude-haiku-*"]
    assert rule["blocked_models"] == ["claude-haiku-3*"]
    after = update("--no-budget", "--expires", "2099-01-01T00:00:00Z")
    assert (after["budgets"], after["is_active"]) == ([], False)
    assert after["provider_configs"] == [rule] and after["user_id"] == before["user_id"]
    assert update("--expires", "never", "--active")["expires_at"] is None
    text = staffed("keys", "update", "alice-dev", "--budget", "1/1h").out
    assert "budget: $0 of $1.00 per 1h, $0 reserved, resets 20" in text


def test_secrets_are_shown_once_and_stored_nowhere(staffed: Office) -> None:
    first = staffed.json("keys", "create", "--name", "ci")["value"]
    text = staffed("keys", "create", "--name", "text").out
    second = re.search(r"sk-bf-\S+", text)
    assert second and text.count("sk-bf-") == 1 and "only time" in text
    third = staffed.json("keys", "rotate", "ci")["value"]
    fourth = re.search(r"sk-bf-\S+", staffed("keys", "rotate", "text").out)
    assert fourth and len({first, second[0], third, fourth[0]}) == 4
    told = [staffed("keys", "list"), staffed("keys", "show", "ci"), staffed("keys", "show", "text")]
    told += [staffed("keys", "list", "--json"), staffed("keys", "show", "ci", "--json")]
    told += [staffed("keys", "update", "ci", "--inactive"), staffed("keys", "revoke", "ci")]
    assert not any("sk-bf-" in done.out + done.err for done in told)
    assert not any("digest" in done.out for done in told)
    on_disk = stored(staffed.data_dir)
    assert b"alice-dev" in on_disk
    for secret in (first, second[0], third, fourth[0]):
        assert secret.encode() not in on_disk


def test_a_rotated_key_stays_disabled_and_a_revoked_one_never_returns(staffed: Office) -> None:
    staffed.json("keys", "update", "alice-dev", "--inactive")
    assert staffed.json("keys", "rotate", "alice-dev")["is_active"] is False
    revoked = staffed.json("keys", "revoke", "alice-dev")
    assert (revoked["is_active"], revoked["hint"]) == (False, "")
    assert "revoked" in staffed("keys", "list").out
    for command in (("rotate",), ("update", "--active")):
        done = staffed("keys", command[0], "alice-dev", *command[1:])
        assert done.code == 1 and "was revoked for ever" in done.err
    assert staffed.json("keys", "update", "alice-dev", "--name", "old")["name"] == "old"


def event(key: str, model: str, cost: int, at: int, **more: Any) -> bytes:
    told: dict[str, Any] = {"outcome": "ok", "in_fresh": 10, "out_text": 3, **more}
    return events.encode(
        events.ModelAccess(
            at=at, request="r", key=key, model=model, provider="anthropic", cost=cost, **told
        )
    )


@pytest.fixture
def used(staffed: Office) -> Office:
    """Three requests today, one two days ago, one refused."""
    key = staffed.json("keys", "show", "alice-dev")
    user = staffed.json("users", "show", "alice")["id"]
    now = time.time_ns()
    with opened(staffed.data_dir) as (_, gate):
        for number, (model, cost, age_s, more) in enumerate(
            [
                ("opus", 5_000_000_000, 2 * 86_400, {}),
                ("opus", 1_250_000_000, 60, {"in_cache_read": 7, "in_cache_w5m": 2}),
                ("haiku", 1, 60, {"in_cache_w1h": 4, "out_think": 1}),
                ("haiku", 2, 60, {"outcome": "cut"}),
                ("opus", 0, 60, {"outcome": "refused"}),
            ]
        ):
            raw = event(key["id"], model, cost, now - age_s * 1_000_000_000, user=user, **more)
            gate.append(raw, now + number)
    return staffed


def test_usage_sums_by_what_is_asked(used: Office) -> None:
    found = used.json("usage", "--since", "1d", "--by", "user", "--by", "model")
    assert set(found) == {"since", "until", "rows", "total_cost_usd"}
    assert RFC3339.fullmatch(found["since"]) and RFC3339.fullmatch(found["until"])
    sums = {"cache_read_tokens": 7, "cache_write_tokens": 2, "output_tokens": 3}
    assert found["rows"] == [
        {"user": "alice", "model": "opus", "requests": 1, "input_tokens": 10, **sums,
         "cost_usd": "1.25"},
        {"user": "alice", "model": "haiku", "requests": 2, "input_tokens": 20,
         "cache_read_tokens": 0, "cache_write_tokens": 4, "output_tokens": 7,
         "cost_usd": "0.000000003"},
    ]  # fmt: skip
    assert found["total_cost_usd"] == "1.250000003"
    whole = used.json("usage")
    assert [row["key"] for row in whole["rows"]] == ["alice-dev"]
    assert whole["total_cost_usd"] == "6.250000003"
    assert used.json("usage", "--by", "team", "--by", "team")["rows"][0]["team"] == "-"
    text = used("usage", "--by", "model").out
    assert "MODEL" in text and "$6.25" in text and "Total $6.25 since" in text


def test_usage_between_two_moments(used: Office) -> None:
    assert used.json("usage", "--until", "1d")["total_cost_usd"] == "5.00"
    assert used.json("usage", "--since", "2099-01-01")["rows"] == []
    assert used.json("usage", "--until", "2020-01-01T00:00:00+02:00")["rows"] == []
    for far in ("0001-01-01", "99999w"):
        assert used.json("usage", "--since", far)["rows"][0]["requests"] == 4
    assert used.json("usage", "--until", "9999-12-31")["rows"][0]["requests"] == 4


def test_prices_of_known_and_unknown_models(tmp_path: Path) -> None:
    known = bifrost("prices", "show", "claude-sonnet-4-5", "--json").json
    assert "anthropic/claude-sonnet-4-5" in known["models"]
    assert len(known["digest"]) == 64 and known["source"]
    text = bifrost("prices", "show", "anthropic/claude-sonnet-4-5")
    assert text.code == 0 and "input: " in text.out and "catalogue: " in text.out
    unknown = bifrost("prices", "show", "no-such-model")
    assert unknown.code == 1 and "No price is known for 'no-such-model'" in unknown.err
    own = tmp_path / "prices.json"
    own.write_text(json.dumps({"models": {"local/*": {"input": "1.00", "output": "2.00"}}}))
    found = bifrost("prices", "show", "local/any", "--file", own, "--json").json
    assert list(found["models"]) == ["local/any"]
    own.write_text("{")
    broken = bifrost("prices", "show", "local/any", "--file", own)
    assert broken.code == 1 and len(broken.err.splitlines()) == 1


def test_config_check_lists_every_problem(tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(configuration("http://127.0.0.1:1")))
    done = bifrost("config", "check", good)
    assert done.code == 0 and "can be used." in done.out
    found = bifrost("config", "check", good, "--json").json
    assert found == {"file": str(good), "ok": True, "problems": [], "warnings": []}

    bad = tmp_path / "bad.json"
    bad.write_text('{"server": {"port": "x"}, "governanc": {}}')
    done = bifrost("config", "check", bad)
    assert done.code == 1 and done.out == ""
    assert [line.partition(":")[0] for line in done.err.splitlines()[1:]] == [
        "server.port", "governanc",
    ]  # fmt: skip
    shown = bifrost("config", "check", bad, "--json")
    data = json.loads(shown.out)
    assert shown.code == 1 and data["ok"] is False
    assert data["problems"] == done.err.splitlines()[1:]

    bad.write_text('{"prices": {"file": "none.json"}}')
    assert "cannot read the price file" in bifrost("config", "check", bad).err
    missing = bifrost("config", "check", tmp_path / "none.json", "--json")
    assert missing.code == 1 and len(json.loads(missing.out)["problems"]) == 1


def test_config_schema_is_a_json_schema() -> None:
    schema = bifrost("config", "schema").json
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "governance" in schema["properties"]


def test_changes_work_at_once_in_a_running_gateway(
    mock: RunningMock, gateway: RunningGateway
) -> None:
    office = Office(gateway.data_dir)
    secret = office.json("keys", "create", "--name", "new", "--user", "alice")["value"]

    def asked(key: str) -> tuple[int, str | None]:
        url = f"{gateway.url}/v1/messages"
        answer = httpx.post(url, json=message(), headers=bearer(key))
        return answer.status_code, answer.headers.get("x-bf-error")

    def change(*changes: str) -> None:
        office.json("keys", "update", "new", *changes)

    assert asked(secret) == (200, None)
    change("--inactive")
    assert asked(secret) == (403, "virtual_key_blocked")
    change("--active", "--models", "claude-haiku-*")
    assert asked(secret) == (400, "model_blocked")
    change("--models", "*", "--budget", "0.000001/1M")
    assert asked(secret) == (402, "budget_exceeded")
    change("--budget", "10/1M")
    assert asked(secret) == (200, None)
    office.json("users", "update", "alice", "--inactive")
    assert asked(secret) == (403, "virtual_key_blocked")
    office.json("users", "update", "alice", "--active")
    fresh = office.json("keys", "rotate", "new")["value"]
    assert (asked(secret)[0], asked(fresh)[0]) == (401, 200)
    office.json("keys", "revoke", "new")
    assert asked(fresh) == (401, "virtual_key_not_found")
    spent = office.json("keys", "show", "new")["budgets"][0]["current_usage"]
    rows = office.json("usage", "--by", "key")["rows"]
    assert [row["requests"] for row in rows if row["key"] == "new"] == [3]
    assert float(spent) > 0
