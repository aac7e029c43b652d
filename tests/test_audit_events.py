"""What is recorded besides requests and changes: who came, when the gateway lived, the clock."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import msgspec
import psutil
import pytest

from bifrost import __version__
from bifrost.audit import clock, events
from bifrost.audit.arrivals import Arrivals
from bifrost.audit.events import Authentication
from bifrost.audit.log import Reader
from bifrost.config.load import default_settings, digest, load
from bifrost.core import Core, stores
from bifrost.steward import Steward
from tests.administration import Admin, problem
from tests.commands import until
from tests.running import KEY, RunningGateway, bearer, configuration, message

DOCS = Path(__file__).parent.parent / "docs" / "audit.md"


def logged(folder: Path) -> list[events.Event]:
    return [events.decode(raw) for _, raw in Reader(folder).read(0, 100_000)]


def came(folder: Path, **fields: Any) -> list[Authentication]:
    """The authentications with these fields."""
    return [
        event
        for event in logged(folder)
        if isinstance(event, Authentication)
        and all(getattr(event, name) == value for name, value in fields.items())
    ]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("gateway")
    running = RunningGateway(folder, configuration("http://127.0.0.1:9"))
    with Admin(running) as found:
        yield found
    running.stop()


def _folder(admin: Admin) -> Path:
    return admin.data_dir


# -- the doors -----------------------------------------------------------------------------------


def test_who_comes_to_the_api_is_on_the_disk_before_the_answer(admin: Admin) -> None:
    folder = _folder(admin)
    admin("GET", "/governance/teams", x_request_id="first-1")
    (allowed,) = came(folder, door="api", outcome="allowed")
    assert (allowed.actor, allowed.client, allowed.count) == ("admin", "127.0.0.1", 1)
    for number in range(3):
        answer = httpx.get(
            f"{admin.url}/api/governance/teams",
            headers={"authorization": "Bearer bf-admin-wrong", "x-request-id": f"bad-{number}"},
        )
        problem(answer, 401)
        (refused,) = came(folder, door="api", outcome="refused")  # further ones are counted
    assert (refused.code, refused.what) == ("admin_token_required", "list_teams")
    assert refused.request == "bad-0" and refused.actor is None
    raw = b"".join(raw for _, raw in Reader(folder).read(0, 100_000))
    assert b"bf-admin-wrong" not in raw and admin.token.encode() not in raw


def test_keys_that_open_nothing_are_recorded_and_a_flood_is_counted(admin: Admin) -> None:
    folder = _folder(admin)

    def ask(key: str) -> int:
        return httpx.post(
            f"{admin.url}/v1/messages", headers=bearer(key), json=message()
        ).status_code

    for _ in range(20):
        assert ask("sk-bf-unknown-0123456789abcdefghijklmnopqrs") == 401
    for number in range(100):
        assert ask(f"sk-bf-flood-{number:04}-0123456789abcdefghijklmn") == 401
    admin.data(admin("PUT", f"/governance/virtual-keys/{_key(admin)}", {"is_active": False}), 200)
    assert ask(KEY) == 403
    until(lambda: came(folder, door="models", code="virtual_key_blocked"))
    unknown = came(folder, door="models", code="virtual_key_not_found")
    assert len(unknown) <= 66 and unknown[-1].lumped
    assert len({event.credential for event in unknown}) == len(unknown)
    assert unknown[0].client == "127.0.0.1" and len(unknown[0].credential or "") == 16
    (blocked,) = came(folder, door="models", code="virtual_key_blocked")
    assert blocked.key == _key(admin) and blocked.credential is None


def _key(admin: Admin) -> str:
    found: str = admin.get("/governance/virtual-keys?q=alice-dev")["items"][0]["id"]
    return found


def test_what_was_counted_is_told_at_the_latest_with_the_stop(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, configuration("http://127.0.0.1:9"))
    for _ in range(5):
        httpx.post(f"{gateway.url}/v1/messages", headers=bearer("sk-bf-" + "x" * 40), json={})
        httpx.get(f"{gateway.url}/api/config")
    gateway.stop()
    for door in ("api", "models"):
        first, rest = came(gateway.data_dir, door=door, outcome="refused")
        assert (first.count, rest.count) == (1, 4) and first.at < rest.at < rest.until
    lives = [one for one in logged(gateway.data_dir) if isinstance(one, events.GatewayLife)]
    assert [one.action for one in lives] == ["start", "stop"]
    settings = load(gateway.config).settings
    assert {(one.version, one.config) for one in lives} == {(__version__, lives[0].config)}
    assert len(lives[0].config) == 64 and lives[0].workers == settings.server.workers


def test_arrivals_are_bounded_and_all_counted() -> None:
    now = [0.0]
    arrivals = Arrivals(60.0, 4, lambda: now[0])
    told = []

    def come(who: int, at: int) -> None:
        event = arrivals.note(
            Authentication(at=at, door="models", outcome="refused", code="c", client=str(who))
        )
        told.extend([event] if event else [])

    for at in range(1, 1001):
        come(at % 10, at)
    assert len(told) == 5 and told[-1].lumped and told[-1].client is None
    assert arrivals.due() == []
    now[0] = 61.0
    rest = arrivals.due()
    assert len(rest) == 5 and sum(one.count for one in told + rest) == 1000
    assert arrivals.due(everything=True) == []
    come(1, 2000)
    assert told[-1].at == 2000 and not told[-1].lumped


# -- fail closed ---------------------------------------------------------------------------------


def test_no_change_is_made_while_the_log_does_not_take_its_record(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, configuration("http://127.0.0.1:9"))
    with Admin(gateway) as admin:
        admin.get("/governance/teams")
        children = psutil.Process(gateway.process.pid).children()
        stewards = [one for one in children if _is_steward(gateway.data_dir, one.pid)]
        assert len(stewards) == 1
        stewards[0].suspend()
        try:
            answer = admin.client.post("/governance/teams", json={"name": "late"}, timeout=60)
            problem(answer, 503, "gateway_unavailable")
            assert "refused and not made" in answer.json()["detail"]
            wrong = {"authorization": "Bearer bf-admin-wrong"}
            for _ in range(2):  # who comes cannot be recorded either, however often
                late = httpx.get(f"{admin.url}/api/config", headers=wrong, timeout=60)
                problem(late, 503, "gateway_unavailable")
        finally:
            stewards[0].resume()
        assert [team["name"] for team in admin.get("/governance/teams")["items"]] == ["core"]
        admin.post("/governance/teams", {"name": "late"})
    gateway.stop()
    told = [one for one in logged(gateway.data_dir) if isinstance(one, events.Withdrawn)]
    assert len(told) == 1 and len(told[0].withdrawn) == 1


def _is_steward(data_dir: Path, pid: int) -> bool:
    inode = (data_dir / "steward.lock").stat().st_ino
    locks = Path("/proc/locks").read_text()
    return re.search(rf"FLOCK +\w+ +WRITE +{pid} +\w+:\w+:{inode} ", locks) is not None


# -- the gateway's life, the clock ---------------------------------------------------------------


def test_an_embedded_gateway_tells_of_its_life(tmp_path: Path) -> None:
    core = Core(default_settings(), tmp_path)
    core.start_steward()
    core.close()
    start, stop = [one for one in logged(tmp_path) if isinstance(one, events.GatewayLife)]
    assert (start.action, stop.action) == ("start", "stop")
    assert start.config == stop.config == digest(default_settings())


def test_another_configuration_is_an_event(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, configuration("http://127.0.0.1:9"))
    changed = json.loads(gateway.config.read_text()) | {"help_url": "https://help.example"}
    gateway.config.write_text(json.dumps(changed))
    gateway.process.send_signal(signal.SIGHUP)

    def configured() -> list[events.GatewayLife]:
        found = [one for one in logged(gateway.data_dir) if isinstance(one, events.GatewayLife)]
        return [one for one in found if one.action == "configure"]

    until(configured)
    gateway.stop()
    (one,) = configured()
    assert one.before != one.config and one.before is not None


def test_a_step_of_the_clock_is_recorded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = [0]
    monkeypatch.setattr(clock.Clock, "_difference", lambda _: apart[0])
    with stores(tmp_path) as (directory, gate):
        steward = Steward(tmp_path, gate, directory)
        for step in (0, 900_000_000, 3_600_000_000_000, 3_600_000_000_000, 5_000_000_000):
            apart[0] = step
            steward._check_clock()
        steward.close()
    steps = [one.step for one in logged(tmp_path) if isinstance(one, events.ClockStep)]
    assert steps == [3_600_000_000_000, 5_000_000_000 - 3_600_000_000_000]


def test_the_real_clock_does_not_step() -> None:
    watched = clock.Clock()
    time.sleep(0.01)
    assert watched.step() == 0


# -- the documentation ---------------------------------------------------------------------------


def test_the_documented_table_of_events_is_the_code() -> None:
    _, _, section = DOCS.read_text().partition("\n## Events\n")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", section.partition("\n## ")[0], re.M)
    documented = {tag: set(re.findall(r"`(\w+)`", fields)) for tag, fields in rows}
    coded = {}
    for kind in get_args(events.Event):
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        coded[str(info.tag)] = {field.encode_name for field in info.fields} - {"v", "seq", "at"}
    assert documented == coded
