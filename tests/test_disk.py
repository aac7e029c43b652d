"""A disk that is full, cannot be written, or whose files grow: a clear refusal, and no crash."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bifrost._fast.gate import Gate, GateError, Plan
from bifrost.errors import StoreError
from bifrost.governance.directory import Directory
from bifrost.governance.environment import Environment
from bifrost.metering.catalogue import Catalogue
from bifrost.money import usd
from tests.running import (
    BIFROST,
    RunningGateway,
    RunningMock,
    bearer,
    configuration,
    environment,
    message,
)

KIB, MIB = 1 << 10, 1 << 20
DAY = 86_400_000_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 24 MiB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"A SMALL DISK CANNOT BE MOUNTED HERE, NOT TESTED: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path, *, leave: int = 0) -> Path:
    """Takes everything that is left of a disk but ``leave`` bytes."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for piece in (MIB, 4 * KIB):
            try:
                while file.write(bytes(piece)) == piece:
                    pass
            except OSError:
                pass
        file.truncate(max(0, file.tell() - leave))
    return filler


def _ask(url: str, times: int) -> list[httpx.Response]:
    """That many requests on eight connections."""

    def some(number: int) -> list[httpx.Response]:
        with httpx.Client(headers=bearer(), timeout=60) as client:
            return [
                client.post(f"{url}/v1/messages", json=message())
                for _ in range(number, times, 8)
            ]  # fmt: skip

    with ThreadPoolExecutor(8) as threads:
        return [answer for answers in threads.map(some, range(8)) for answer in answers]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BIFROST, *arguments],
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip


