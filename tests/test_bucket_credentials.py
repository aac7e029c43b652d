"""Buckets by AWS's chain of credentials: renewed, found in any process, refused in clear words."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost import chain
from bifrost.audit import depots
from bifrost.chain import Chain
from bifrost.config import parse
from bifrost.config.evidence import Archive, ArchiveBucket
from bifrost.config.exports import S3Export
from bifrost.errors import BifrostError, ConfigError
from bifrost.exports.records import Item, entry
from bifrost.exports.targets import target_of
from bifrost.s3 import Bucket, S3Error, Unreachable
from bifrost.sigv4 import Credentials
from tests.issuer import Answer, Asked, Issuer
from tests.seaweed import CREDENTIALS, Store, running
from tests.test_aws_credentials import stamp

_SET = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ROLE_ARN",
        "WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_FULL_URI",
        "CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip


class Task:
    """The container's service of a task that may use the store."""

    def __init__(self) -> None:
        self.lasts, self.ill, self.given = 3600.0, False, CREDENTIALS

    def __call__(self, asked: Asked) -> Answer:
        assert asked.path == "/task" and asked.headers["authorization"] == "task-token"
        if self.ill:
            return 500, {"message": "ill"}
        return 200, {
            "AccessKeyId": self.given.access_key_id, "Token": "",
            "SecretAccessKey": self.given.secret_access_key, "Expiration": stamp(self.lasts),
        }  # fmt: skip


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's gives credentials."""
    for name in _SET:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(chain, "_held", {})
    monkeypatch.setattr(depots, "_known", {})


@pytest.fixture
def task(alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    with Issuer(Task()) as issuer:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{issuer.url}/task")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "task-token")
        yield issuer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("seaweed")) as found:
        yield found


def test_an_archive_asks_as_the_task_that_it_runs_in(
    store: Store, task: Issuer, tmp_path: Path
) -> None:
    store.create("chained")
    told = ArchiveBucket(bucket="chained", prefix="audit", endpoint=store.endpoint)
    depot = depots.configured(Archive(s3=told), tmp_path)
    depot.put("part", b"sealed", 0)
    again = depots.opened(pickle.loads(pickle.dumps(depot)).address, tmp_path)
    found = again.get("part")
    assert found is not None and found.data == b"sealed"
    assert len(task.asked) == 1  # one for all requests, and for all buckets of a region


def test_an_export_asks_as_the_task_that_it_runs_in(store: Store, task: Issuer) -> None:
    bucket = store.create("exported")
    sink = S3Export(name="s3", url=store.endpoint, bucket="exported")

    async def sent() -> tuple[str, str]:
        target: Any = target_of(sink)
        record = entry("log.example", 4, b'{"type":"gateway","at":5}')
        one = Item(record, target.body(record))
        answer = await target.send([one])
        await target.close()
        return answer.verdict, target.name([one])

    verdict, name = asyncio.run(sent())
    assert verdict == "taken" and bucket.head(name) is not None


def test_it_is_renewed_and_the_old_one_used_while_that_fails(task: Issuer) -> None:
    found: Any = task.answer
    keys = Chain(region="eu-central-1")
    found.lasts = 40.0  # due at once for renewal by the machine's margin: at its half
    assert keys.credentials() == CREDENTIALS
    held = chain._held[keys]
    chain._held[keys] = held.__class__(held.value, held.ends, 0.0)  # due
    found.ill = True
    assert keys.credentials() == CREDENTIALS
    found.ill, found.given = False, Credentials("AKIANEW", "s")
    assert keys.credentials().access_key_id == "AKIANEW"
    chain._held[keys] = held.__class__(held.value, 0.0, 0.0)  # ended
    found.ill = True
    with pytest.raises(BifrostError, match="answers 500"):
        keys.credentials()


@pytest.mark.parametrize("half", [{"access_key": "a"}, {"token": "b"}])
def test_half_a_credential_is_refused(half: dict[str, str]) -> None:
    sink = {"type": "s3", "name": "s", "url": "https://s3.example", "bucket": "bucket", **half}
    with pytest.raises(ConfigError, match="expected access_key and token, or neither"):
        parse({"audit_logs": {"exports": [sink]}}, where="f", base=Path("/nowhere"))


def test_an_event_loop_may_run_in_the_thread_that_asks(task: Issuer) -> None:
    async def asked() -> Credentials:
        return Chain(region="eu-central-1").credentials()

    assert asyncio.run(asked()) == CREDENTIALS


def test_without_any_the_error_says_where_was_looked(alone: None) -> None:
    bucket = Bucket(name="b", endpoint="http://127.0.0.1:9", credentials=Chain(region="r-1"))
    with pytest.raises(Unreachable, match="neither AWS_ACCESS_KEY_ID nor a profile"):
        bucket.get("x")
    with pytest.raises(S3Error, match="AWS_EC2_METADATA_DISABLED"):
        bucket.put("x", b"")
