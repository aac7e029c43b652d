"""Retention of a running gateway, as its configuration says it; and the commands about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.audit.notes import PublicKey
from bifrost.audit.proofs import check
from bifrost.audit.segments import segments
from tests.administration import Admin, problem
from tests.commands import Office, until
from tests.running import RunningGateway, configuration


def kept(**retention: Any) -> dict[str, Any]:
    return {
        **configuration("http://127.0.0.1:9"),
        "enterprise": {"audit_logs": {"retention": retention}},
    }


@pytest.mark.timeout(300)
def test_a_gateway_archives_and_everything_reads_on(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, kept(archive_after="2s", duration="1h"))
    try:
        office = Office(gateway.data_dir)
        with Admin(gateway) as admin:
            for number in range(5):
                admin.post("/governance/teams", {"name": f"team-{number}"})
            until(lambda: office.json("audit", "status")["archived"] >= 1, 90)
            first = admin.get("/audit-logs/0")
            assert first["covered"] and first["event"]["type"]
            signed = admin.get("/audit-logs/checkpoint")
            proof = admin.get("/audit-logs/0/proof")["proof"]
            assert check(proof, PublicKey.parse(signed["keys"][0])).index == 0
            rows = admin.get("/audit-logs?type=retention&limit=1000")["items"]
            assert {row["event"]["action"] for row in rows} == {"archive"}
            lines = admin("GET", "/audit-logs/export").text.splitlines()
            assert len(lines) > 5 and '"index":0,' in lines[0]
        verdict = office("audit", "verify", "--json")
        assert verdict.code == 0 and verdict.json["checked"] == verdict.json["size"]
        assert office("audit", "verify", "--quick").code == 0
        assert office("audit", "export", "-o", tmp_path / "lines").code == 0
        assert '"index":0,' in (tmp_path / "lines").read_text()
        assert office("usage").code == 0
        metrics = httpx.get(f"{gateway.url}/metrics", timeout=30).text
        assert 'bifrost_audit_overdue_seconds{step="archive"} ' in metrics
        shown = office("audit", "status").out
        assert "archived" in shown and "TROUBLE" not in shown
    finally:
        gateway.stop()
    assert Office(gateway.data_dir)("audit", "verify").code == 0


@pytest.mark.timeout(300)
def test_a_gateway_removes_what_is_over_unless_it_is_held(tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, kept(archive_after="2s", duration="20s"))
    try:
        office = Office(gateway.data_dir)
        done = office("audit", "hold", "add", "case-7", "--reason", "a suit")
        assert done.code == 0 and "is set" in done.out
        assert office("audit", "hold", "add", "case-7").code == 1
        assert office("audit", "hold", "add", "../x").code == 1
        [held] = office.json("audit", "hold", "list")
        assert held["name"] == "case-7" and held["actor"].startswith("cli:")
        with Admin(gateway) as admin:
            until(lambda: office.json("audit", "status")["archived"] >= 1, 90)
            assert office.json("audit", "status")["minimum"] == 0
            assert office("audit", "hold", "remove", "case-7").code == 0
            until(lambda: office.json("audit", "status")["minimum"] > 0, 120)
            problem(admin("GET", "/audit-logs/0"), 404, "not_found")
            assert "was removed" in admin("GET", "/audit-logs/0/proof").text
        assert "was removed" in office("audit", "show", "0").err
        assert "was removed" in office("audit", "prove", "0").err
        verdict = office("audit", "verify")
        assert verdict.code == 0 and "when their time was over" in " ".join(verdict.out.split())
        assert office("audit", "verify", "--quick").code == 0
        assert office("usage", "rebuild").code == 0
        assert office("audit", "export", "-o", tmp_path / "lines").code == 0
    finally:
        gateway.stop()


@pytest.mark.timeout(300)
def test_an_archive_that_is_away_is_told_and_the_log_goes_on(tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    config = kept(archive_after="2s", archive={"directory": "mounted"})
    gateway = RunningGateway(tmp_path, config)
    try:
        office = Office(gateway.data_dir)
        until(lambda: office.json("audit", "status")["archived"] >= 1, 90)
        place.rename(tmp_path / "away")
        assert office("audit", "verify").code == 2
        assert "NOT WHOLLY READ" in office("audit", "verify").out
        office.json("teams", "create", "--name", "meanwhile")

        def recorded() -> bool:  # what is here can be read, whatever is out of reach
            low = segments(gateway.data_dir / "audit")[0]
            return any(b"meanwhile" in raw for _, raw in Reader(gateway.data_dir).read(low, 10_000))

        until(recorded, 30)
        until(lambda: "mount its volume" in office.json("audit", "status")["trouble"], 90)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("BIFROST_AUDIT_ARCHIVE", str(tmp_path / "away"))
            assert office("audit", "verify").code == 0
        (tmp_path / "away").rename(place)
        assert office("audit", "verify").code == 0
    finally:
        gateway.stop()


def test_a_hold_is_on_the_disk_before_the_command_returns(tmp_path: Path) -> None:
    office = Office(tmp_path / "data")
    office.json("customers", "create", "--name", "acme")
    for done in (("add", "case-7", "--reason", "discovery"), ("remove", "case-7")):
        assert office("audit", "hold", *done).code == 0
    logged = [events.decode(raw) for _, raw in Reader(office.data_dir).read(0, 100)]
    steps = [one for one in logged if isinstance(one, events.RetentionStep)]
    assert [(one.action, one.name) for one in steps] == [("hold", "case-7"), ("release", "case-7")]
