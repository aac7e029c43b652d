"""The audit log over HTTP: entries, filters, proofs, exports; who reads is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from bifrost.audit.epochs import Keyring
from bifrost.audit.notes import PublicKey
from bifrost.audit.proofs import check
from tests.administration import Admin, problem
from tests.commands import until
from tests.running import RunningGateway, configuration

LOGS = "/audit-logs"


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("gateway")
    running = RunningGateway(folder, configuration("http://127.0.0.1:9"))
    with Admin(running) as found:
        for number in range(12):
            found.post("/governance/teams", {"name": f"audited-{number}"})
        until(lambda: len(policy(found)) >= 12 and policy(found)[0]["covered"])
        yield found
    running.stop()


def policy(admin: Admin, more: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get(f"{LOGS}?type=policy&actor=admin{more}")["items"]
    return found


def test_changes_are_listed_newest_first_with_filters_and_pages(admin: Admin) -> None:
    rows = policy(admin)
    assert [row["event"]["name"] for row in rows] == [f"audited-{n}" for n in range(11, -1, -1)]
    assert [row["index"] for row in rows] == sorted((row["index"] for row in rows), reverse=True)
    assert all(row["event"]["action"] == "create" and row["base64"] is None for row in rows)
    one = rows[3]["event"]["id"]
    assert [row["event"]["id"] for row in policy(admin, f"&id={one}")] == [one]
    assert policy(admin, "&action=delete") == policy(admin, "&to=1h") == []
    assert len(policy(admin, "&from=1h")) == 12
    paged: list[int] = []
    cursor = ""
    while True:
        page = admin.get(f"{LOGS}?limit=5{cursor}")
        paged += [row["index"] for row in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert paged == list(range(paged[0], -1, -1))


def test_an_entry_is_answered_with_its_hash(admin: Admin) -> None:
    row = policy(admin)[0]
    found = admin.get(f"{LOGS}/{row['index']}")
    assert found == row and found["covered"]
    for index in (10**6, "x", "-1", 10**30):
        problem(admin("GET", f"{LOGS}/{index}"), 404, "not_found")
        problem(admin("GET", f"{LOGS}/{index}/proof"), 404, "not_found")
    assert set(problem(admin("GET", f"{LOGS}?limit=0&colour=red"), 400)) == {"limit", "colour"}
    assert set(problem(admin("GET", f"{LOGS}/export?format=xml"), 400)) == {"format"}


def test_a_proof_proves_its_entry_to_others(admin: Admin) -> None:
    signed = admin.get(f"{LOGS}/checkpoint")
    ring = Keyring(signed["keys"])
    said = ring.checked(signed["checkpoint"])
    assert (said.origin, said.size, said.root.hex()) == (
        signed["origin"], signed["size"], signed["root"],
    )  # fmt: skip
    row = policy(admin)[0]
    answer = admin.get(f"{LOGS}/{row['index']}/proof")
    proven = check(answer["proof"], PublicKey.parse(signed["keys"][0]))
    assert proven.index == row["index"] == answer["index"]
    assert json.loads(proven.entry) == row["event"]
    assert sha256(b"\0" + proven.entry).hexdigest() == row["hash"]


def test_an_export_is_whole_and_exact(admin: Admin) -> None:
    answer = admin("GET", f"{LOGS}/export?format=jsonl")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jsonl"
    *lines, last = answer.text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    for line, row in zip(lines, rows, strict=True):
        raw = line[line.index('"entry":') + 8 : -1].encode()
        assert sha256(b"\0" + raw).hexdigest() == row["hash"]
    note = json.loads(last)
    assert Keyring(note["keys"]).checked(note["checkpoint"]).origin == rows[0]["origin"]
    part = admin("GET", f"{LOGS}/export?first=2&last=5").text.splitlines()
    assert [json.loads(line)["index"] for line in part[:-1]] == [2, 3, 4, 5]
    named = admin("GET", f"{LOGS}/export?type=policy&actor=admin").text.splitlines()
    assert len(named) == 13
    assert admin("HEAD", f"{LOGS}/export").content == b""
    for form, note in (("ocsf", ("unmapped", "checkpoint")), ("ecs", ("bifrost", "checkpoint"))):
        lines = admin("GET", f"{LOGS}/export?format={form}&last=5").text.splitlines()
        *told, last = [json.loads(line) for line in lines]
        raws = [row.get("raw_data") or row["event"]["original"] for row in told]
        assert [sha256(b"\0" + raw.encode()).hexdigest() for raw in raws] == [
            row["hash"] for row in rows[:6]
        ]
        assert note[1] in last[note[0]]


def test_who_reads_the_log_is_in_the_log(admin: Admin, tmp_path: Path) -> None:
    index = policy(admin)[0]["index"]
    admin("GET", f"{LOGS}/{index}", x_request_id="reading-1")
    admin("GET", f"{LOGS}/{index}/proof", x_request_id="reading-2")
    admin("GET", f"{LOGS}/export?first=1&type=policy", x_request_id="reading-3")
    admin("GET", f"{LOGS}?limit=3", x_request_id="reading-4")

    def read() -> dict[str, Any]:
        rows = admin.get(f"{LOGS}?type=audit&limit=1000")["items"]
        return {row["event"].get("reason", ""): row["event"] for row in rows}

    until(lambda: {f"request reading-{n}" for n in range(1, 5)} <= set(read()))
    found = [read()[f"request reading-{n}"] for n in range(1, 5)]
    assert [event["action"] for event in found] == ["show", "prove", "export", "list"]
    assert {event["actor"] for event in found} == {"admin"}
    assert (found[0]["first"], found[2]["first"], found[3]["count"]) == (index, 1, 3)
    assert json.loads(found[2]["filters"]) == {"type": "policy"}


def test_the_log_is_verified_on_request(admin: Admin) -> None:
    kept = admin.get(f"{LOGS}/checkpoint")
    key = kept["keys"][0].strip()
    for number in range(2):
        admin.post("/governance/teams", {"name": f"later-{number}"})
    for mode in ("whole", "quick", "since"):
        asked = {"mode": mode, "checkpoint": kept["checkpoint"], "public_key": key}
        told = admin.post(f"{LOGS}/verify", asked, 200)
        assert told["intact"] and not told["findings"] and told["first_bad"] is None
        assert told["size"] >= kept["size"] and told["origin"] == kept["origin"]
        assert any("your checkpoint" in sentence for sentence in told["proved"])
    assert admin.post(f"{LOGS}/verify", {}, 200)["not_proved"]
    newest = admin.get(f"{LOGS}?type=audit&limit=1")["items"][0]["event"]
    assert newest["action"].startswith("verify-")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"mode": "since"}, "checkpoint"),
        ({"checkpoint": "no note"}, "checkpoint"),
        ({"public_key": "no key"}, "public_key"),
        ({"mode": "all"}, "mode"),
    ],
)
def test_what_cannot_be_verified_against_is_refused(
    admin: Admin, body: dict[str, Any], place: str
) -> None:
    answer = admin("POST", f"{LOGS}/verify", body)
    assert problem(answer, 422) and answer.json()["errors"][0]["path"] == place
