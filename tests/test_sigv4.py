"""Signature V4 equal to botocore's, for S3 and for services that sign a path encoded twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import urlencode

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Theirs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bifrost.sigv4 import Credentials, escaped, query_text, signed_headers

NOW = datetime(2026, 11, 26, 23, 59, 59, tzinfo=UTC)
MODELS = [
    "anthropic.claude-opus-5-5",
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123",
    "a b/ä;~*",
]
VISIBLE = st.characters(min_codepoint=33, max_codepoint=126)
WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
SEGMENTS = WORDS.filter(lambda text: text not in (".", ".."))
VALUES = st.lists(st.text(VISIBLE, min_size=1, max_size=20), min_size=1, max_size=3).map("  ".join)
NAMES = st.sampled_from(
    ["Content-Type", "accept", "X-Amz-Meta-A", "User-Agent", "traceparent", "x-amzn-bedrock-trace"]
)
QUERIES = st.lists(st.tuples(WORDS, WORDS), max_size=4, unique_by=lambda pair: pair[0])
CREDENTIALS = st.builds(
    Credentials,
    st.just("AKID"),
    st.text(VISIBLE, min_size=16, max_size=40),
    st.sampled_from(["", "a/session+token=="]),
)


def oracle(
    service: str, region: str, url: str, method: str, headers: dict[str, str], body: bytes,
    credentials: Credentials, now: datetime,
) -> dict[str, str]:  # fmt: skip
    """The headers that botocore adds or signs, names in lower case."""
    asked = AWSRequest(url=url, method=method, headers=headers, data=body)
    signer = auth.S3SigV4Auth if service == "s3" else auth.SigV4Auth
    theirs = Theirs(*credentials[:2], credentials.token or None)
    patch = pytest.MonkeyPatch()
    try:
        plain = now.astimezone(UTC).replace(tzinfo=None)
        patch.setattr(auth, "get_current_datetime", lambda *_, **__: plain)
        signer(theirs, service, region).add_auth(asked)
    finally:
        patch.undo()
    return {name.lower(): value for name, value in asked.headers.items()}


def check(
    service: str, sent: str, query: list[tuple[str, str]], headers: dict[str, str], body: bytes,
    credentials: Credentials, *, method: str = "POST", region: str = "eu-central-1",
    now: datetime = NOW,
) -> None:  # fmt: skip
    """Ours is what botocore sends, and nothing but the host is added."""
    mine = signed_headers(
        credentials, method=method, host="a.example", path=sent, query=query, headers=headers,
        body_sha256=hashlib.sha256(body).hexdigest(), region=region, service=service, now=now,
    )  # fmt: skip
    url = f"https://a.example{sent}" + (f"?{query_text(query)}" if query else "")
    theirs = oracle(service, region, url, method, headers, body, credentials, now)
    assert mine == theirs | {"host": "a.example"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SEGMENTS, max_size=4), QUERIES, st.dictionaries(NAMES, VALUES), st.binary(),
       CREDENTIALS)  # fmt: skip
def test_s3(
    path: list[str], query: list[tuple[str, str]], headers: dict[str, str], body: bytes,
    credentials: Credentials,
) -> None:  # fmt: skip
    sent = "/" + "/".join(escaped(part, slash=False) for part in path)
    check("s3", sent, query, headers, body, credentials, method="PUT")


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    service=st.sampled_from(["bedrock", "bedrock-mantle", "aws-external-anthropic"]),
    region=st.sampled_from(["us-east-1", "eu-west-1"]),
    model=st.one_of(st.sampled_from(MODELS), WORDS),
    encode=st.sampled_from([escaped, lambda part, slash: part.translate({ord("/"): "%2F"})]),
    query=QUERIES,
    headers=st.dictionaries(NAMES, VALUES),
    body=st.one_of(st.just(b""), st.binary(max_size=64)),
    credentials=CREDENTIALS,
    now=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
)
def test_bedrock(
    service: str, region: str, model: str, encode: Callable[..., str],
    query: list[tuple[str, str]], headers: dict[str, str], body: bytes, credentials: Credentials,
    now: datetime,
) -> None:  # fmt: skip
    """A model's name may be sent with ``:`` as it is, or percent-encoded."""
    if encode is not escaped and (not model.isascii() or set(model) & set("?#[]@ \\%")):
        encode = escaped  # no URL has these as they are
    sent = f"/model/{encode(model, slash=False)}/invoke-with-response-stream"
    check(service, sent, query, headers, body, credentials, region=region, now=now)


@pytest.mark.parametrize("path", [
    "/", "//", "/a//b", "/a/./b/", "/a/../b", "/../a", "/a/..", "/a/b/../../..", "/./", "/a//",
    "/model/x%2Fy/invoke", "/model/a:b/invoke", "/model/a%3Ab/invoke",
])  # fmt: skip
def test_a_path_that_is_not_plain(path: str) -> None:
    check("bedrock", path, [], {}, b"", Credentials("AKID", "secret"))


def test_a_colon_is_signed_as_it_was_sent_and_encoded_once_more() -> None:
    credentials = Credentials("AKID", "secret")
    asked = {"method": "POST", "host": "a.example", "region": "us-east-1", "now": NOW}
    colon, coded = (
        signed_headers(credentials, path=f"/model/m{sign}0/invoke", service="bedrock", **asked)
        for sign in (":", "%3A")
    )
    assert colon["authorization"] != coded["authorization"]


@pytest.mark.parametrize("hours", [-11, 0, 9])
def test_the_day_is_that_of_utc(hours: int) -> None:
    there = NOW.astimezone(timezone(timedelta(hours=hours)))
    check("bedrock", "/x", [], {}, b"", Credentials("AKID", "secret"), now=there)


def test_every_day_secret_region_and_service_has_its_own_key() -> None:
    for day in range(3):
        for secret in ("one-secret", "other-secret"):
            for region in ("us-east-1", "eu-west-1"):
                for service in ("bedrock", "s3"):
                    check(
                        service, "/x", [], {}, b"{}", Credentials("AKID", secret), region=region,
                        now=NOW + timedelta(days=day),
                    )  # fmt: skip


def test_a_query_is_sorted_and_encoded() -> None:
    pairs = [("type", "SYSTEM DEFINED"), ("a", "~/+"), ("A", "")]
    assert query_text(pairs) == "A=&a=~%2F%2B&type=SYSTEM%20DEFINED"
    assert sorted(query_text(pairs).replace("%20", "+").split("&")) == sorted(
        urlencode(pairs).split("&")
    )
