"""What the configuration declares: created or updated by name, the same again changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost.config.load import parse
from bifrost.errors import Conflict
from bifrost.governance import declared
from bifrost.governance.directory import Directory
from bifrost.governance.entities import TYPES, Entity, VirtualKey
from tests.running import KEY, budget, configuration

OTHER = "sk-bf-" + "another0" * 5


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path)
    yield opened
    opened.close()


def apply(directory: Directory, document: dict[str, Any]) -> list[declared.Minted]:
    settings = parse({"governance": document}, where="test", base=Path("/nowhere"))
    return declared.apply(settings.governance, directory)


def example(**key: Any) -> dict[str, Any]:
    found: dict[str, Any] = configuration("http://127.0.0.1:1", **key)["governance"]
    return found


def everything(directory: Directory) -> list[Entity]:
    return [entity for kind in TYPES for entity in directory.all(kind)]


def key(directory: Directory, name: str = "alice-dev") -> VirtualKey:
    found = directory.get("virtual_key", name)
    assert isinstance(found, VirtualKey)
    return found


def test_the_example_makes_four_levels(directory: Directory) -> None:
    assert apply(directory, example()) == []
    levels = directory.chain(key(directory))
    assert [(kind, entity.name) for kind, entity in levels] == [
        ("virtual_key", "alice-dev"),
        ("user", "alice"),
        ("team", "core"),
        ("customer", "acme"),
    ]
    limits = [entity.budgets[0].max_limit // 10**9 for _, entity in levels]
    assert limits == [75, 100, 500, 5000]
    assert directory.by_digest(directory.digest(KEY.encode())) == key(directory)


def test_the_same_again_changes_nothing(directory: Directory) -> None:
    document = example(
        provider_configs=[{"provider": "anthropic", "allowed_models": ["claude-*"]}],
        expires_at="2099-01-01T00:00:00Z",
        budgets=[*budget("1", "1d"), *budget("75")],
    )
    apply(directory, document)
    before = everything(directory)
    assert apply(directory, document) == []
    assert everything(directory) == before


def test_a_changed_limit_keeps_the_budget_and_its_spending(directory: Directory) -> None:
    apply(directory, example(budgets=[*budget("75"), *budget("5", "1d")]))
    month, day = key(directory).budgets
    apply(directory, example(budgets=[*budget("6", "1d"), *budget("80"), *budget("1", "1h")]))
    new_day, new_month, hour = key(directory).budgets
    assert (new_day.id, new_day.max_limit) == (day.id, 6 * 10**9)
    assert (new_month.id, new_month.max_limit) == (month.id, 80 * 10**9)
    assert new_month.created_at == month.created_at
    assert hour.id not in {day.id, month.id}
    zoned = [{**budget("80")[0], "time_zone": "Europe/Berlin"}]
    apply(directory, example(budgets=zoned))
    assert key(directory).budgets[0].id != month.id


def test_what_the_file_does_not_name_any_more_stays(directory: Directory) -> None:
    apply(directory, example())
    directory.create("customer", "made by hand")
    before = everything(directory)
    apply(directory, {"customers": [{"name": "acme", "budgets": budget("5000")}]})
    apply(directory, {})
    assert everything(directory) == before


def test_the_file_wins_over_changes_of_what_it_names(directory: Directory) -> None:
    apply(directory, example())
    directory.update("virtual_key", "alice-dev", is_active=False, team="core")
    directory.update("user", "alice", customer="acme", budgets=())
    apply(directory, example())
    assert key(directory).is_active
    assert [entity.name for _, entity in directory.chain(key(directory))] == [
        "alice-dev", "alice", "core", "acme",
    ]  # fmt: skip
    assert directory.get("user", "alice").budgets[0].max_limit == 100 * 10**9


def test_a_user_may_name_the_customer_of_its_team_too(directory: Directory) -> None:
    document = example()
    document["users"][0]["customer"] = "acme"
    for _ in range(2):
        apply(directory, document)
    assert [kind for kind, _ in directory.chain(key(directory))][2:] == ["team", "customer"]


def test_a_key_without_value_is_minted_once(directory: Directory) -> None:
    document = {"virtual_keys": [{"name": "ci"}, {"name": "given", "value": KEY}]}
    [minted] = apply(directory, document)
    assert minted.name == "ci"
    assert directory.by_digest(directory.digest(minted.secret.encode())) == key(directory, "ci")
    assert apply(directory, document) == []


def test_a_new_value_replaces_the_old_one(directory: Directory) -> None:
    apply(directory, {"virtual_keys": [{"name": "k", "value": KEY, "is_active": False}]})
    old = key(directory, "k")
    for _ in range(2):
        apply(directory, {"virtual_keys": [{"name": "k", "value": OTHER, "is_active": False}]})
        new = key(directory, "k")
        assert (new.id, new.hint, new.is_active) == (old.id, OTHER[-4:], False)
    assert directory.by_digest(directory.digest(KEY.encode())) is None
    apply(directory, {"virtual_keys": [{"name": "k"}]})
    assert key(directory, "k").digest == new.digest


def test_a_value_belongs_to_one_key(directory: Directory) -> None:
    apply(directory, {"virtual_keys": [{"name": "k", "value": KEY}]})
    with pytest.raises(Conflict, match="'k' already has this value"):
        apply(directory, {"virtual_keys": [{"name": "other", "value": KEY}]})


def test_a_revoked_key_stays_revoked(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    apply(directory, example())
    directory.revoke("alice-dev")
    assert apply(directory, example()) == []
    assert not key(directory).is_active
    assert directory.by_digest(directory.digest(KEY.encode())) is None
    assert "was revoked and stays so" in caplog.text and KEY not in caplog.text
