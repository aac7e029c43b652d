"""Header lists of the wire against an oracle in plain Python."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost._fast.stations import visible
from bifrost._fast.wire import WireError, read_head

Headers = list[tuple[bytes, bytes]]
HOPS = (
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
    b" transfer-encoding upgrade"
).split()
KEPT_BACK = (
    b"host content-length content-encoding expect accept-encoding authorization x-api-key"
    b" x-goog-api-key api-key cookie forwarded x-real-ip via x-request-id"
    b" anthropic-organization-id anthropic-workspace-id"
).split()
quick = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def oracle(headers: Headers) -> dict[str, Any]:
    """What read_head must say; raises ValueError where it must raise."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if not re.fullmatch(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or re.search(
            rb"[\r\n\0]", value
        ):
            raise ValueError
        values.setdefault(name.lower(), []).append(value)
    bearer = [re.match(rb"(?i:bearer)[ \t](.*)", v) for v in values.get(b"authorization", [])]
    tried = [found[1] if found else b"" for found in bearer]
    for name in (b"x-api-key", b"x-goog-api-key", b"api-key"):
        tried += values.get(name, [])
    keys = [value for value in values.get(b"x-bf-vk", []) if value.strip()]
    keys += [value for value in tried if value.strip().startswith(b"sk-bf-")]
    lengths = set(values.get(b"content-length", []))
    if len({int(length) for length in lengths}) > 1 or not all(map(bytes.isdigit, lengths)):
        raise ValueError
    encodings = [value.lower() for value in values.get(b"content-encoding", [])]
    named = b",".join(values.get(b"connection", [])).lower().split(b",")
    away = {*HOPS, *KEPT_BACK, *(token.strip() for token in named)} - {b"keep-alive", b"close"}
    away |= {b"keep-alive"}
    sessions = values.get(b"x-bf-session-id", []) + values.get(b"x-claude-code-session-id", [])
    requests = [v for v in values.get(b"x-request-id", []) if re.fullmatch(rb"[\w.:-]{1,128}", v)]
    return {
        "credential": keys[0].strip() if keys else None,
        "foreign_credential": not keys and bool(tried or b"x-bf-vk" in values),
        "content_length": int(lengths.pop()) if lengths else None,
        "content_encoding": b", ".join(v for v in encodings if v not in (b"", b"identity")),
        "request_id": requests[0] if requests else None,
        "session": next((value for value in sessions if value), None),
        "anthropic_beta": b",".join(v for v in values[b"anthropic-beta"] if v)
        if b"anthropic-beta" in values
        else None,
        "user_agent": values.get(b"user-agent", [None])[0],
        "anthropic_version": values.get(b"anthropic-version", [None])[0],
        "forward": b"".join(
            name.lower() + b": " + value + b"\r\n"
            for name, value in headers
            if name.lower() not in away and not re.match(rb"(?i)x-bf-|x-forwarded-", name)
        ),
    }


NAMES = [*HOPS, *KEPT_BACK, b"x-bf-vk", b"X-Bf-Session-Id", b"x-claude-code-session-id"]
NAMES += [b"anthropic-version", b"Anthropic-Beta", b"user-agent", b"x-forwarded-for", b"x-bf-dim-a"]
NAMES += [b"Accept", b"x-app", b"x-b", b"Authorization", b"X-API-KEY", b"Content-Length", b"a!#~"]
VALUES = [
    b"sk-bf-1",
    b" sk-bf-2\t",
    b"Bearer sk-bf-3",
    b"bEARER  sk-bf-4",
    b"Bearer sk-ant-5",
    b"12",
]
VALUES += [
    b"012",
    b"keep-alive, X-App",
    b"close",
    b"Accept ,x-b",
    b"gzip",
    b"Identity",
    b"a:b_c.d-e",
]
VALUES += [b"\xe9 \x80", b"x" * 128, b"x" * 129, b"bearer", b"basic sk-bf-6", b"a,b"]
ODD = [b"", b"a b", b"a:", b"\xc3", b"a\r\nb", b"a\x00", b"a\nb", b"\r", b"(", b"a" * 300]