def _until(what: str, holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_full_disk_lets_nobody_in_and_room_lets_everybody_in_again(
    mock: RunningMock, disk: Path
) -> None:
    mock.reset()
    gateway = RunningGateway(disk, configuration(mock.url), "--workers", "2")
    url = gateway.url
    try:
        assert {answer.status_code for answer in _ask(url, 8)} == {200}
        filler = _fill(disk)
        _until("nobody is refused", lambda: _ask(url, 1)[0].status_code == 503)
        refused = _ask(url, 40)
        assert {answer.status_code for answer in refused} == {503}
        error = refused[0].json()["error"]
        assert error["type"] == "api_error"
        assert "cannot record spending right now" in error["message"]
        assert "No space left on device" in error["message"]
        assert int(refused[0].headers["retry-after"]) > 0
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 503
        assert "No space left on device" in ready.text
        filler.unlink()
        _until("nobody is let in", lambda: _ask(url, 1)[0].status_code == 200)
        assert {answer.status_code for answer in _ask(url, 40)} == {200}
        assert httpx.get(f"{url}/ready").status_code == 200
        _until("the usage view is behind", lambda: _in_the_view(gateway) == _billed(mock))
        assert {spent for spent, _ in gateway.spent().values()} == {_billed(mock)}
        assert {reserved for _, reserved in gateway.spent().values()} == {"0"}
    finally:
        code = gateway.stop()
    assert code == 0
    assert "ended and is replaced" not in gateway.log.read_text()


def _billed(mock: RunningMock) -> str:
    price = Catalogue.load().price("anthropic", message()["model"])
    assert price is not None
    served = mock.account()["total"]["served"]
    return usd(served["input_tokens"] * 3000 + served["output_tokens"] * 15000, places=0)


def _in_the_view(gateway: RunningGateway) -> str:
    (row,) = gateway.command("usage", "--by", "key")["rows"]
    return str(row["cost_usd"])


def test_what_finds_no_room_stays_reserved_and_is_settled_when_there_is_room(disk: Path) -> None:
    state = disk / "state"
    gate = Gate(state)
    plan = Plan([(7, 10_000)], lambda index, now: (0, DAY))
    try:
        early = gate.admit(plan, 600, b"early", 1)
        late = gate.admit(plan, 300, b"late", 1)
        filler = _fill(disk)
        event = bytes(60_000)
        with pytest.raises(GateError, match="No space left on device"):
            for _ in range(200):
                gate.append(event, 2)
        gate.settle(early, 55, 5, 5, event, 3)
        assert gate.unpaid == 1
        assert gate.counters([(7, 0)])[0][:2] == (0, 900)
        with pytest.raises(GateError, match="No space left on device"):
            gate.admit(plan, 1, b"", 4)
        with pytest.raises(GateError, match="No space left on device"):
            gate.pay()
        filler.unlink()
        third = gate.admit(plan, 1, b"", 5)
        assert gate.unpaid == 0
        assert gate.counters([(7, 0)])[0][:3] == (55, 301, 1)
        gate.settle(third, 0, 0, 0, b"third", 6)
        gate.settle(late, 45, 5, 5, b"last", 7)
        kept = gate.outbox(0, 1000)
        assert [raw for _, raw in kept[-2:]] == [b"third", b"last"]
        assert sum(raw == event for _, raw in kept) == len(kept) - 2 > 20
        assert gate.counters([(7, 0)])[0][:3] == (100, 0, 3)
    finally:
        gate.close()


def test_a_full_disk_refuses_a_change_and_keeps_what_is_stored(disk: Path) -> None:
    directory = Directory(disk)
    filler = _fill(disk, leave=256 * KIB)
    stored = 0
    with pytest.raises(StoreError, match="the disk is full, free some space; nothing was changed"):
        while stored < 10_000:
            directory.create_key(f"key-{stored:05}")
            stored += 1
    assert directory.count("virtual_key") == stored > 10
    assert [key.name for key in directory.all("virtual_key")][-1] == f"key-{stored - 1:05}"
    filler.unlink()
    _, secret = directory.create_key(f"key-{stored:05}")
    assert directory.by_digest(directory.digest(secret.encode())) is not None
    directory.close()


@pytest.mark.parametrize("free", [0, 16 * KIB, 120 * KIB, 320 * KIB, 2 * MIB, 2200 * KIB])
def test_a_start_without_room_says_so_and_the_next_one_works(disk: Path, free: int) -> None:
    filler = _fill(disk, leave=free)
    data = disk / "data"
    found = _run("keys", "create", "--name", "one", "--data-dir", str(data))
    assert found.returncode == 1
    assert found.stdout == ""
    lines = [line for line in found.stderr.splitlines() if line.startswith("bifrost: ")]
    assert len(lines) == 1, found.stderr
    assert "No space left on device" in lines[0]
    assert "Traceback" not in found.stderr
    filler.unlink()
    found = _run("keys", "create", "--name", "one", "--data-dir", str(data), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["name"] == "one"


def test_a_read_only_directory_is_one_sentence_and_an_exit_code(disk: Path) -> None:
    data = disk / "data"
    assert _run("keys", "create", "--name", "one", "--data-dir", str(data)).returncode == 0
    config = disk / "bifrost.json"
    config.write_text(json.dumps(configuration("http://127.0.0.1:9")))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for wanted in (data, disk / "new"):
        found = _run("serve", "--config", str(config), "--data-dir", str(wanted), "--port", "0")
        assert found.returncode == 1
        assert found.stdout == ""
        assert len(found.stderr.splitlines()) == 1, found.stderr
        line = found.stderr.strip()
        assert line.startswith("bifrost: ")
        assert "Read-only file system" in line
        assert "make it writable for the user who runs this" in line


def test_the_directory_grows_past_the_addresses_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "config"
    env = Environment(path, map_size=MIB)
    tree = env.open_db(b"some")
    grown = subprocess.Popen(
        [sys.executable, "-c", GROWING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        for number in range(2_000):
            with env.write() as txn:
                txn.put(b"%d" % number, bytes(4000), db=tree)
        said, _ = grown.communicate(b"\n", timeout=60)
        assert said.strip() == b"2000 4000"
        with env.read() as txn:  # larger now than this process knew
            assert txn.get(b"other", db=tree) is not None
    finally:
        grown.kill()
        grown.wait()
        env.close()


GROWING = """
import sys
from pathlib import Path
from bifrost.governance.environment import Environment
env = Environment(Path(sys.argv[1]), map_size=1 << 20)
tree = env.open_db(b"some")
sys.stdin.readline()
with env.read() as txn:
    found = txn.stat(tree)["entries"], len(txn.get(b"1999", db=tree))
for number in range(8):
    with env.write() as txn:
        txn.put(b"other" + b"x" * number, bytes(3 << 20), db=tree)
print(*found)
"""


def test_the_state_grows_past_the_addresses_it_began_with(tmp_path: Path) -> None:
    state = tmp_path / "state"
    gate = Gate(state, 1 << 20)
    other = subprocess.Popen(
        [sys.executable, "-c", COUNTING, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        budgets = 40_000
        for number in range(1, budgets + 1):
            plan = Plan([(number, 100)], lambda index, now: (0, DAY))
            gate.settle(gate.admit(plan, 9, b"", 1), 7, 0, 0, b"x", 1)
        assert (state / "data.mdb").stat().st_size > 2 * MIB
        said, _ = other.communicate(b"%d\n" % budgets, timeout=60)
        assert said.strip() == b"(7, 0, 1, 0, 0)"
        assert gate.counters([(budgets, 0), (budgets + 1, 0)])[0][:2] == (7, 0)
    finally:
        other.kill()
        other.wait()
        gate.close()


COUNTING = """
import sys
from bifrost._fast.gate import Gate
gate = Gate(sys.argv[1], 1 << 20)
print(gate.counters([(int(sys.stdin.readline()), 0)])[0])
gate.close()
"""
