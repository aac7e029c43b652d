"""The directory: names, parents, secrets, the epoch, several processes, what survives a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bifrost.errors import Conflict, NotFound, StoreError
from bifrost.governance.directory import Directory
from bifrost.governance.entities import VirtualKey

WRITER = """
import sys
from pathlib import Path
from bifrost.governance.directory import Directory

directory = Directory(Path(sys.argv[1]))
print("ready", flush=True)
for name in sys.stdin:
    key, secret = directory.create_key(name.strip())
    print(key.id, secret, flush=True)
"""
LISTER = """
import sys
from pathlib import Path
from bifrost.governance.directory import Directory

print(*[key.name for key in Directory(Path(sys.argv[1])).all("virtual_key")])
"""
RACER = """
import sys
from pathlib import Path
from bifrost.errors import Conflict
from bifrost.governance.directory import Directory

directory = Directory(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
won = 0
for number in range(40):
    try:
        directory.create("customer", f"shared-{number}")
        won += 1
    except Conflict:
        pass
    directory.create("customer", f"own-{sys.argv[2]}-{number}")
print(won, flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    opened.close()


def started(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def staffed(directory: Directory) -> None:
    directory.create("customer", "acme")
    directory.create("team", "core", customer="acme")
    directory.create("user", "alice", team="core")
    directory.create_key("alice-dev", user="alice")


def chain(directory: Directory, key: str) -> list[str]:
    found = directory.get("virtual_key", key)
    return [entity.name for _, entity in directory.chain(found)]


def test_names_are_unique_per_kind(directory: Directory) -> None:
    directory.create("customer", "acme")
    directory.create("team", "acme")
    with pytest.raises(Conflict, match="already a customer named 'acme'"):
        directory.create("customer", "acme")
    assert [entity.name for entity in directory.all("customer")] == ["acme"]


def test_an_entity_is_found_by_name_and_by_id(directory: Directory) -> None:
    made = directory.create("user", "alice")
    assert directory.get("user", made.id) == directory.get("user", "alice") == made
    assert directory.find("team", made.id) is None
    with pytest.raises(NotFound, match="no virtual key 'alice'"):
        directory.get("virtual_key", "alice")


def test_the_chain_goes_from_the_key_upwards(directory: Directory) -> None:
    staffed(directory)
    assert chain(directory, "alice-dev") == ["alice-dev", "alice", "core", "acme"]
    directory.update("virtual_key", "alice-dev", customer="acme")
    assert chain(directory, "alice-dev") == ["alice-dev", "acme"]
    directory.update("virtual_key", "alice-dev", customer=None)
    assert chain(directory, "alice-dev") == ["alice-dev"]


def test_parents_must_exist_and_fit(directory: Directory) -> None:
    staffed(directory)
    with pytest.raises(NotFound, match="no team 'none'"):
        directory.create("user", "bob", team="none")
    with pytest.raises(Conflict, match="cannot belong to a user"):
        directory.create("team", "x", user="alice")
    with pytest.raises(Conflict, match="one of user or team"):
        directory.create_key("x", user="alice", team="core")
    assert directory.find("user", "bob") is None
    assert directory.find("virtual_key", "x") is None


def test_only_the_childless_are_deleted(directory: Directory) -> None:
    staffed(directory)
    for kind, name, child in (
        ("customer", "acme", "team 'core'"),
        ("team", "core", "user 'alice'"),
        ("user", "alice", "virtual key 'alice-dev'"),
    ):
        with pytest.raises(Conflict, match=child):
            directory.delete(kind, name)  # type: ignore[arg-type]
    key, secret = directory.rotate("alice-dev")
    directory.delete("virtual_key", key.id)
    assert directory.by_digest(directory.digest(secret.encode())) is None
    for kind, name in (("user", "alice"), ("team", "core"), ("customer", "acme")):
        directory.delete(kind, name)  # type: ignore[arg-type]
        assert directory.find(kind, name) is None  # type: ignore[arg-type]
    assert directory.create("customer", "acme").name == "acme"


def test_renaming_keeps_the_id_and_frees_the_name(directory: Directory) -> None:
    staffed(directory)
    old = directory.get("team", "core")
    new = directory.update("team", "core", name="platform")
    assert (new.id, directory.find("team", "core")) == (old.id, None)
    assert chain(directory, "alice-dev")[2] == "platform"
    directory.create("team", "core")
    with pytest.raises(Conflict):
        directory.update("team", "core", name="platform")
    with pytest.raises(Conflict):
        directory.update("team", "core", name="")
    assert directory.get("team", "core").id != old.id


def test_an_update_without_a_difference_changes_nothing(directory: Directory) -> None:
    old = directory.create("customer", "acme")
    assert directory.update("customer", "acme", is_active=True, name="acme") == old


def known(directory: Directory, secret: str) -> VirtualKey | None:
    return directory.by_digest(directory.digest(secret.encode()))


def test_rotation_exchanges_the_secret(directory: Directory) -> None:
    key, first = directory.create_key("k")
    assert key.hint == first[-4:] and first not in repr(key)
    directory.update("virtual_key", "k", is_active=False)
    new, second = directory.rotate("k")
    assert (new.id, new.is_active) == (key.id, False)
    assert known(directory, first) is None and known(directory, second) == new
    assert directory.rotate("k", secret=second) == (new, second)
    with pytest.raises(Conflict, match="'k' already has this value"):
        directory.create_key("other", secret=second)
    other, _ = directory.create_key("other")
    with pytest.raises(Conflict, match="'k' already has this value"):
        directory.rotate("other", secret=second)
    assert directory.get("virtual_key", "other") == other


def test_revocation_is_final(directory: Directory) -> None:
    _, secret = directory.create_key("k")
    directory.revoke("k")
    assert known(directory, secret) is None
    for again in (
        lambda: directory.rotate("k"),
        lambda: directory.update("virtual_key", "k", is_active=True),
    ):
        with pytest.raises(Conflict, match="revoked for ever"):
            again()
    assert directory.revoke("k").is_active is False
    assert directory.update("virtual_key", "k", name="old").name == "old"


def test_concurrent_rotations_leave_one_secret(directory: Directory) -> None:
    directory.create_key("k")
    secrets: list[str] = []
    ready = threading.Barrier(4)

    def rotate() -> None:
        ready.wait()
        secrets.extend(directory.rotate("k")[1] for _ in range(25))

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(secrets)) == 100
    assert sum(known(directory, secret) is not None for secret in secrets) == 1


def test_every_change_moves_the_epoch(directory: Directory) -> None:
    seen = {directory.epoch()}
    revisions = {directory.revision()}
    for change in (
        lambda: staffed(directory),
        lambda: directory.update("user", "alice", is_active=False),
        lambda: directory.rotate("alice-dev"),
        lambda: directory.revoke("alice-dev"),
        lambda: directory.delete("virtual_key", "alice-dev"),
    ):
        change()
        assert directory.epoch() not in seen and directory.revision() not in revisions
        seen.add(directory.epoch())
        revisions.add(directory.revision())


def test_another_process_moves_the_epoch_and_a_kill_loses_nothing(
    directory: Directory, tmp_path: Path
) -> None:
    writer = started(WRITER, tmp_path)
    assert writer.stdin is not None and writer.stdout is not None
    for name in ("first", "second"):
        before = directory.epoch()
        writer.stdin.write(f"{name}\n")
        writer.stdin.flush()
        identifier, secret = writer.stdout.readline().split()
        assert directory.epoch() != before
        found = known(directory, secret)
        assert found is not None and (found.id, found.name) == (identifier, name)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    directory.create_key("third")
    after = [sys.executable, "-W", "error", "-c", LISTER, str(tmp_path)]
    assert subprocess.check_output(after, timeout=30).split() == [b"first", b"second", b"third"]


def test_four_processes_create_at_once(tmp_path: Path) -> None:
    racers = [started(RACER, tmp_path, number) for number in range(4)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [int(racer.communicate(timeout=30)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4 and sum(won) == 40
    directory = Directory(tmp_path)
    names = [entity.name for entity in directory.all("customer")]
    directory.close()
    assert len(names) == len(set(names)) == 40 + 4 * 40


def test_the_master_key_is_made_once_and_private(directory: Directory, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_bytes()) == 32
    assert (tmp_path / "config" / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert directory.digest(b"x") == directory.digest(b"x") != directory.digest(b"y")


def test_a_damaged_or_impossible_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot open the directory store"):
        Directory(tmp_path / "file")
    (tmp_path / "master.key").write_bytes(b"x")
    with pytest.raises(StoreError, match="should hold 32 bytes"):
        Directory(tmp_path)


def test_facts_are_set_once(directory: Directory) -> None:
    assert directory.set_meta("token", b"a") and not directory.set_meta("token", b"b")
    assert directory.meta("token") == b"a" and directory.meta("none") is None


def test_a_wrong_master_key_is_told_and_never_replaces_the_right_one(tmp_path: Path) -> None:
    first = Directory(tmp_path)
    first.create_key("k")
    first.close()
    right = (tmp_path / "master.key").read_bytes()
    (tmp_path / "master.key").unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match="restore it from a backup"):
            Directory(tmp_path)
    (tmp_path / "master.key").write_bytes(right)
    again = Directory(tmp_path)
    assert [entity.name for entity in again.all("virtual_key")] == ["k"]
    again.close()
