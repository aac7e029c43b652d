"""After a power cut, or with a damaged state, the counters at every level are what the log says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bifrost._fast.gate import condition
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.core import open_gate, stores
from bifrost.embedding import Gateway
from bifrost.errors import BudgetExceeded, StoreError
from bifrost.governance.entities import Budget, Kind, id_number, new_id
from bifrost.identify import budget_window
from bifrost.standin import catch_up
from bifrost.steward import Steward
from bifrost.stewardship import Stewardship
from tests.running import RunningGateway, RunningMock, bearer, configuration, message

USD = 1_000_000_000
KINDS: tuple[Kind, ...] = ("customer", "team", "user", "virtual_key")
USAGE = {"input_tokens": 1000, "cache_read_input_tokens": 500, "output_tokens": 300}
BODY = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": []}).encode()
OPENER = """
import os, signal, sys
from pathlib import Path
from bifrost import recovery
from bifrost._fast.gate import Gate
from bifrost.core import open_gate

point = sys.argv[2] if len(sys.argv) > 2 else ""
owners = {"_set_aside": recovery, "_summed": recovery, "rename": Path, "unlink": Path}
when, _, what = point.partition(" ")
if what:
    function = getattr(owners[what], what)

    def dying(*arguments, **more):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        function(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owners[what], what, dying)
gate = open_gate(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
gate.close()
"""


def made(limit: int, **more: object) -> Budget:
    now = time.time_ns()
    told = {"reset_duration": "1M", "created_at": now, **more}
    return Budget(id=new_id("budget"), max_limit=limit, **told)  # type: ignore[arg-type]


class Shop:
    """A data directory in which money was spent, closed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "bifrost.json"
        self.config.write_text(
            '{"providers": {"mock": {"type": "mock"}, "other": {"type": "mock"}},'
            ' "models": {"elsewhere": [{"provider": "other", "model": "claude-sonnet-4-5"}],'
            ' "claude-*": [{"provider": "mock"}]}}'
        )
        with stores(folder) as (directory, _):
            budgets = (made(9 * USD), made(8 * USD, reset_duration="1d", calendar_aligned=True))
            directory.create("customer", "acme", budgets=budgets)
            directory.create("team", "core", customer="acme", budgets=(made(7 * USD),))
            directory.create("user", "ann", team="core", budgets=(made(6 * USD),))
            narrow = (made(5 * USD), made(4 * USD, provider="other"))
            _, self.secret = directory.create_key("k", user="ann", budgets=narrow)
            _, self.other = directory.create_key("loner", budgets=(made(1),))
        self.spend()

    def spend(self, rounds: int = 3) -> None:
        gateway = Gateway.open(self.config, data_dir=self.folder, steward=False)
        try:
            for model in ["claude-sonnet-4-5", "elsewhere"] * rounds:
                ticket = gateway.admit({"x-bf-vk": self.secret}, model=model, body=BODY)
                gateway.settle(ticket, USAGE)
            gateway.release(gateway.admit({"x-bf-vk": self.secret}, body=BODY))
            with pytest.raises(BudgetExceeded):
                gateway.admit({"x-bf-vk": self.other}, body=BODY)
            core = gateway._core
            assert catch_up(self.folder, core.gate, core.directory, 5.0)
        finally:
            gateway.close()

    def counters(self) -> dict[str, tuple[int, ...]]:
        with stores(self.folder) as (directory, gate):
            found = {}
            for kind in KINDS:
                for entity in directory.all(kind):
                    for at, budget in enumerate(entity.budgets):
                        start, _ = budget_window(budget, time.time_ns())
                        [cell] = gate.counters([(id_number(budget.id), start)])
                        found[f"{entity.name} {at}"] = cell
            return found

    @property
    def lost(self) -> list[Path]:
        return list(self.folder.glob("state.lost-*"))

    def cut_power(self) -> None:
        """The header as another boot left it: in use."""
        with (self.folder / "state" / "ledger").open("r+b") as file:
            file.seek(16)
            file.write(bytes(8) + b"00000000-0000-0000-0000-000000000000")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    yield Shop(tmp_path)


def _old(shop: Shop) -> None:
    shop.cut_power()


def _zeros(shop: Shop) -> None:
    """A power cut that lost every page but the header's."""
    shop.cut_power()
    with (shop.folder / "state" / "ledger").open("r+b") as file:
        for start, size in ((1 << 16, 1 << 18), (1 << 28, 1 << 12)):
            file.seek(start)
            file.write(bytes(size))
    with (shop.folder / "state" / "data.mdb").open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(8192))


