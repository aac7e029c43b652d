"""``bifrost keys import``: every row checked first, batches whole or not at all, secrets kept."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.core import stores
from bifrost.governance.directory import Directory
from bifrost.governance.entities import VirtualKey
from tests.running import BIFROST, environment

SECRET = "sk-bf-" + "0" * 30


def _import(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BIFROST, "keys", "import", str(file), "--data-dir", str(file.parent / "data"), *options],
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip


def _keys(folder: Path) -> dict[str, VirtualKey]:
    directory = Directory(folder / "data")
    try:
        found = directory.all("virtual_key")
        assert directory.count("virtual_key") == len(found)
        return {key.name: key for key in found if isinstance(key, VirtualKey)}
    finally:
        directory.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with a data directory that knows two teams."""
    directory = Directory(tmp_path / "data")
    directory.create("team", "core")
    directory.create("team", "edge")
    directory.close()
    return tmp_path


def test_rows_of_csv_become_keys(folder: Path) -> None:
    file = folder / "keys.csv"
    file.write_text(
        "name,value,team,budget,rpm,models,expires\n"
        f"one,{SECRET}01,core,75/1M;5/1d,60,claude-haiku-*,2027-01-31T00:00:00Z\n"
        f'"two, too",{SECRET}02,edge,,,,\n'
    )
    done = _import(file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Created 2 virtual keys")
    with stores(folder / "data") as (directory, _):
        one = directory.by_digest(directory.digest(f"{SECRET}01".encode()))
        assert one is not None and one.name == "one"
        core = directory.get("team", "core")
        assert one.team_id == core.id
        assert [child.id for child in directory.children(core.id, 9)] == [one.id]
        assert [(b.max_limit, b.reset_duration) for b in one.budgets] == [
            (75_000_000_000, "1M"), (5_000_000_000, "1d"),
        ]  # fmt: skip
        assert directory.budget_owner(one.budgets[1].id)[1] == one
        assert [(r.metric, r.max_limit) for r in one.rate_limits] == [("requests", 60)]
        assert one.provider_configs[0].allowed_models == ("claude-haiku-*",)
        assert one.expires_at == 1_801_353_600_000_000_000
        assert directory.get("virtual_key", "two, too").budgets == ()
    made = [events.decode(raw) for _, raw in Reader(folder / "data").read(0, 10)]
    assert [(one.name, one.action) for one in made if isinstance(one, events.PolicyChange)] == [
        ("one", "create"), ("two, too", "create"),
    ]  # fmt: skip


def test_secrets_that_are_made_are_written_for_the_owner_of_the_file(folder: Path) -> None:
    file = folder / "keys.jsonl"
    file.write_text('{"name": "one", "budget": ["1/1d"]}\n\n{"name": "two", "tpm": 5}\n')
    done = _import(file)
    assert done.returncode == 1
    assert "name a new file with --secrets" in done.stderr
    kept = folder / "secrets.csv"
    done = _import(file, "--secrets", str(kept))
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mode & 0o777 == 0o600
    with kept.open(newline="") as lines:
        given = {row["name"]: row["value"] for row in csv.DictReader(lines)}
    directory = Directory(folder / "data")
    for name in ("one", "two"):
        found = directory.by_digest(directory.digest(given[name].encode()))
        assert found is not None and found.name == name
    directory.close()
    assert "needs a new file" in _import(file, "--secrets", str(kept)).stderr


def test_every_wrong_row_is_named_and_nothing_is_stored(folder: Path) -> None:
    file = folder / "keys.csv"
    file.write_text(
        "name,value,team,budget,rpm,expires\n"
        f"one,{SECRET}01,core,75/1M,60,\n"
        f"two,{SECRET}02,core,75 per month,60,\n"
        f"three,{SECRET}03,core,75/1M,many,\n"
        "four,short,core,75/1M,60,\n"
        f"five,{SECRET}05,core\n"
        f"six,{SECRET}06,core,75/1M,60,tomorrow\n"
    )
    done = _import(file)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split(":")[0].split(", ")[1] for line in lines[:-1]] == [
        f"line {number}" for number in (3, 4, 5, 6, 7)
    ]
    assert "expected AMOUNT/WINDOW" in lines[0]
    assert "line 4: rpm: Expected int" in lines[1]
    assert "'sk-bf-' and 32 or more" in lines[2]
    assert lines[-1] == "bifrost: Nothing was stored."
    assert _keys(folder) == {}


def test_a_batch_is_stored_whole_or_not_at_all_and_can_be_taken_up_again(folder: Path) -> None:
    file = folder / "keys.csv"
    rows = [f"key-{number},{SECRET}{number:02},core" for number in range(10)]
    rows[5] = f"key-5,{SECRET}05,nowhere"
    rows[6] = f"key-1,{SECRET}66,core"
    rows[7] = f"key-7,{SECRET}02,core"
    file.write_text("\n".join(["name,value,team", *rows]))
    done = _import(file, "--batch", "4")
    assert done.returncode == 1
    shown = done.stderr.splitlines()
    assert [line for line in shown if ", line " in line] == [
        f"{file}, line 7: There is no team 'nowhere'.",
        f"{file}, line 8: There is already a virtual key named 'key-1'.",
        f"{file}, line 9: Another virtual key has the value given for 'key-7' already.",
    ]
    assert "Nothing of lines 6 to 9 was stored; 4 keys of the lines before were." in shown[-1]
    assert sorted(_keys(folder)) == [f"key-{number}" for number in range(4)]
    rows[5:8] = [f"key-{number},{SECRET}{number:02},core" for number in (5, 6, 7)]
    file.write_text("\n".join(["name,value,team", *rows]))
    done = _import(file, "--skip-existing")
    assert done.returncode == 0, done.stderr
    assert "Created 6 virtual keys" in done.stdout and "4 were there already" in done.stdout
    assert len(_keys(folder)) == 10


def test_a_file_that_is_no_table_says_what_is_needed(folder: Path) -> None:
    file = folder / "keys.csv"
    for text in ("", "who,team\na,b\n", "team\ncore\n", "name,name\na,a\n"):
        file.write_text(text)
        done = _import(file)
        assert done.returncode == 1
        assert "line 1: a header with 'name' is needed" in done.stderr
    file.write_bytes(b"name\n\xff\xfe\n")
    done = _import(file)
    assert done.returncode == 1
    assert "Cannot read" in done.stderr and "Traceback" not in done.stderr
