"""Budgets, quota, providers, models, configuration, usage and logs through the REST API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.administration import Admin, problem
from tests.running import KEY, RunningGateway, RunningMock, bearer, budget, configuration, message

SECRET = "sk-ant-upstream-secret"
SENT = 3


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    config = configuration(mock.url, rate_limits=[{"metric": "requests", "max_limit": 600}])
    config["models"] = {"fast": [{"provider": "anthropic", "model": "claude-haiku-4-5"}]}
    config["governance"]["users"].append({"name": "mallory", "team": "core"})
    config["governance"]["virtual_keys"].append(
        {"name": "haiku", "user": "mallory",
         "provider_configs": [{"allowed_models": ["claude-haiku-*", "fast"]}],
         "value": "sk-bf-" + "haikuonl" * 5}
    )  # fmt: skip
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config)
    for model in ["claude-sonnet-4-5"] * (SENT - 1) + ["fast"]:
        url = f"{running.url}/v1/messages"
        assert httpx.post(url, headers=bearer(), json=message(model=model)).status_code == 200
    blocked = httpx.post(
        f"{running.url}/v1/messages", headers=bearer("sk-bf-" + "haikuonl" * 5), json=message()
    )
    assert blocked.status_code == 400
    yield running
    running.stop()


@pytest.fixture(scope="module")
def admin(gateway: RunningGateway) -> Iterator[Admin]:
    with Admin(gateway) as found:
        deadline = time.monotonic() + 20
        while found("GET", "/logs").text.count("request_id") < SENT + 1:
            assert time.monotonic() < deadline, "the steward did not catch up"
            time.sleep(0.05)
        yield found


def test_budgets_of_every_level_with_their_owners(admin: Admin) -> None:
    page = admin.get("/governance/budgets")
    owners = [(one["owner"]["level"], one["owner"]["name"]) for one in page["items"]]
    assert owners == [
        ("customer", "acme"), ("team", "core"), ("user", "alice"), ("key", "alice-dev")
    ]  # fmt: skip
    assert page["total"] == 4
    assert {one["current_usage"] for one in page["items"]} != {"0"}
    assert len({one["current_usage"] for one in page["items"]}) == 1
    (team,) = admin.get("/governance/budgets?level=team")["items"]
    assert team["id"] == page["items"][1]["id"]
    assert admin.get("/governance/budgets?q=ALICE&limit=1")["total"] == 2
    assert admin.get(f"/governance/budgets/{team['id']}")["owner"]["name"] == "core"
    problem(admin("GET", "/governance/budgets/bud_0000000000000000"), 404)
    problem(admin("GET", "/governance/budgets?level=org"), 400)


def test_a_budget_is_overridden_and_reset_with_a_reason(admin: Admin) -> None:
    admin.post("/governance/teams", {"name": "special", "budgets": budget("10", "1d")})
    key = admin.post("/governance/virtual-keys", {"name": "special", "team_id": "special"})
    (one,) = admin.get("/governance/teams/special")["budgets"]
    path = f"/governance/budgets/{one['id']}"
    call = {"url": f"{admin.url}/v1/messages", "headers": bearer(key["value"])}
    assert httpx.post(json=message(), **call).status_code == 200
    body = {"max_limit": "0", "reason": "stop"}
    changed = admin.post(f"{path}/override", body, 200)
    assert changed["max_limit"] == "10.00" and changed["override"]["max_limit"] == "0.00"
    assert httpx.post(json=message(), **call).status_code == 402
    body = {"max_limit": 25, "cycles": 3, "reason": "release week"}
    changed = admin.post(f"{path}/override", body, 200)["override"]
    assert (changed["max_limit"], changed["reason"]) == ("25.00", "release week")
    assert httpx.post(json=message(), **call).status_code == 200
    cleared = admin.data(admin("DELETE", f"{path}/override"), 200)
    assert cleared["override"] is None
    problem(admin("DELETE", f"{path}/override"), 409)
    assert Decimal(cleared["current_usage"]) > 0
    reset = admin.post(f"{path}/reset", {"reason": "credited"}, 200)
    assert (reset["current_usage"], reset["reset_reason"]) == ("0", "credited")
    assert reset["resets_at"] == cleared["resets_at"]
    for wrong in ({}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 501}, {"why": "x"}):
        problem(admin("POST", f"{path}/reset", wrong), 422)
    for wrong in ({"max_limit": 1.5}, {"max_limit": "1", "cycles": 0}, {"max_limit": "-1"}):
        problem(admin("POST", f"{path}/override", {"reason": "x"} | wrong), 422)
    problem(admin("POST", "/governance/budgets/none/reset", {"reason": "x"}), 404)


def test_a_key_learns_what_it_has_left_and_no_more(admin: Admin) -> None:
    url = f"{admin.url}/api/governance/virtual-keys/quota"
    found = Admin.data(httpx.get(url, headers={"x-bf-vk": KEY}), 200)
    assert found == Admin.data(httpx.get(url, headers=bearer()), 200)
    levels = found["levels"]
    assert [(one["level"], one["name"]) for one in levels] == [
        ("key", "alice-dev"), ("user", "alice"), ("team", "core"), ("customer", "acme")
    ]  # fmt: skip
    own = levels[0]["budgets"][0]
    left = Decimal(own["max_limit"]) - Decimal(own["current_usage"]) - Decimal(own["reserved"])
    assert Decimal(found["remaining"]) == left and found["resets_at"] == own["resets_at"]
    assert levels[0]["rate_limits"][0]["max_limit"] == 600
    assert {"claude-sonnet-4-5", "claude-haiku-4-5", "fast"} <= set(found["models"])
    assert "mallory" not in json.dumps(found) and KEY not in json.dumps(found)
    headers = {"x-bf-vk": "sk-bf-" + "haikuonl" * 5}
    other = Admin.data(httpx.get(url, headers=headers), 200)
    assert all("haiku" in model or model == "fast" for model in other["models"])
    admin.data(admin("PUT", "/governance/virtual-keys/haiku", {"is_active": False}), 200)
    problem(httpx.get(url, headers=headers), 403, "virtual_key_blocked")
    headers = {"x-bf-vk": "sk-bf-" + "unknown0" * 5}
    problem(httpx.get(url, headers=headers), 401, "virtual_key_not_found")
    problem(httpx.get(url), 401, "virtual_key_required")


def test_providers_without_their_secrets(admin: Admin) -> None:
    (one,) = admin.get("/providers")["items"]
    assert (one["name"], one["type"]) == ("anthropic", "anthropic")
    assert one["keys"] == [{"name": "main", "weight": 1.0, "hint": SECRET[-4:]}]
    assert admin.get("/providers/anthropic") == one
    assert admin.get("/providers/anthropic/keys")["items"] == one["keys"]
    answer = admin("GET", "/providers/antropic")
    problem(answer, 404)
    assert "did you mean 'anthropic'?" in answer.json()["detail"]


def test_models_with_exact_prices(admin: Admin) -> None:
    page = admin.get("/models?q=claude-sonnet-4-5&limit=1000")
    (one,) = [model for model in page["items"] if model["name"] == "claude-sonnet-4-5"]
    assert (one["provider"], one["price"]["input"], one["price"]["output"]) == (
        "anthropic", "3", "15"
    )  # fmt: skip
    (alias,) = admin.get("/models?q=fast")["items"]
    assert alias["targets"] == [
        {"provider": "anthropic", "model": "claude-haiku-4-5", "weight": 1.0, "standby": False}
    ]
    assert len(page["price_table"]["digest"]) == 64


def test_the_configuration_never_shows_a_secret(admin: Admin) -> None:
    answer = admin("GET", "/config")
    found = Admin.data(answer, 200)
    assert found["providers"]["anthropic"]["keys"][0]["value"] == "***"
    assert found["governance"]["virtual_keys"][0]["value"] == "***"
    assert SECRET not in answer.text and KEY not in answer.text
    assert list(found["models"]) == ["fast"]


def test_usage_is_what_the_budgets_say(admin: Admin) -> None:
    found = admin.get("/usage?by=user,model")
    rows = {(row["user"], row["model"]): row for row in found["rows"]}
    assert rows["alice", "claude-sonnet-4-5"]["requests"] == SENT - 1
    assert rows["alice", "claude-haiku-4-5"]["requests"] == 1
    spent = admin.get("/governance/users/alice")["budgets"][0]["current_usage"]
    by_user = admin.get("/usage?by=user")
    (alice,) = [row for row in by_user["rows"] if row["user"] == "alice"]
    assert Decimal(alice["cost_usd"]) == Decimal(spent)
    assert found["total_cost_usd"] == by_user["total_cost_usd"]
    again = admin.get("/usage?by=user&by=model")
    assert again["rows"] == found["rows"]
    series = admin.get("/usage?by=team&interval=1d&time_zone=Asia/Kolkata&since=2d")
    assert series["interval"] == "1d"
    assert {row["start"][10:] for row in series["rows"]} == {"T00:00:00+05:30"}
    assert sum(row["requests"] for row in series["rows"]) >= SENT
    assert admin.get("/usage?until=2020-01-01")["rows"] == []
    for wrong in ("by=color", "by=user,user2", "since=soon", "interval=2h", "since=",
                  "interval=1d&time_zone=Mars/Olympus", "since=2026-01-01x"):  # fmt: skip
        problem(admin("GET", f"/usage?{wrong}"), 400)


def test_logs_by_filter_and_page(admin: Admin) -> None:
    def ids(query: str) -> list[str]:
        return [one["request_id"] for one in admin.get(f"/logs?{query}")["items"]]

    everything = ids("key=alice-dev")
    assert len(everything) == SENT
    first = admin.get("/logs?key=alice-dev&limit=2")
    rest = admin.get(f"/logs?key=alice-dev&limit=2&cursor={first['next_cursor']}")
    assert [one["request_id"] for one in first["items"] + rest["items"]] == everything
    assert rest["next_cursor"] is None
    one: Any = first["items"][0]
    assert (one["user"], one["team"], one["customer"]) == ("alice", "core", "acme")
    assert (one["asked_model"], one["model"]) == ("fast", "claude-haiku-4-5")
    assert ids(f"request_id={one['request_id']}") == [one["request_id"]]
    assert ids("model=claude-haiku-*&outcome=ok") == [one["request_id"]]
    (refused,) = admin.get("/logs?outcome=refused&code=model_blocked")["items"]
    assert (refused["key"], refused["status"]) == ("haiku", 400)
    assert ids("status=200&user=alice&team=core&customer=acme&provider=anthropic") == everything
    assert ids("key=alice-dev&from=1h") == everything and ids("to=2020-01-01") == []
    assert ids("min_cost=1000") == [] and set(ids("min_cost=0.000000001")) >= set(everything)
    for wrong in ("from=x", "min_cost=-1", "min_cost=1.5e3", "cursor=x", "limit=0", "status=1",
                  "outcome=bad", "colour=red", "user="):  # fmt: skip
        problem(admin("GET", f"/logs?{wrong}"), 400)
