"""``bifrost audit`` as an auditor uses it: beside a gateway, on a copy, with only a proof."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from tests.commands import Office, bifrost, until
from tests.evidence import copied, entry, payloads, rewritten, written
from tests.running import BIFROST, RunningGateway, configuration, environment


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path_factory.mktemp("gw"), configuration("http://127.0.0.1:9"))
    yield running
    running.stop()


def test_a_running_gateways_log_verifies_and_so_does_a_copy(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    office = Office(gateway.data_dir)
    for number in range(5):
        office.json("teams", "create", "--name", f"team-{number}")

    def covered() -> bool:
        found = office("audit", "verify", "--json")
        return found.code == 0 and "team-4" in office("audit", "show", "--type", "policy").out

    until(covered)
    until(lambda: office("audit", "verify", "--json").json["not_covered"] == 0)
    kept, key = tmp_path / "kept", tmp_path / "audit.pub"
    kept.write_text(office("audit", "checkpoint").out)
    key.write_text(office("audit", "public-key").out)
    done = office("audit", "verify", "--checkpoint", kept, "--public-key", key)
    assert done.code == 0 and ": intact" in done.out and "Proved:" in done.out
    assert office("audit", "verify", "--quick").code == 0
    assert office("audit", "verify", "--since", kept).code == 0
    copy = copied(gateway.data_dir / "audit", tmp_path / "copy")
    before = len(payloads(copy))
    for more in ((), ("--quick",), ("--since", kept), ("--checkpoint", kept)):
        assert bifrost("audit", "verify", "--data-dir", copy, *more).code == 0
    shown = bifrost("audit", "show", "--data-dir", copy, "--action", "create", "--json").out
    rows = [json.loads(line) for line in shown.splitlines()]
    assert {f"team-{number}" for number in range(5)} <= {row["entry"]["name"] for row in rows}
    lines = tmp_path / "lines.jsonl"
    assert bifrost("audit", "export", "--data-dir", copy, "-o", lines).code == 0
    *entries, last = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["index"] for row in entries] == list(range(before))
    assert last["checkpoint"].startswith(entries[0]["origin"])
    given = ("--data-dir", copy, "--format", "ocsf", "-o", lines)
    assert bifrost("audit", "export", *given).code == 0
    *told, last = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["metadata"]["sequence"] for row in told] == list(range(before))
    assert last["unmapped"]["checkpoint"].startswith(entries[0]["origin"])
    assert len(payloads(copy)) == before


def test_a_proof_is_made_beside_the_gateway_and_checked_anywhere(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    office = Office(gateway.data_dir)
    until(lambda: office("audit", "prove", "0").code == 0)
    proof, key = tmp_path / "0.tlog-proof", tmp_path / "audit.pub"
    proof.write_text(office("audit", "prove", "0").out)
    key.write_text(office("audit", "public-key").out)
    done = bifrost("audit", "check-proof", proof, "--public-key", key)
    assert done.code == 0 and json.loads(done.out)["seq"] and "Proved: entry 0" in done.err
    text = bifrost("audit", "check-proof", proof, "--public-key", key.read_text(), "--json").json
    assert text["index"] == 0 and text["key"] == key.read_text().strip()
    proof.write_text(proof.read_text().replace("index 0", "index 1"))
    done = bifrost("audit", "check-proof", proof, "--public-key", key)
    assert done.code == 1 and done.err.startswith("NOT PROVED")
    assert bifrost("audit", "check-proof", tmp_path / "none", "--public-key", key).code == 2
    assert bifrost("audit", "check-proof", proof, "--public-key", "nonsense").code == 2
    assert "no entry 999999" in office("audit", "prove", "999999").err


def test_readings_at_the_terminal_are_recorded(gateway: RunningGateway, tmp_path: Path) -> None:
    office = Office(gateway.data_dir)
    until(lambda: office("audit", "show", "0").code == 0)
    office("audit", "export", "--type", "policy", "-o", tmp_path / "x")

    def readings() -> set[tuple[str, str]]:
        found = [events.decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 10_000)]
        return {
            (one.action, one.actor.partition(":")[0])
            for one in found if isinstance(one, events.AuditAccess)
        }  # fmt: skip

    until(lambda: {("show", "cli"), ("export", "cli")} <= readings())


def test_exit_codes_tell_intact_from_tampered_from_unreadable(tmp_path: Path) -> None:
    folder = written(tmp_path, 20)
    office = Office(tmp_path)
    assert office("audit", "verify").code == 0
    rows = payloads(folder)
    rewritten(folder, [*rows[:6], entry(999), *rows[7:]])
    done = office("audit", "verify")
    assert done.code == 1 and "NOT INTACT" in done.out and "First bad entry: 6" in done.out
    done = office("audit", "verify", "--json")
    assert done.code == 1 and json.loads(done.out)["first_bad"] == 6
    assert json.loads(done.out)["intact"] is False and json.loads(done.out)["proved"] == []
    done = office("audit", "prove", "6")
    assert done.code == 2 and "DAMAGED" in done.err
    (folder / "checkpoint").write_text("x")
    assert office("audit", "verify").code == 1
    (folder / "checkpoint").unlink()
    assert (done := office("audit", "verify")).code == 2 and "no checkpoint" in done.err
    done = bifrost("audit", "verify", "--data-dir", tmp_path / "nothing")
    assert done.code == 2 and "no audit log" in done.err
    assert office("audit", "verify", "--since", "a", "--checkpoint", "b").code == 2
    assert office("audit", "verify", "--checkpoint", tmp_path / "absent").code == 2


def at_terminal(*arguments: str | Path) -> tuple[int, str, str]:
    """Runs ``bifrost`` with its standard error at a terminal: exit code, output, what was shown."""
    ours, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [*BIFROST, *arguments], stdout=subprocess.PIPE, stderr=theirs, text=True,
            env=environment() | {"TERM": "xterm"},
        )  # fmt: skip
    finally:
        os.close(theirs)
    shown = b""
    try:
        with process:
            while piece := _read(ours):
                shown += piece
            assert process.stdout is not None
            out = process.stdout.read()
    finally:
        os.close(ours)
    return process.returncode, out, shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody holds the other end any more
        return b""


def test_at_a_terminal_a_bar_shows_how_far_a_verification_is(tmp_path: Path) -> None:
    folder = written(tmp_path, 300, segment_bytes=4_000)
    given = ("audit", "verify", "--data-dir", tmp_path)
    code, out, shown = at_terminal(*given)
    assert code == 0 and ": intact" in out and "Verifying" not in out
    figures = [int(number) for number in re.findall(r"(\d+)%", shown)]
    assert "Verifying entries" in shown and figures == sorted(figures) and figures[-1] == 100
    code, out, shown = at_terminal(*given, "--quick", "--json")
    assert json.loads(out)["intact"] and "Verifying groups" in shown and "100%" in shown
    rows = payloads(folder)
    rewritten(folder, [*rows[:6], entry(999), *rows[7:]])
    code, out, shown = at_terminal(*given)
    assert code == 1 and "First bad entry: 6" in out and "Verifying entries" in shown


def test_elsewhere_a_verification_shows_no_bar(tmp_path: Path) -> None:
    written(tmp_path, 300)
    done = subprocess.run(
        [*BIFROST, "audit", "verify", "--data-dir", tmp_path], capture_output=True, text=True,
        env=environment(), check=True, timeout=60,
    )  # fmt: skip
    assert ": intact" in done.stdout and done.stderr == "" and "Verifying" not in done.stdout


def test_without_the_signing_key_events_are_recorded_and_not_signed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office(tmp_path)
    office.json("teams", "create", "--name", "first")
    assert office("usage").code == 0  # moves the outbox, and signs
    [(_, size, *_)] = re.findall(r"(.*)\n(\d+)\n", office("audit", "checkpoint").out)
    key = tmp_path / "audit-signing.key"
    key.rename(tmp_path / "elsewhere")
    office.json("teams", "create", "--name", "second")
    assert office("usage").code == 0
    assert "is not the key that signs this audit log" in str(
        [record.__dict__ for record in caplog.records]
    )
    said = office("audit", "verify", "--json").json
    assert (said["size"], said["not_covered"]) == (int(size), 1)
    (tmp_path / "elsewhere").rename(key)
    office("usage")
    assert office("audit", "verify", "--json").json["not_covered"] == 0
