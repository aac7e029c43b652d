"""Legal holds over HTTP: recorded before they are acknowledged, the same as the command's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost import recorder
from bifrost.audit import events, holds, policy
from bifrost.audit.log import Reader
from bifrost.core import stores
from bifrost.errors import StoreError
from bifrost.recorder import Recorder
from bifrost.stewardship import Stewardship
from tests.administration import Admin, problem
from tests.commands import Office
from tests.running import RunningGateway, configuration

HOLDS = "/audit-logs/holds"


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    running = RunningGateway(
        tmp_path_factory.mktemp("gateway"), configuration("http://127.0.0.1:9")
    )
    with Admin(running) as found:
        yield found
    running.stop()


def told(data_dir: Path, name: str) -> list[tuple[str, str, str]]:
    """What the log says of a hold: action, who, why."""
    found = [events.decode(raw) for _, raw in Reader(data_dir).read(0, 1 << 30)]
    return [
        (one.action, one.actor, one.reason)
        for one in found
        if isinstance(one, events.RetentionStep) and one.name == name
    ]


def names(admin: Admin) -> list[str]:
    return [one["name"] for one in admin.get(HOLDS)["items"]]


def test_a_hold_is_in_the_log_when_it_is_answered(admin: Admin) -> None:
    answer = admin("POST", HOLDS, {"name": "case-7", "reason": "Smith v. Acme"})
    assert told(admin.data_dir, "case-7") == [("hold", "admin", "Smith v. Acme")]
    made = admin.data(answer, 201)
    assert (made["name"], made["set_by"], made["reason"]) == ("case-7", "admin", "Smith v. Acme")
    assert made["set_at"].endswith("Z")
    assert answer.headers["location"] == f"/api{HOLDS}/case-7"
    assert admin.get(f"{HOLDS}/case-7") == made and made in admin.get(HOLDS)["items"]
    assert admin("DELETE", f"{HOLDS}/case-7?reason=settled").status_code == 204
    assert told(admin.data_dir, "case-7")[1:] == [("release", "admin", "settled")]
    assert "case-7" not in names(admin)
    problem(admin("GET", f"{HOLDS}/case-7"), 404, "not_found")


def test_without_a_reason_the_end_of_a_hold_names_the_request(admin: Admin) -> None:
    admin.post(HOLDS, {"name": "brief", "reason": "a test"})
    assert admin("DELETE", f"{HOLDS}/brief", x_request_id="ending-1").status_code == 204
    assert told(admin.data_dir, "brief")[1:] == [("release", "admin", "request ending-1")]


def test_what_cannot_be_is_refused_and_not_recorded(admin: Admin) -> None:
    admin.post(HOLDS, {"name": "twice", "reason": "the first"})
    problem(admin("POST", HOLDS, {"name": "twice", "reason": "the second"}), 409, "conflict")
    assert admin.get(f"{HOLDS}/twice")["reason"] == "the first"
    problem(admin("DELETE", f"{HOLDS}/nobody"), 404, "not_found")
    problem(admin("DELETE", f"{HOLDS}/..%2Fcheckpoint"), 404, "not_found")
    assert len(told(admin.data_dir, "twice")) == 1 and not told(admin.data_dir, "nobody")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"name": "no-reason"}, "reason"),
        ({"name": "empty", "reason": ""}, "reason"),
        ({"reason": "no name"}, "name"),
        ({"name": "../x", "reason": "r"}, "name"),
        ({"name": "x" * 65, "reason": "r"}, "name"),
        ({"name": "a", "reason": "r", "actor": "somebody"}, "actor"),
    ],
)
def test_a_hold_needs_a_name_and_a_reason(admin: Admin, body: dict[str, Any], place: str) -> None:
    assert set(problem(admin("POST", HOLDS, body), 422, "invalid_body")) == {place}


def test_a_hold_may_be_called_like_a_path_beside_it(admin: Admin) -> None:
    for name in ("proof", "0"):
        admin.post(HOLDS, {"name": name, "reason": "named so"})
        assert admin("DELETE", f"{HOLDS}/{name}").status_code == 204


def test_the_command_and_the_api_speak_of_the_same_holds(admin: Admin) -> None:
    office = Office(admin.data_dir)
    assert office("audit", "hold", "add", "by-hand", "--reason", "a suit").code == 0
    found = admin.get(f"{HOLDS}/by-hand")
    assert found["set_by"].startswith("cli:") and found["reason"] == "a suit"
    assert admin("DELETE", f"{HOLDS}/by-hand").status_code == 204
    admin.post(HOLDS, {"name": "over-http", "reason": "a suit"})
    assert "over-http" in [one["name"] for one in office.json("audit", "hold", "list")]
    assert office("audit", "hold", "remove", "over-http").code == 0
    assert "over-http" not in names(admin)


def test_a_hold_that_is_not_recorded_is_not_set_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stores(tmp_path) as (directory, gate):
        directory.create("team", "core")  # there is a log
        records = Recorder(tmp_path, lambda: gate)
        folder = tmp_path / "audit"
        holds.add(folder, "kept", "cli:ann", "a suit", lambda: records.hold("hold", "kept"))
        lock = Stewardship(tmp_path)
        assert lock.take()  # somebody is steward, and does nothing
        monkeypatch.setattr(recorder, "PATIENCE_S", 0.05)
        with policy.acting("cli:ann"):
            with pytest.raises(StoreError, match="refused and not made"):
                holds.add(folder, "late", "cli:ann", "", lambda: records.hold("hold", "late"))
            with pytest.raises(StoreError, match="refused and not made"):
                holds.release(folder, "kept", lambda: records.hold("release", "kept"))
        assert [one.name for one in holds.holds(folder)] == ["kept"]
        lock.give_up()
        holds.release(folder, "kept", lambda: records.hold("release", "kept"))
        records.close()
    found = [events.decode(raw) for _, raw in Reader(tmp_path).read(0, 100)]
    numbers = [one.seq for one in found]
    withdrawn = [one.withdrawn for one in found if isinstance(one, events.Withdrawn)]
    assert withdrawn == [(numbers[2],), (numbers[4],)]
    assert [type(one).__name__ for one in found].count("RetentionStep") == 4