@quick
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8),
    st.lists(st.tuples(st.sampled_from(NAMES + ODD), st.sampled_from(VALUES + ODD)), max_size=1),
)
def test_read_head_agrees_with_the_oracle(headers: Headers, odd: Headers) -> None:
    headers = [*headers, *odd]
    try:
        expected = oracle(headers)
    except ValueError:
        with pytest.raises(WireError, match=r"\.$"):
            read_head(headers)
        return
    head = read_head(headers)
    assert {name: getattr(head, name) for name in expected} == expected


def test_a_claude_code_head() -> None:
    head = read_head(
        [
            (b"host", b"127.0.0.1:8080"),
            (b"accept", b"application/json"),
            (b"authorization", b"Bearer sk-bf-test"),
            (b"x-claude-code-session-id", b"524c1231"),
            (b"anthropic-version", b"2023-06-01"),
            (b"anthropic-beta", b"a-2025"),
            (b"anthropic-beta", b"b-2026"),
            (b"x-bf-dim-team", b"core"),
            (b"connection", b"keep-alive"),
            (b"accept-encoding", b"gzip"),
            (b"content-length", b"49230"),
        ]
    )
    assert (head.credential, head.foreign_credential) == (b"sk-bf-test", False)
    assert (head.session, head.content_length, head.content_encoding) == (b"524c1231", 49230, b"")
    assert head.forward == (
        b"accept: application/json\r\nx-claude-code-session-id: 524c1231\r\n"
        b"anthropic-version: 2023-06-01\r\nanthropic-beta: a-2025\r\nanthropic-beta: b-2026\r\n"
    )
    assert (head.anthropic_version, head.anthropic_beta) == (b"2023-06-01", b"a-2025,b-2026")


def test_the_order_of_credentials() -> None:
    headers = [
        (b"api-key", b"sk-bf-e"),
        (b"x-goog-api-key", b"sk-bf-d"),
        (b"x-api-key", b"sk-bf-c"),
        (b"authorization", b"Bearer sk-bf-b"),
        (b"x-bf-vk", b"a"),
    ]
    for count, expected in zip(
        range(5, 0, -1), b"a sk-bf-b sk-bf-c sk-bf-d sk-bf-e".split(), strict=True
    ):
        assert read_head(headers[:count]).credential == expected
    foreign = read_head([(b"x-api-key", b"sk-ant-1"), (b"authorization", b"Bearer x")])
    assert (foreign.credential, foreign.foreign_credential) == (None, True)
    assert not read_head([(b"accept", b"*/*")]).foreign_credential


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ((b"bad name", b"x"), "is not a header name"),
        ((b"", b"x"), "is not a header name"),
        ((b"accept", b"a\r\nx-api-key: b"), "accept header holds a line end or a NUL"),
        ((b"content-length", b"+1"), "content-length"),
        ((b"content-length", b"1" * 19), "content-length"),
        ((b"a", b"x" * (1 << 20)), "longer than 1 MiB"),
    ],
)
def test_a_refusal_says_why(header: tuple[bytes, bytes], sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        read_head([header])


@quick
@given(st.lists(st.tuples(st.sampled_from(NAMES + ODD), st.sampled_from(VALUES + ODD)), max_size=8))
def test_a_client_sees_no_line_break_of_a_provider(headers: Headers) -> None:
    lines = visible(headers)
    assert lines.endswith(b"\r\n") or not lines
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        assert name == name.lower() and name not in HOPS and not name.startswith(b"x-bf-")
        assert not re.search(rb"[\r\n\0]", value)


def test_a_client_sees_what_it_needs() -> None:
    kept = [
        (b"content-type", b"text/event-stream"),
        (b"content-encoding", b"gzip"),
        (b"request-id", b"req_1"),
        (b"retry-after", b"3"),
        (b"x-should-retry", b"true"),
        (b"anthropic-fast", b"1"),
    ]
    dropped = [
        (b"content-length", b"10"),
        (b"Date", b"today"),
        (b"Server", b"x"),
        (b"set-cookie", b"a=b"),
        (b"alt-svc", b"h3"),
        (b"strict-transport-security", b"max-age=1"),
        (b"anthropic-ratelimit-requests-limit", b"5"),
        (b"anthropic-organization-id", b"o"),
        (b"anthropic-workspace-id", b"w"),
        (b"x-bf-model", b"m"),
        (b"CF-Ray", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
    ]
    loud = [(name.title(), value) for name, value in kept]
    lines = b"".join(b"%b: %b\r\n" % line for line in kept)
    assert visible(loud[:3] + dropped + loud[3:]) == lines