def _no_magic(shop: Shop) -> None:
    with (shop.folder / "state" / "ledger").open("r+b") as file:
        file.write(b"garbage!")


def _short_ledger(shop: Shop) -> None:
    os.truncate(shop.folder / "state" / "ledger", 1 << 20)


def _no_ledger(shop: Shop) -> None:
    (shop.folder / "state" / "ledger").unlink()


def _empty_ledger(shop: Shop) -> None:
    os.truncate(shop.folder / "state" / "ledger", 0)


def _short_lmdb(shop: Shop) -> None:
    os.truncate(shop.folder / "state" / "data.mdb", 8192)


def _no_lmdb(shop: Shop) -> None:
    (shop.folder / "state" / "data.mdb").unlink()


def _bad_lmdb(shop: Shop) -> None:
    with (shop.folder / "state" / "data.mdb").open("r+b") as file:
        file.write(os.urandom(8192))


def _no_state(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "state")


HARMS = [_old, _zeros, _no_magic, _short_ledger, _no_ledger, _empty_ledger, _short_lmdb, _no_lmdb,
         _bad_lmdb, _no_state]  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_counters_are_rebuilt_at_every_level(shop: Shop, harm: Callable[[Shop], None]) -> None:
    before = shop.counters()
    spent = before["k 0"][0]
    assert spent > 0 and before["k 0"][2] == 7 and before["k 0"][3:] == (9000, 1800)
    assert before["acme 1"] == before["core 0"] == before["ann 0"] == before["k 0"]
    assert before["k 1"][0] * 2 == spent and before["loner 0"] == (0, 0, 0, 0, 0)
    harm(shop)
    assert shop.counters() == before
    assert len(shop.lost) == (harm is not _no_state)
    assert not (shop.folder / "recovering").exists()
    shop.spend()  # and they go on from there
    assert shop.counters()["acme 0"][0] == 2 * spent
    assert len(shop.lost) == (harm is not _no_state)
    indexes = [index for index, _ in Reader(shop.folder).read(0, 1000)]
    assert indexes == list(range(len(indexes)))


def test_a_clean_state_and_a_killed_process_lose_nothing(shop: Shop) -> None:
    before = shop.counters()
    run = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OPENER, shop.folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert run.stdout is not None and run.stdout.readline() == b"open\n"
    run.kill()
    run.communicate()
    assert condition(shop.folder / "state") == "sound"
    assert shop.counters() == before and shop.lost == []


@pytest.mark.parametrize(
    "point",
    ["before _set_aside", "after rename", "after _set_aside", "before _summed", "before unlink",
     "after unlink"],
)  # fmt: skip
def test_a_recovery_killed_half_way_is_begun_again(shop: Shop, point: str) -> None:
    before = shop.counters()
    shop.cut_power()
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", OPENER, shop.folder, point],
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
        )
        assert run.returncode in (-signal.SIGKILL, 0), run.stderr
        assert run.returncode or point == "after unlink"  # then it was all done
    assert shop.counters() == before
    assert len(shop.lost) == 1 and not (shop.folder / "recovering").exists()


def test_of_many_processes_one_rebuilds(shop: Shop) -> None:
    before = shop.counters()
    shop.cut_power()
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OPENER, shop.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for run in runs:
        assert run.stdout is not None and run.stdout.readline() == b"open\n"
    assert shop.counters() == before and len(shop.lost) == 1
    for run in runs:
        run.communicate(b"\n")
        assert run.returncode == 0


def test_a_damaged_state_in_use_is_refused(shop: Shop) -> None:
    gate = open_gate(shop.folder)
    try:
        _no_magic(shop)
        with pytest.raises(StoreError, match="another process uses it; stop that first"):
            open_gate(shop.folder)
    finally:
        gate.close()
    assert shop.lost == []
    lock = Stewardship(shop.folder)
    assert lock.take()  # a steward whose state was removed under it still writes the log
    shutil.rmtree(shop.folder / "state")
    with pytest.raises(StoreError, match="another process uses it"):
        open_gate(shop.folder)
    lock.give_up()
    open_gate(shop.folder).close()


