"""A bucket of a real store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bifrost.s3 import Bucket, S3Error, Unreachable
from bifrost.sigv4 import Credentials
from tests.seaweed import Store, running


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials("AKID", "very-secret", "token-too"))
    assert "AKID" in shown and "very" not in shown and "too" not in shown
    bucket = Bucket(name="b", credentials=Credentials("AKID", "very-secret"))
    assert "very" not in repr(bucket)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("seaweed")) as found:
        yield found


def test_an_object_is_put_once_read_and_removed(store: Store) -> None:
    bucket = store.create("plain")
    key = "a/b c/ä+1~.zst"
    assert bucket.get(key) is None and bucket.head(key) is None
    assert bucket.put(key, b"first") is not None
    assert bucket.put(key, b"second") is None
    found = bucket.get(key)
    assert found is not None and (found.data, found.size) == (b"first", 5)
    head = bucket.head(key)
    assert head is not None and head.size == 5
    assert bucket.delete(key) and bucket.get(key) is None
    assert bucket.delete(key)


@pytest.mark.parametrize("lock", ["compliance", "governance"])
def test_a_locked_object_cannot_be_removed_before_its_time(store: Store, lock: str) -> None:
    bucket = store.create(f"locked-{lock}", locked=True)
    until = datetime.now(UTC) + timedelta(hours=1)
    version = bucket.put("held", b"x", lock=lock, until=until)
    assert version
    assert not bucket.delete("held", version)
    found = bucket.get("held", version)
    assert found is not None and found.data == b"x" and found.version == version
    free = bucket.put("free", b"y")
    assert free and bucket.delete("free", free) and bucket.get("free", free) is None


def test_refusals_and_silence_are_told_apart(store: Store) -> None:
    store.create("asked")
    wrong = store.bucket("asked", credentials=Credentials("AKIATEST", "wrong"))
    with pytest.raises(S3Error, match="403 SignatureDoesNotMatch") as caught:
        wrong.put("x", b"x")
    assert not isinstance(caught.value, Unreachable)
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        wrong.get("x")
    nobody = Bucket(name="b", endpoint="http://127.0.0.1:9", credentials=Credentials("a", "b"))
    with pytest.raises(Unreachable, match="cannot be reached"):
        nobody.get("x")
