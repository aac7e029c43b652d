"""Who may use the REST API: the admin token, its loss, wrong ones; and what HTTP asks of all."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost import create_app
from bifrost.admin.access import BURST, MOST_ADDRESSES, REFILL_S, Attempts
from bifrost.admin.api import operations
from bifrost.admin.table import OWN_KEY, PERMISSIONS, PUBLIC
from tests.administration import Admin, problem
from tests.commands import Office
from tests.running import KEY, RunningGateway, configuration

TEAMS = "/governance/teams"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = configuration("http://127.0.0.1:9")
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config, "--workers", "2")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def admin(gateway: RunningGateway) -> Iterator[Admin]:
    with Admin(gateway) as found:
        yield found


ASKS_WITH_A_BODY = {"verify_audit_logs"}  # changes nothing, but what it needs fits no query


def test_every_operation_declares_its_permission() -> None:
    rows = operations()
    for row in rows:
        assert row.permission in PERMISSIONS | {PUBLIC, OWN_KEY}, row.name
        if row.permission not in (PUBLIC, OWN_KEY):
            verb = row.permission.partition(":")[2]
            reads = row.method == "GET" or row.name in ASKS_WITH_A_BODY
            assert verb == ("read" if reads else "write"), row.name
    open_ones = {row.name for row in rows if row.permission in (PUBLIC, OWN_KEY)}
    assert open_ones == {"get_openapi", "get_quota"}


@pytest.mark.parametrize("row", operations(), ids=lambda row: row.name)
def test_no_operation_is_done_without_a_credential(admin: Admin, row: Any) -> None:
    path = re.sub(r"\{\w+\}", "acme", row.path)
    answer = httpx.request(row.method, f"{admin.url}{path}")
    if row.permission == PUBLIC:
        assert answer.status_code == 200
        return
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    if row.permission != OWN_KEY:
        # A virtual key is no admin token. (Each attempt counts, so only one operation tries.)
        if row.name == "get_config":
            answer = httpx.get(f"{admin.url}{path}", headers={"authorization": f"Bearer {KEY}"})
            problem(answer, 401, "admin_token_required")


def test_other_schemes_are_no_credential(admin: Admin) -> None:
    for header in ("", "Basic YTpi", "Bearer", admin.token):
        answer = httpx.get(f"{admin.url}/api{TEAMS}", headers={"authorization": header})
        problem(answer, 401, "admin_token_required")
    lower = {"authorization": f"bearer {admin.token}"}
    assert httpx.get(f"{admin.url}/api{TEAMS}", headers=lower).status_code == 200


def test_the_quota_takes_no_admin_token(admin: Admin) -> None:
    problem(admin("GET", "/governance/virtual-keys/quota"), 401, "virtual_key_required")


def test_wrong_tokens_are_slowed_down_per_address() -> None:
    attempts = Attempts()
    for _ in range(BURST - 1):
        attempts.failed("a")
        assert attempts.wait_s("a") == 0
    attempts.failed("a")
    assert 0 <= attempts.wait_s("a") <= REFILL_S
    attempts.failed("a")
    assert 0 < attempts.wait_s("a") <= 2 * REFILL_S
    assert attempts.wait_s("b") == 0
    for number in range(2 * MOST_ADDRESSES):
        attempts.failed(str(number))
    assert len(attempts._full) == MOST_ADDRESSES


def test_guessing_ends_in_429_and_a_lost_token_is_replaced_at_once(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, configuration("http://127.0.0.1:9"))
    try:
        with Admin(gateway) as admin:
            url = f"{admin.url}/api{TEAMS}"
            office = Office(gateway.data_dir)
            assert office.json("admin-token")["admin_token"] is None
            assert "--rotate makes a new one" in office("admin-token").out
            token = office.json("admin-token", "--rotate")["admin_token"]
            problem(admin("GET", TEAMS), 401)
            assert httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200
            for _ in range(2 * BURST):
                answer = httpx.get(url, headers={"authorization": "Bearer bf-admin-guess"})
                if answer.status_code == 429:
                    break
            problem(answer, 429, "too_many_attempts")
            assert 1 <= int(answer.headers["retry-after"]) <= 2 * REFILL_S
            # Even the right one is not looked at now.
            right = httpx.get(url, headers={"authorization": f"Bearer {token}"})
            assert right.status_code == 429
            stored = (gateway.data_dir / "config" / "data.mdb").read_bytes()
            assert token.encode() not in stored and token[9:].encode() not in stored
    finally:
        gateway.stop()


def test_an_embedded_app_mints_a_token_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        app = create_app(data_dir=tmp_path / "data")
        await app.start()
        try:
            found = re.search(r"Admin token, shown once: (bf-admin-\S+)", capfd.readouterr().err)
            assert found is not None
            transport = httpx.ASGITransport(app)
            headers = {"authorization": f"Bearer {found[1]}"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://gateway", headers=headers
            ) as client:
                made = await client.post("/api/governance/teams", json={"name": "core"})
                assert made.status_code == 201
                listed = await client.get("/api/governance/teams")
                assert [one["name"] for one in listed.json()["items"]] == ["core"]
                assert (await client.get("/api/usage")).status_code in (200, 503)
        finally:
            await app.stop()

    asyncio.run(run())
    assert "bf-admin" not in Office(tmp_path / "data")("admin-token").out


def test_mounted_below_a_path_it_is_found_and_says_where_things_are(tmp_path: Path) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    async def run() -> None:
        app = create_app(data_dir=tmp_path / "data")
        await app.start()
        try:
            token = "bf-admin-mounted"
            assert app.core is not None
            directory = app.core.directory
            directory.set_meta("admin_token", directory.digest(token.encode()), overwrite=True)
            outer = Starlette(routes=[Mount("/gate way", app)])
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(outer), base_url="http://host",
                headers={"authorization": f"Bearer {token}"},
            ) as client:  # fmt: skip
                made = await client.post("/gate%20way/api/governance/teams", json={"name": "a/b"})
                assert made.status_code == 201, made.text
                where = made.headers["location"]
                assert (await client.get(where)).json()["name"] == "a/b"
                named = await client.get("/gate%20way/api/governance/teams/a%2Fb")
                assert named.json()["id"] == made.json()["id"]
        finally:
            await app.stop()

    asyncio.run(run())


def test_unknown_paths_and_methods(admin: Admin) -> None:
    for path in (
        "",
        "/",
        "/nothing",
        f"{TEAMS}/",
        f"{TEAMS}//",
        f"{TEAMS}/a/b/c",
        "/providers/a/b",
    ):
        problem(admin("GET", path), 404, "not_found")
    answer = admin("PATCH", f"{TEAMS}/core")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"
    for method in ("PUT", "POST", "DELETE", "OPTIONS", "TRACE"):
        answer = admin(method, "/providers/anthropic")
        problem(answer, 405)
        assert answer.headers["allow"] == "GET, HEAD"
    assert "access-control-allow-origin" not in admin("OPTIONS", TEAMS).headers
    head = admin("HEAD", TEAMS)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == "application/json"


def test_bodies_that_are_no_json_or_too_large(admin: Admin) -> None:
    post = admin.client.post
    kind = {"content-type": "application/json"}
    for body in (b"{", b"\xff", b"[" * 100_000, b'{"name": NaN}', b"1" * 5000):
        problem(post(TEAMS, content=body, headers=kind), 400, "invalid_request")
    found = problem(post(TEAMS, content=b'{"name":"a","name":"b"}', headers=kind), 422)
    assert found == {"name": "given more than once"}
    problem(post(TEAMS), 400)
    problem(post(TEAMS, content=b'{"name":"a"}'), 415, "unsupported_media_type")
    problem(post(TEAMS, data={"name": "a"}), 415)
    problem(post(TEAMS, content=b"x", headers=kind | {"content-encoding": "gzip"}), 415)
    large = b'{"name":"' + b"x" * (1 << 20) + b'"}'
    problem(post(TEAMS, content=large, headers=kind), 413, "request_too_large")
    problem(post(TEAMS, content=iter([large]), headers=kind), 413)
    spelled = {"content-type": "Application/JSON; charset=utf-8"}
    assert post(TEAMS, content=b'{"name":"utf"}', headers=spelled).status_code == 201


def test_query_parameters_are_read_strictly(admin: Admin) -> None:
    found = problem(admin("GET", f"{TEAMS}?limt=1&offset=-1&q=a&q=b"), 400, "invalid_request")
    assert set(found) == {"limt", "offset", "q"}
    assert "did you mean 'limit'?" in found["limt"]
    for query in ("limit=0", "limit=1001", "limit=x", "limit=", "offset=9e9", "limit=null", "q=%ff",
                  "q=%00", "=", "a", "q=" + "x" * 129):  # fmt: skip
        problem(admin("GET", f"{TEAMS}?{query}"), 400)


def test_a_store_that_fails_is_503_and_comes_back(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, configuration("http://127.0.0.1:9"))
    try:
        with Admin(gateway) as admin:
            deadline = time.monotonic() + 20
            while admin("GET", "/usage").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.05)
            link = gateway.data_dir / "usage.db"
            link.rename(tmp_path / "aside")
            link.write_bytes(b"this is no database" * 100)
            answer = admin("GET", "/usage")
            problem(answer, 503, "gateway_unavailable")
            assert int(answer.headers["retry-after"]) > 0
            (tmp_path / "aside").replace(link)  # unless the steward has made it anew by itself
            assert admin("GET", "/usage").status_code == 200
    finally:
        gateway.stop()


def test_the_documented_commands_work(admin: Admin) -> None:
    text = (Path(__file__).parent.parent / "docs" / "admin-api.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    environment = os.environ | {
        "GATEWAY": admin.url, "AUTH": f"Authorization: Bearer {admin.token}"
    }  # fmt: skip
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    (team,) = admin.get("/governance/teams?q=platform")["items"]
    assert team["budgets"][0]["max_limit"] == "500.00"
    assert admin.get("/governance/virtual-keys/ann-dev")["is_active"] is False


def test_the_documented_routes_exist() -> None:
    text = (Path(__file__).parent.parent / "docs" / "admin-api.md").read_text()
    for row in operations():
        last = [part for part in row.segments if part[0] != "{"][-1]
        assert last in text, row.path
