"""Customers, teams, users and virtual keys through the REST API of a gateway with two workers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from tests.administration import Admin, problem
from tests.running import KEY, RunningGateway, RunningMock, bearer, budget, configuration, message

KEYS = "/governance/virtual-keys"
PEOPLE = ("customers", "teams", "users", "virtual-keys")


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    running = RunningGateway(folder, configuration(mock.url), "--workers", "2")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def admin(gateway: RunningGateway) -> Iterator[Admin]:
    with Admin(gateway) as found:
        yield found


def statuses(url: str, key: str) -> set[int]:
    """What fresh connections with a key get, so that both workers answer some."""
    return {
        httpx.post(f"{url}/v1/messages", headers=bearer(key), json=message()).status_code
        for _ in range(8)
    }


def test_a_hierarchy_is_made_and_read_by_id_and_name(admin: Admin) -> None:
    customer = admin.post("/governance/customers", {"name": "globex", "budgets": budget("900")})
    team = admin.post("/governance/teams", {"name": "ops", "customer_id": "globex"})
    user = admin.post("/governance/users", {"name": "bob", "team_id": team["id"]})
    answer = admin("POST", KEYS, {"name": "bob-ci", "user_id": "bob", "budgets": budget("20")})
    key = admin.data(answer, 201)
    assert (team["customer_id"], user["team_id"]) == (customer["id"], team["id"])
    assert key["user_id"] == user["id"] and key["team_id"] is None
    assert key["value"].startswith("sk-bf-") and len(key["value"]) >= 38
    assert answer.headers["location"] == f"/api{KEYS}/{key['id']}"
    assert httpx.URL(admin.url).join(answer.headers["location"]).path == f"/api{KEYS}/{key['id']}"
    shown = admin.get(f"{KEYS}/bob-ci")
    assert shown == admin.get(f"{KEYS}/{key['id']}")
    assert shown == {name: value for name, value in key.items() if name != "value"}
    (one,) = shown["budgets"]
    assert (one["max_limit"], one["reset_duration"]) == ("20.00", "1M")
    assert (one["current_usage"], one["reserved"]) == ("0", "0")
    assert shown["provider_configs"] == [
        {"provider": "*", "allowed_models": ["*"], "blocked_models": [], "weight": 1.0}
    ]
    assert shown["mcp_configs"] == [] and shown["expires_at"] is None
    assert statuses(admin.url, key["value"]) == {200}


def test_lists_are_pages_by_name_that_a_part_of_a_name_narrows(admin: Admin) -> None:
    for name in ("Zeta-1", "zeta-2", "zeta-3", "other"):
        admin.post("/governance/teams", {"name": name})
    page = admin.get("/governance/teams?q=ZETA&limit=2")
    assert [one["name"] for one in page["items"]] == ["Zeta-1", "zeta-2"]
    assert (page["total"], page["limit"], page["offset"]) == (3, 2, 0)
    rest = admin.get("/governance/teams?q=zeta&limit=2&offset=2")
    assert [one["name"] for one in rest["items"]] == ["zeta-3"]
    everything = admin.get("/governance/teams")
    assert everything["limit"] == 50 and everything["total"] == len(everything["items"])
    assert admin.get("/governance/teams?offset=9999")["items"] == []


def test_a_change_keeps_what_it_does_not_name_and_what_was_spent(admin: Admin) -> None:
    body = {"name": "carol-dev", "budgets": budget("5"), "rate_limits": [
        {"metric": "requests", "max_limit": 60}]}  # fmt: skip
    key = admin.post(KEYS, body)
    assert statuses(admin.url, key["value"]) == {200}
    spent = admin.get(f"{KEYS}/carol-dev")["budgets"][0]["current_usage"]
    assert float(spent) > 0
    path = f"{KEYS}/carol-dev"
    changed = admin.data(admin("PUT", path, {"budgets": budget("7.50")}), 200)
    assert changed["budgets"][0]["id"] == key["budgets"][0]["id"]
    assert changed["budgets"][0]["max_limit"] == "7.50"
    assert changed["budgets"][0]["current_usage"] == spent
    assert changed["rate_limits"] == key["rate_limits"]
    # What GET answers can be sent back, changed or not.
    again = admin.data(admin("PUT", path, changed | {"is_active": False}), 200)
    assert again == changed | {"is_active": False, "updated_at": again["updated_at"]}
    assert statuses(admin.url, key["value"]) == {403}
    gone = admin.data(admin("PUT", path, {"budgets": [], "name": "carol"}), 200)
    assert gone["budgets"] == [] and gone["rate_limits"] == key["rate_limits"]
    problem(admin("GET", path), 404)
    assert admin.get(f"{KEYS}/carol")["id"] == key["id"]


def test_an_owner_that_is_named_replaces_every_other(admin: Admin) -> None:
    team = admin.post("/governance/teams", {"name": "owners"})
    user = admin.post("/governance/users", {"name": "dora", "team_id": "owners"})
    key = admin.post(KEYS, {"name": "dora-dev", "user_id": "dora"})
    path = f"{KEYS}/{key['id']}"
    kept = admin.data(admin("PUT", path, {"team_id": None, "is_active": True}), 200)
    assert kept["user_id"] == user["id"]
    moved = admin.data(admin("PUT", path, {"team_id": "owners"}), 200)
    assert (moved["user_id"], moved["team_id"]) == (None, team["id"])
    freed = admin.data(admin("PUT", path, {"team_id": None}), 200)
    assert (freed["user_id"], freed["team_id"], freed["customer_id"]) == (None, None, None)
    problem(admin("PUT", path, {"team_id": "owners", "user_id": "dora"}), 422)
    problem(admin("POST", "/governance/users",
                  {"name": "x", "team_id": "owners", "customer_id": "acme"}), 422)  # fmt: skip


def test_deleting_refuses_at_once_and_only_what_nothing_belongs_to(admin: Admin) -> None:
    admin.post("/governance/teams", {"name": "leaving"})
    key = admin.post(KEYS, {"name": "leaving-key", "team_id": "leaving"})
    assert statuses(admin.url, key["value"]) == {200}
    answer = admin("DELETE", "/governance/teams/leaving")
    problem(answer, 409, "conflict")
    assert "virtual key 'leaving-key'" in answer.json()["detail"]
    answer = admin("DELETE", f"{KEYS}/leaving-key")
    assert (answer.status_code, answer.content) == (204, b"")
    assert statuses(admin.url, key["value"]) == {401}
    problem(admin("DELETE", f"{KEYS}/leaving-key"), 404, "not_found")
    assert admin("DELETE", "/governance/teams/leaving").status_code == 204


def test_rotation_gives_another_secret_and_ends_the_old(admin: Admin) -> None:
    key = admin.post(KEYS, {"name": "spinning", "value": "sk-bf-" + "s" * 40})
    assert key["value"] == "sk-bf-" + "s" * 40
    rotated = admin.post(f"{KEYS}/spinning/rotate", status=200)
    assert rotated["id"] == key["id"] and rotated["value"] != key["value"]
    assert statuses(admin.url, key["value"]) == {401}
    assert statuses(admin.url, rotated["value"]) == {200}
    assert "value" in problem(admin("PUT", f"{KEYS}/spinning", {"value": key["value"]}), 422)
    problem(admin("POST", f"{KEYS}/spinning/rotate", {"value": "x"}), 422)


def test_what_is_wrong_in_a_body_is_named_all_at_once(admin: Admin) -> None:
    body = {
        "name": " x",
        "user_id": 7,
        "budgts": [],
        "budgets": [
            {"max_limit": 1.5, "reset_duration": "1M"},
            {"max_limit": "1", "reset_duration": "1x", "time_zone": "Europe/Berln"},
        ],
        "provider_configs": [{"provider": "antropic"}],
        "rate_limits": [{"metric": "request", "max_limit": -1}],
        "expires_at": "tomorrow",
        "mcp_configs": [{"server": "x"}],
    }
    found = problem(admin("POST", KEYS, body), 422, "invalid_body")
    assert set(found) == {
        "name", "user_id", "budgts", "budgets[0].max_limit", "budgets[1].reset_duration",
        "budgets[1].time_zone", "provider_configs[0].provider", "rate_limits[0].metric",
        "rate_limits[0].max_limit", "expires_at", "mcp_configs",
    }  # fmt: skip
    assert "did you mean 'budgets'?" in found["budgts"]
    assert "did you mean 'Europe/Berlin'?" in found["budgets[1].time_zone"]
    assert "did you mean 'anthropic'?" in found["provider_configs[0].provider"]
    assert "did you mean 'requests'?" in found["rate_limits[0].metric"]
    assert "'1.5'" in found["budgets[0].max_limit"]


def test_a_dangling_owner_is_told_with_the_nearest_name(admin: Admin) -> None:
    found = problem(admin("POST", KEYS, {"name": "lost", "user_id": "alcie"}), 422)
    assert found == {"user_id": "no user named 'alcie'; did you mean 'alice'?"}
    found = problem(admin("PUT", f"{KEYS}/alice-dev", {"customer_id": "acne"}), 422)
    assert found == {"customer_id": "no customer named 'acne'; did you mean 'acme'?"}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x" * 129}, {"name": "😀" * 125}, {"name": "tab\there"}, {"name": "\ud800"},
        {"name": ""}, {"name": None}, {}, [], "text", 7, None, {"\ud800": 1},
        {"name": "x", "expires_at": "9999-12-31T23:59:59Z"},
        {"name": "x", "value": "env.PATH"}, {"name": "x", "value": "sk-bf-short"},
        {"name": "x", "budgets": [{"max_limit": "99999999999", "reset_duration": "1M"}]},
        {"name": "x", "budgets": [{"max_limit": "-1", "reset_duration": "1M"}]},
        {"name": "x", "budgets": budget("1") + budget("2")},
        {"name": "x", "budgets": [
            {"max_limit": "1", "reset_duration": f"{n}m"} for n in range(1, 26)]},
    ],
    ids=repr,
)  # fmt: skip
def test_no_body_is_more_than_a_mistake(admin: Admin, body: Any) -> None:
    answer = admin.client.post(
        KEYS, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    problem(answer, 422, "invalid_body")


def test_values_from_the_network_never_name_files_or_variables(admin: Admin) -> None:
    made = admin.post("/governance/teams", {"name": "env.HOME"})
    assert made["name"] == "env.HOME"
    problem(admin("POST", KEYS, {"name": "f", "value": "file:/etc/passwd"}), 422)


def test_a_name_in_use_is_a_conflict(admin: Admin) -> None:
    for path in PEOPLE:
        name = {"customers": "acme", "teams": "core", "users": "alice"}.get(path, "alice-dev")
        answer = admin("POST", f"/governance/{path}", {"name": name})
        problem(answer, 409, "conflict")
        assert repr(name) in answer.json()["detail"]
    problem(admin("POST", KEYS, {"name": "twin", "value": KEY}), 409)


def test_names_with_slashes_and_signs_are_found(admin: Admin) -> None:
    for name in ("a/b", "50 %", "naïve ☃", "a?b#c", "vk_nothing"):
        made = admin.post("/governance/users", {"name": name})
        assert admin.get(f"/governance/users/{quote(name, safe='')}")["id"] == made["id"]


def test_a_change_of_what_was_changed_meanwhile_is_refused(admin: Admin) -> None:
    admin.post("/governance/teams", {"name": "tagged", "budgets": budget("10")})
    path = "/governance/teams/tagged"
    first = admin("GET", path).headers["etag"]
    assert admin("GET", path, if_none_match=first).status_code == 304
    assert admin("GET", path, if_none_match=f'"x", W/{first}').status_code == 304
    changed = admin("PUT", path, {"budgets": budget("11")}, if_match=f'"other", {first}')
    second = changed.headers["etag"]
    assert changed.status_code == 200 and second != first
    assert admin("GET", path).headers["etag"] == second
    assert admin("GET", path, if_none_match=first).status_code == 200
    problem(admin("PUT", path, {"budgets": []}, if_match=first), 412, "precondition_failed")
    problem(admin("PUT", path, {"budgets": []}, if_match=f"W/{second}"), 412)
    problem(admin("DELETE", path, if_match=first), 412)
    problem(admin("PUT", "/governance/teams/none", {}, if_match="*"), 404)
    key = admin("POST", KEYS, {"name": "tagged"})
    rotated = admin("POST", f"{KEYS}/tagged/rotate", if_match=key.headers["etag"])
    assert rotated.status_code == 200 and rotated.headers["etag"] != key.headers["etag"]
    problem(admin("POST", f"{KEYS}/tagged/rotate", if_match=key.headers["etag"]), 412)
    assert admin("DELETE", path, if_match="*").status_code == 204


def test_spending_does_not_change_the_tag(admin: Admin) -> None:
    key = admin.post(KEYS, {"name": "spender", "budgets": budget("10")})
    before = admin("GET", f"{KEYS}/spender")
    assert statuses(admin.url, key["value"]) == {200}
    after = admin("GET", f"{KEYS}/spender")
    assert before.headers["etag"] == after.headers["etag"]
    assert before.json()["budgets"] != after.json()["budgets"]


def test_of_many_who_saw_the_same_one_may_change_it(admin: Admin) -> None:
    admin.post("/governance/teams", {"name": "contended"})
    path = "/governance/teams/contended"
    tag = admin("GET", path).headers["etag"]

    def change(number: int) -> int:
        body = {"budgets": budget(str(number + 1))}
        answer = httpx.put(
            f"{admin.url}/api{path}", json=body,
            headers={"authorization": f"Bearer {admin.token}", "if-match": tag},
        )  # fmt: skip
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(change, range(12))) == [200] + [412] * 11


def test_a_repeated_creation_is_made_once_and_answered_alike(
    admin: Admin, gateway: RunningGateway
) -> None:
    body = {"name": "once", "budgets": budget("3")}
    first = admin("POST", KEYS, body, idempotency_key="order-1")
    again = admin("POST", KEYS, body, idempotency_key="order-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content and first.headers["etag"] == again.headers["etag"]
    assert first.headers["location"] == again.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert statuses(admin.url, again.json()["value"]) == {200}
    problem(admin("POST", KEYS, body | {"name": "twice"}, idempotency_key="order-1"),
            409, "idempotency_key_reused")  # fmt: skip
    problem(admin("POST", KEYS, body), 409, "conflict")
    # The same key on another path is another request; what was made stays answered when gone.
    assert admin("POST", "/governance/teams", {"name": "once"}, idempotency_key="order-1")
    assert admin("DELETE", f"{KEYS}/once").status_code == 204
    assert admin("POST", KEYS, body, idempotency_key="order-1").content == first.content
    problem(admin("GET", f"{KEYS}/once"), 404)
    for length in (0, 256):
        problem(admin("POST", KEYS, {"name": "y"}, idempotency_key="k" * length), 400)
    secret = first.json()["value"].encode()
    stored = b"".join(path.read_bytes() for path in (gateway.data_dir / "config").iterdir())
    assert secret not in stored and secret.removeprefix(b"sk-bf-") not in stored


def test_a_repeated_rotation_shows_the_same_secret(admin: Admin) -> None:
    key = admin.post(KEYS, {"name": "turn"})
    tag = admin("GET", f"{KEYS}/turn").headers["etag"]
    turns = [
        admin("POST", f"{KEYS}/{key['id']}/rotate", idempotency_key="turn-1", if_match=tag)
        for _ in range(3)
    ]
    assert {turn.status_code for turn in turns} == {200}
    assert len({turn.content for turn in turns}) == 1
    assert statuses(admin.url, turns[0].json()["value"]) == {200}


def test_many_at_once_with_one_key_make_one(admin: Admin) -> None:
    def create(_: int) -> tuple[int, bytes]:
        answer = httpx.post(
            f"{admin.url}/api{KEYS}", json={"name": "crowd"},
            headers={"authorization": f"Bearer {admin.token}", "idempotency-key": "crowd"},
        )  # fmt: skip
        return answer.status_code, answer.content

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(create, range(16)))
    assert {status for status, _ in answers} == {201} and len(answers) == 1


def test_changes_are_recorded_as_the_administrators(admin: Admin, gateway: RunningGateway) -> None:
    made = admin("POST", "/governance/teams", {"name": "recorded"}, x_request_id="audit-me.1")
    assert made.headers["x-request-id"] == "audit-me.1"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        logged = [events.decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 100_000)]
        found = [
            (one.actor, one.action, one.reason)
            for one in logged
            if isinstance(one, events.PolicyChange) and one.id == made.json()["id"]
        ]
        if found:
            break
        time.sleep(0.1)
    assert found == [("admin", "create", "request audit-me.1")]
