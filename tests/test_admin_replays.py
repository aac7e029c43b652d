"""Creations under a name, at the store: once in a transaction, kept for a day, then forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bifrost.errors import Conflict, NotFound, Reused, Stale
from bifrost.governance import replays
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Entity
from bifrost.governance.replays import Once, Replayed


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    found = Directory(tmp_path)
    yield found
    found.close()


def once(directory: Directory, name: str, content: str = "body") -> Once:
    return directory.once(
        directory.digest(name.encode()), directory.digest(content.encode()), answer
    )


def answer(entity: Entity) -> bytes:
    return entity.name.encode()


def records(directory: Directory) -> int:
    with directory._read() as txn:
        return int(txn.stat(directory._replays._db)["entries"])


def test_the_second_is_told_the_answer_of_the_first(directory: Directory) -> None:
    _, secret = directory.create_key("a", once=once(directory, "n"))
    with pytest.raises(Replayed) as told:
        once(directory, "n")
    assert (told.value.answer, told.value.secret) == (b"a", secret)
    with pytest.raises(Reused):
        once(directory, "n", "another body")
    assert directory.by_digest(directory.digest(secret.encode())) is not None


def test_two_who_asked_at_the_same_time_are_decided_in_the_transaction(
    directory: Directory,
) -> None:
    first, second = once(directory, "n"), once(directory, "n")
    _, secret = directory.create_key("a", once=first)
    with pytest.raises(Replayed) as told:
        directory.create_key("b", once=second)
    assert told.value.secret == secret
    assert directory.find("virtual_key", "b") is None


def test_what_fails_leaves_no_answer(directory: Directory) -> None:
    directory.create("team", "core")
    with pytest.raises(Conflict):
        directory.create("team", "core", once=once(directory, "n"))
    with pytest.raises(NotFound):
        directory.create("team", "x", customer="none", once=once(directory, "n"))
    assert records(directory) == 0
    assert directory.create("team", "other", once=once(directory, "n")).name == "other"


def test_it_is_forgotten_after_a_day(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        directory.create("team", f"t{number}", once=once(directory, str(number)))
    assert records(directory) == 10
    monkeypatch.setattr(replays, "KEPT_NS", 0)
    directory.create("team", "later", once=once(directory, "0", "another body"))
    assert records(directory) == 2
    monkeypatch.undo()
    with pytest.raises(Replayed) as told:
        once(directory, "0", "another body")
    assert told.value.answer == b"later"


def test_an_old_record_does_not_take_a_new_one_with_it(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.create("team", "old", once=once(directory, "n"))
    monkeypatch.setattr(replays, "KEPT_NS", 0)
    monkeypatch.setattr(replays, "MOST_REMOVED", 0)
    directory.create("team", "new", once=once(directory, "n"))
    monkeypatch.undo()
    kept = replays.KEPT_NS
    with directory._read() as txn, txn.cursor(db=directory._replays._db) as cursor:
        old, new = (int.from_bytes(bytes(key)[1:9], "big") for key, _ in cursor if key[0] == 116)
    # A moment at which only the older of the two is a day old.
    monkeypatch.setattr(replays.time, "time_ns", lambda: (old + new) // 2 + kept)
    directory.create("team", "third", once=once(directory, "m"))
    with pytest.raises(Replayed):
        once(directory, "n")


def test_what_is_not_as_it_was_seen_is_left_alone(directory: Directory) -> None:
    seen, _ = directory.create_key("k")
    directory.update("virtual_key", "k", expect=seen, is_active=False)
    for act in (
        lambda: directory.update("virtual_key", "k", expect=seen, is_active=True),
        lambda: directory.delete("virtual_key", "k", expect=seen),
        lambda: directory.rotate("k", expect=seen),
    ):
        with pytest.raises(Stale):
            act()
    kept = directory.get("virtual_key", "k")
    assert kept == directory.update("virtual_key", "k", expect=kept)
    assert not kept.is_active