def test_a_damaged_log_stops_the_rebuilding(shop: Shop) -> None:
    [path] = (shop.folder / "audit").glob("*.log")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    shop.cut_power()
    for _ in range(2):
        with pytest.raises(StoreError, match="DAMAGED audit log: entry 0"):
            open_gate(shop.folder)
    path.write_bytes(whole)
    assert shop.counters()["k 0"][2] == 7 and len(shop.lost) == 1


def test_entries_behind_an_old_mark_and_a_torn_tail_count_as_the_log_says(shop: Shop) -> None:
    before = shop.counters()
    mark = (shop.folder / "audit" / "acknowledged").read_bytes()
    shop.spend(1)
    after = shop.counters()
    (shop.folder / "audit" / "acknowledged").write_bytes(mark)  # it was not flushed
    [path] = (shop.folder / "audit").glob("*.log")
    with path.open("ab") as file:
        file.write(b"\x40\x02\x00\x80torn")
    shop.cut_power()
    assert shop.counters() == after != before


def test_corrections_and_windows_are_respected(shop: Shop) -> None:
    with stores(shop.folder) as (directory, gate):
        key = directory.get("virtual_key", "k")
        long_ago = time.time_ns() - 40 * 86_400_000_000_000

        def told(at: int, **more: object) -> None:
            fields = {"request": "r", "key": key.id, "provider": "mock", **more}
            event = (
                events.Reconciled(at=at, done_at=at, actor="a", **fields)  # type: ignore[arg-type]
                if "before" in more
                else events.ModelAccess(at=at, outcome="ok", **fields)  # type: ignore[arg-type]
            )
            gate.append(events.encode(event), time.time_ns())

        told(long_ago, cost=USD)
        told(long_ago, cost=-USD, before=2 * USD)
        told(time.time_ns(), cost=-40, before=100)
        gate.append(b"not an event", time.time_ns())
        assert catch_up(shop.folder, gate, directory, 5.0)
    before = shop.counters()
    shop.cut_power()
    after = shop.counters()
    assert after["k 0"] == (before["k 0"][0] - 40, *before["k 0"][1:])
    assert after["k 1"] == before["k 1"] and after["ann 0"] == before["ann 0"]


def test_outbox_numbers_rise_over_a_lost_state(shop: Shop) -> None:
    with stores(shop.folder) as (directory, gate):
        ahead = time.time_ns() + 3_600_000_000_000  # the clock was an hour ahead
        event = events.ModelAccess(at=ahead, request="r", key="k", outcome="ok", cost=1)
        gate.append(events.encode(event), ahead)
        assert catch_up(shop.folder, gate, directory, 5.0)
    shop.cut_power()
    with stores(shop.folder) as (directory, gate):
        event = events.ModelAccess(at=1, request="new", key="k", outcome="ok", cost=1)
        gate.append(events.encode(event), time.time_ns())
        steward = Steward(shop.folder, gate, directory)
        assert steward.step() == 1
        steward.close()
    assert b'"request":"new"' in Reader(shop.folder).read(0, 1000)[-1][1]


def test_a_gateway_started_after_a_power_cut_knows_what_was_spent(tmp_path: Path) -> None:
    mock = RunningMock(tmp_path)
    gateway = RunningGateway(tmp_path, configuration(mock.url))
    try:
        for _ in range(5):
            answer = httpx.post(f"{gateway.url}/v1/messages", headers=bearer(), json=message())
            assert answer.status_code == 200
        before = gateway.spent()
        gateway.stop()
        with (gateway.data_dir / "state" / "ledger").open("r+b") as file:
            file.seek(16)
            file.write(bytes(8) + b"00000000-0000-0000-0000-000000000000")
            file.seek(1 << 28)
            file.write(os.urandom(1024))
        gateway = RunningGateway(tmp_path, configuration(mock.url))
        assert gateway.spent() == before
        assert len({spent for spent, _ in before.values()} - {"0"}) == 1  # the same at all levels
        assert mock.account()["total"]["requests"] == 5
        assert "the machine went down while it was in use" in gateway.log.read_text()
    finally:
        gateway.stop()
        mock.stop()
