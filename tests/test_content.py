"""What was said, recorded: as a digest or sealed per subject, readable with keys, erasable."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from msgspec.structs import replace

from bifrost.audit import events
from bifrost.audit.content import PART, Side, matches, opened
from bifrost.audit.log import Reader
from bifrost.embedding import Gateway
from bifrost.errors import GatewayUnavailable, StoreError
from bifrost.governance.vault import Vault
from tests.commands import Office, stored, until
from tests.evidence import examined
from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration, message

SECRET = "the moon is made of cheese"
KEYS = {"plain": "p", "hashed": "h", "sealed": "s"}


def secret_of(name: str) -> str:
    return f"sk-bf-{name}-" + "0" * 40


def governed(upstream: str, content: str = "none", mode: str = "standard") -> dict[str, Any]:
    """Keys that say themselves what is recorded of them, and alice-dev, who does not."""
    found = configuration(upstream)
    governance = found["governance"]
    governance["users"] += [{"name": "bob"}]
    own = {"plain": "none", "hashed": "hash", "sealed": "full"}
    governance["virtual_keys"] += [
        {"name": name, "value": secret_of(name), "audit_content": what, "user": "bob"}
        for name, what in own.items()
    ]
    return found | {"audit_logs": {"content": content, "mode": mode}}


class Scene:
    """A gateway before a mock."""

    def __init__(self, folder: Path, **evidence: str) -> None:
        self.mock = RunningMock(folder)
        self.gateway = RunningGateway(folder, governed(self.mock.url, **evidence))
        self.folder = self.gateway.data_dir
        self.office = Office(self.folder)

    def ask(self, key: str, request: str, **changes: Any) -> httpx.Response:
        body = message(messages=[{"role": "user", "content": SECRET}], **changes)
        return httpx.post(
            f"{self.gateway.url}/v1/messages",
            headers=bearer(key) | {"x-request-id": request},
            json=body,
            timeout=30,
        )

    def told(self, kind: Any = events.Content) -> list[Any]:
        found = [events.decode(raw) for _, raw in Reader(self.folder).read(0, 100_000)]
        return [event for event in found if isinstance(event, kind)]

    def content(self, request: str, sides: int = 2) -> dict[str, events.Content]:
        def found() -> dict[str, events.Content] | None:
            told = {one.side: one for one in self.told() if one.request == request}
            return told if len(told) == sides else None

        content: dict[str, events.Content] = until(found)
        return content

    def stop(self) -> None:
        self.gateway.stop()
        self.mock.stop()


def test_each_key_says_what_is_recorded_of_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, content="hash")
    try:
        for name in KEYS:
            assert scene.ask(secret_of(name), f"of-{name}").status_code == 200
        streamed = scene.ask(secret_of("sealed"), "streamed", stream=True)
        answer = scene.ask(KEY, "of-deployment")
        sealed, hashed = scene.content("of-sealed"), scene.content("of-hashed")
        default, stream = scene.content("of-deployment"), scene.content("streamed")
        assert {one.request for one in scene.told()} == {
            "of-sealed", "of-hashed", "of-deployment", "streamed",
        }  # fmt: skip
        assert sealed["request"].sealed and not hashed["request"].sealed
        assert not default["response"].sealed and default["response"].size == len(answer.content)
        assert stream["response"].size == len(streamed.content)
        assert sealed["request"].subject == hashed["request"].subject
        assert sealed["request"].subject.startswith("usr_")
        assert SECRET.encode() not in stored(scene.folder)
        order = [one.type_of for one in _named(scene, "of-sealed")]
        assert order[0] == "request" and set(order) == {"request", "model", "response"}
    finally:
        scene.stop()
    assert examined(scene.folder / "audit").intact


class _Entry:
    def __init__(self, event: Any) -> None:
        self.type_of = event.side if isinstance(event, events.Content) else "model"


def _named(scene: Scene, request: str) -> list[_Entry]:
    told = scene.told((events.Content, events.ModelAccess))
    return [_Entry(one) for one in told if one.request == request]


def test_sealed_content_is_read_with_the_keys_until_it_is_erased(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    office = scene.office
    try:
        assert scene.ask(secret_of("sealed"), "first").status_code == 200
        scene.content("first")
        index = next(at for at, raw in Reader(scene.folder).read(0, 1000) if b'"content"' in raw)
        shown = office.json("audit", "show", "--request", "first", "--content", "--reason", "case")
        assert [one["side"] for one in shown] == ["request", "response"]
        assert SECRET in shown[0]["text"] and json.loads(shown[1]["text"])["type"] == "message"
        assert SECRET in office("audit", "show", str(index), "--content").out
        reading = [one for one in scene.told(events.AuditAccess) if one.action == "reveal"]
        assert [one.reason for one in reading] == ["case", ""]
        assert json.loads(reading[0].filters) == {"request": "first"}
        said = office.json("audit", "erase", "--user", "bob", "--reason", "ticket 4711")
        assert said["erased"]
        [erasure] = scene.told(events.Erasure)
        assert (erasure.subject, erasure.name, erasure.reason) == (
            said["subject"], "bob", "ticket 4711",
        )  # fmt: skip
        assert erasure.sealer == scene.content("first")["request"].sealer
        gone = office("audit", "show", "--request", "first", "--content", "--json")
        assert gone.code == 1 and SECRET not in gone.out
        assert {one["problem"] for one in json.loads(gone.out)} == {
            "the key of its subject was destroyed"
        }
        assert scene.ask(secret_of("sealed"), "second").status_code == 200
        scene.content("second")
        assert SECRET in office("audit", "show", "--request", "second", "--content").out
        assert office("audit", "show", "--request", "first", "--content").code == 1
        assert office("audit", "erase", "--user", "nobody").code != 0
    finally:
        scene.stop()
    assert examined(scene.folder / "audit").intact


def test_a_digest_tells_whether_this_was_said(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    try:
        body = json.dumps(message(messages=[{"role": "user", "content": SECRET}])).encode()
        headers = bearer(secret_of("hashed")) | {"x-request-id": "r"}
        httpx.post(f"{scene.gateway.url}/v1/messages", headers=headers, content=body)
        scene.content("r")
        index = next(
            at for at, raw in Reader(scene.folder).read(0, 1000) if b'"side":"request"' in raw
        )
        said, other = tmp_path / "said", tmp_path / "other"
        said.write_bytes(body)
        other.write_bytes(body + b" ")
        assert scene.office("audit", "compare", str(index), said).code == 0
        assert scene.office("audit", "compare", str(index), other).code == 1
        assert scene.office("audit", "compare", "0", said).code == 2
        scene.office.json("audit", "erase", "--user", "bob")
        assert scene.office("audit", "compare", str(index), said).code == 2
        shown = scene.office("audit", "show", "--request", "r", "--content", "--json")
        assert shown.code == 1 and "only its digest" in shown.out
    finally:
        scene.stop()


def test_strict_records_the_intent_before_the_request_leaves(tmp_path: Path) -> None:
    scene = Scene(tmp_path, mode="strict")
    try:
        assert scene.ask(KEY, "r-1").status_code == 200
        intents, accesses = scene.told(events.Intent), None
        assert [(one.request, one.provider) for one in intents] == [("r-1", "anthropic")]
        accesses = until(lambda: scene.told(events.ModelAccess))
        assert intents[0].seq < accesses[0].seq and intents[0].reserved > 0
        assert (intents[0].key, intents[0].team) == (accesses[0].key, accesses[0].team)
        steward = _steward(scene)
        scene.mock.reset()
        steward.suspend()
        try:
            refused = scene.ask(KEY, "r-2")
        finally:
            steward.resume()
        assert refused.status_code == 503
        assert refused.headers["x-bf-error"] == "gateway_unavailable"
        assert "not sent" in refused.json()["error"]["message"]
        assert scene.mock.account()["total"]["requests"] == 0
        until(lambda: scene.ask(KEY, "r-3").status_code == 200)
        assert {reserved for _, reserved in scene.gateway.spent().values()} == {"0"}
    finally:
        scene.stop()


def _steward(scene: Scene) -> psutil.Process:
    inode = (scene.folder / "steward.lock").stat().st_ino
    locks = Path("/proc/locks").read_text()
    found = re.search(rf"FLOCK +\w+ +WRITE +(\d+) +\w+:\w+:{inode} ", locks)
    assert found is not None
    return psutil.Process(int(found[1]))


def test_an_embedded_gateway_is_strict_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "bifrost.json"
    config.write_text(json.dumps(governed("http://127.0.0.1:9", mode="strict")))
    body = json.dumps(message()).encode()
    gateway = Gateway.open(config, data_dir=tmp_path / "data", steward=False)
    monkeypatch.setattr("bifrost.witness.PATIENCE_S", 0.05)
    with pytest.raises(GatewayUnavailable, match="not sent"):
        gateway.admit(bearer(), body=body)
    assert gateway._core.gate.reservations() == []
    gateway._core.start_steward()
    monkeypatch.undo()
    gateway.release(gateway.admit(bearer(), body=body))
    gateway.close()
    told = [events.decode(raw) for _, raw in Reader(tmp_path / "data").read(0, 1000)]
    kinds = [type(one).__name__ for one in told if hasattr(one, "request")]
    assert kinds == ["Intent", "ModelAccess", "Intent", "ModelAccess"]


# -- the leaves ----------------------------------------------------------------------------------


def sides(vault: Vault, plain: bytes, *, full: bool = True) -> list[events.Content]:
    side = Side("request", vault.sealer("user_1"), full=full)
    for at in range(0, len(plain), 7001):
        side.hear(plain[at : at + 7001])
    return [replace(one) for one in side.told("r", "vk_1", "user_1")]


def test_large_content_is_sealed_in_parts_that_fit_an_entry(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    plain = random.Random(7).randbytes(5 * PART)
    told = sides(vault, plain)
    assert len(told) >= 5 and [one.part for one in told] == list(range(len(told)))
    assert max(len(events.encode(one)) for one in told) < 1 << 16
    seal = vault.sealer("user_1")
    assert opened(reversed(told), seal) == plain and matches(plain, told[0], seal)
    assert not matches(plain + b"x", told[0], seal)
    with pytest.raises(StoreError, match="Not all parts"):
        opened(told[1:], seal)
    swapped = [replace(told[0], sealed=told[1].sealed), *told[1:]]
    with pytest.raises(StoreError, match="cannot be opened"):
        opened(swapped, seal)
    with pytest.raises(StoreError, match="cannot be opened"):
        opened(told, vault.sealer("user_2"))
    assert [one.sealed for one in sides(vault, plain, full=False)] == [None]
    assert opened(sides(vault, b""), seal) == b""


def test_subject_keys_last_until_they_are_destroyed(tmp_path: Path) -> None:
    vault, other = Vault(tmp_path), Vault(tmp_path)
    first = vault.sealer("user_1")
    assert other.sealer("user_1").name == first.name != other.sealer("user_2").name
    assert vault.subjects() == ["user_1", "user_2"]
    other.destroy("user_1")
    assert vault.find("user_1") is None and vault.subjects() == ["user_2"]
    assert vault.sealer("user_1").name != first.name
    other.destroy("user_1")
    other.destroy("user_1")
    with pytest.raises(StoreError, match="no id"):
        vault.sealer("../../etc")
    key = tmp_path / "subjects" / "_2" / "user_2"
    assert key.stat().st_mode & 0o77 == 0
    (tmp_path / "master.key").write_bytes(bytes(32))
    with pytest.raises(StoreError, match="restore both"):
        Vault(tmp_path).sealer("user_2")
