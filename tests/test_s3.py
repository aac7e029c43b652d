"""Signature V4 against another implementation of it, and a bucket of a real store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.s3 import Bucket, S3Error, Unreachable
from bifrost.sigv4 import Credentials, escaped, query_text, signed_headers
from tests.seaweed import Store, running

WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12)
SEGMENTS = WORDS.filter(lambda text: text not in (".", ".."))
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=40)


def oracle(service: str, url: str, credentials: Credentials, **request: Any) -> str:
    """The authorization that botocore makes."""
    auth = pytest.importorskip("botocore.auth")
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials as Theirs

    asked = AWSRequest(url=url, **request)
    signer = auth.S3SigV4Auth if service == "s3" else auth.SigV4Auth
    theirs = Theirs(*credentials[:2], credentials.token or None)
    signer(theirs, service, "eu-central-1").add_auth(asked)
    return str(asked.headers["Authorization"])


@settings(max_examples=120, deadline=None)
@given(
    service=st.sampled_from(["s3", "bedrock"]),
    path=st.lists(SEGMENTS, max_size=4),
    query=st.dictionaries(WORDS, WORDS, max_size=4),
    headers=st.dictionaries(st.sampled_from(["x-amz-meta-a", "content-type"]), VALUES),
    secret=SECRETS,
    token=st.sampled_from(["", "a/session+token=="]),
    body=st.binary(max_size=64),
)
def test_it_signs_as_botocore_does(
    service: str, path: list[str], query: dict[str, str], headers: dict[str, str], secret: str,
    token: str, body: bytes,
) -> None:  # fmt: skip
    credentials = Credentials("AKID", secret, token)
    sent = "/" + "/".join(escaped(part, slash=False) for part in path)
    pairs = list(query.items())
    now = datetime.now(UTC)
    mine = signed_headers(
        credentials, method="PUT", host="a.example", path=sent, query=pairs, headers=headers,
        body_sha256=hashlib.sha256(body).hexdigest(), region="eu-central-1", service=service,
        now=now,
    )  # fmt: skip
    auth = pytest.importorskip("botocore.auth")
    stamp = pytest.MonkeyPatch()
    try:
        stamp.setattr(auth, "get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
        url = f"https://a.example{sent}" + (f"?{query_text(pairs)}" if pairs else "")
        theirs = oracle(service, url, credentials, method="PUT", headers=headers, data=body)
    finally:
        stamp.undo()
    assert mine["authorization"] == theirs


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
