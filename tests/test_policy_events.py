"""Every change of who may do what is an event, made by whoever makes it, or it is not made."""

from __future__ import annotations

import errno
import getpass
import os
from pathlib import Path

import pytest

from bifrost import recorder
from bifrost.audit import events, policy
from bifrost.audit.log import Reader
from bifrost.config.load import load
from bifrost.core import Core, stores
from bifrost.errors import Conflict, StoreError
from bifrost.governance import admin_token
from bifrost.standin import catch_up
from bifrost.stewardship import Stewardship
from tests.commands import Office


def changes(folder: Path) -> list[events.PolicyChange]:
    found = [events.decode(raw) for _, raw in Reader(folder).read(0, 10_000)]
    return [event for event in found if isinstance(event, events.PolicyChange)]


def test_commands_are_recorded_with_their_user(tmp_path: Path) -> None:
    office, me = Office(tmp_path), f"cli:{getpass.getuser()}"
    office.json("teams", "create", "--name", "core")
    secret = office.json("keys", "create", "--name", "k", "--team", "core")["value"]
    rotated = office.json("keys", "rotate", "k")["value"]
    assert office("keys", "update", "k", "--budget", "5/1d").code == 0
    assert office("keys", "create", "--name", "k").code == 1  # a name in use: no event
    assert office("keys", "revoke", "k").code == 0
    office.json("usage")
    told = changes(tmp_path)
    assert [(event.action, event.kind, event.name) for event in told] == [
        ("create", "team", "core"),
        ("create", "virtual_key", "k"),
        ("rotate", "virtual_key", "k"),
        ("update", "virtual_key", "k"),
        ("revoke", "virtual_key", "k"),
    ]
    assert {event.actor for event in told} == {me}
    digests = [event.after for event in told[1:]]
    assert [event.before for event in told[2:]] == digests[:-1] and len(set(digests)) == 4
    logged = b"".join(raw for _, raw in Reader(tmp_path).read(0, 100))
    assert secret.encode() not in logged and rotated.encode() not in logged


def test_what_the_configuration_declares_is_recorded_once(tmp_path: Path) -> None:
    config = tmp_path / "bifrost.json"
    config.write_text(
        '{"providers": {"mock": {"type": "mock"}}, "governance": {"customers": [{"name": "acme"}]}}'
    )
    settings = load(config).settings
    for _ in range(2):
        core = Core(settings, tmp_path / "data")
        core.declare(settings)
        assert catch_up(core.data_dir, core.gate, core.directory, 5.0)
        core.close()
    assert [(event.actor, event.action) for event in changes(tmp_path / "data")] == [
        ("config", "create")
    ]


def test_a_change_that_cannot_be_recorded_is_not_made(tmp_path: Path) -> None:
    with stores(tmp_path) as (directory, gate):
        gate.bar(errno.ENOSPC)
        with pytest.raises(StoreError, match=r"cannot be recorded, so it is not made.*No space"):
            directory.create("team", "core")
        assert directory.find("team", "core") is None
        gate.bar(0)
        directory.create("team", "core")


def test_a_refused_change_leaves_no_event(tmp_path: Path) -> None:
    with stores(tmp_path) as (directory, _):
        directory.create("customer", "acme")
        directory.create("team", "core", customer="acme")
        with pytest.raises(Conflict):
            directory.delete("customer", "acme")
        directory.update("team", "core", is_active=True)  # changes nothing
    assert [(event.action, event.kind) for event in changes(tmp_path)] == [
        ("create", "customer"),
        ("create", "team"),
    ]


def test_the_actor_ends_with_its_block() -> None:
    assert policy.actor() == "gateway"
    with policy.acting("admin"):
        with policy.acting("cli:bob"):
            assert policy.actor() == "cli:bob"
        assert policy.actor() == "admin"
    assert policy.actor() == "gateway"


def test_a_change_is_on_the_disk_before_it_is_made(tmp_path: Path) -> None:
    """Nobody is steward: the record is flushed, and only then is the change committed."""
    with stores(tmp_path) as (directory, gate):
        directory.create("team", "core")
        assert [event.name for event in changes(tmp_path)] == ["core"]
        assert gate.outbox(0, 10) == [] and not gate.urgent


def test_what_the_log_does_not_take_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stores(tmp_path) as (directory, _):
        directory.create("team", "core")
        lock = Stewardship(tmp_path)
        assert lock.take()  # somebody is steward, and does nothing
        monkeypatch.setattr(recorder, "PATIENCE_S", 0.05)
        with pytest.raises(StoreError, match="The change is refused and not made"):
            directory.update("team", "core", is_active=False)
        assert directory.get("team", "core").is_active
        lock.give_up()
        directory.create("team", "infra")
    told = [events.decode(raw) for _, raw in Reader(tmp_path).read(0, 10)]
    withdrawn = told[2]
    assert isinstance(withdrawn, events.Withdrawn)
    assert withdrawn.withdrawn == (told[1].seq,)
    assert [type(event).__name__ for event in told[:2]] == ["PolicyChange"] * 2
    assert isinstance(told[3], events.PolicyChange) and told[3].name == "infra"


def test_a_full_disk_refuses_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with stores(tmp_path) as (directory, _):
        directory.create("team", "core")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", full)
            with pytest.raises(StoreError, match="disk is full"):
                directory.delete("team", "core")
        assert directory.find("team", "core") is not None
        directory.delete("team", "core")
    told = [events.decode(raw) for _, raw in Reader(tmp_path).read(0, 10)]
    assert [event.__class__.__name__ for event in told] == [
        "PolicyChange", "PolicyChange", "Withdrawn", "PolicyChange",
    ]  # fmt: skip


def test_the_admin_token_has_a_history_too(tmp_path: Path) -> None:
    with stores(tmp_path) as (directory, _), policy.acting("cli:ann"):
        token = admin_token.mint(directory)
        assert token is not None and admin_token.mint(directory) is None
        again = admin_token.replace(directory)
        assert admin_token.is_valid(directory, again.encode())
    made, rotated = changes(tmp_path)
    assert (made.action, made.kind, made.before) == ("create", "admin_token", None)
    assert (rotated.action, rotated.actor) == ("rotate", "cli:ann")
    assert rotated.before == made.after != rotated.after
    assert b"bf-admin-" not in b"".join(raw for _, raw in Reader(tmp_path).read(0, 10))
