"""AWS Signature Version 4: signs one request for any service. Pure; a leaf."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_UNRESERVED = "-._~"
# What hops and tracing on the way may change: sent, but not signed.
_UNSIGNED = frozenset({
    "baggage", "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent",
    "x-amzn-trace-id",
})  # fmt: skip


class Credentials(NamedTuple):
    """Who signs; ``token`` is that of a temporary session. ``repr`` shows the id alone."""

    access_key_id: str
    secret_access_key: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(access_key_id={self.access_key_id!r}, …)"


def escaped(path: str, *, slash: bool = True) -> str:
    """A path or a query's part, percent-encoded as the signature demands."""
    return quote(path, safe=_UNRESERVED + ("/" if slash else ""))


def query_text(pairs: Sequence[tuple[str, str]]) -> str:
    """A query in its canonical form, which may also be sent."""
    coded = [(escaped(name, slash=False), escaped(value, slash=False)) for name, value in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(coded))


def signed_headers(
    credentials: Credentials,
    *,
    method: str,
    host: str,
    path: str,
    query: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    body_sha256: str = EMPTY_SHA256,
    region: str,
    service: str,
    now: datetime | None = None,
) -> dict[str, str]:
    """The headers to send: those given, ``host``, and the ones that sign them, names in lower case.

    ``path`` is as it is sent, percent-encoded; services other than s3 sign it without empty and
    dot segments and encoded once more, so that a ``:`` and a ``%3A`` are both fine.
    ``body_sha256`` is in hex, or what a service allows in its place. ``now`` has a time zone.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    stamp, day = moment.strftime("%Y%m%dT%H%M%SZ"), moment.strftime("%Y%m%d")
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    sent |= {"host": host, "x-amz-date": stamp}
    if service == "s3":
        sent["x-amz-content-sha256"] = body_sha256
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    signed = sorted(sent.keys() - _UNSIGNED)
    names = ";".join(signed)
    lines = "".join(f"{name}:{' '.join(sent[name].split())}\n" for name in signed)
    signed_path = path if service == "s3" else escaped(_plain(path))
    canonical = (
        f"{method}\n{signed_path or '/'}\n{query_text(query)}\n{lines}\n{names}\n{body_sha256}"
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = _day_key(credentials.secret_access_key, day, region, service)
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256")
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature={signature.hex()}"
    )
    return sent


@lru_cache(maxsize=64)
def _day_key(secret: str, day: str, region: str, service: str) -> bytes:
    """What signs all requests of a day."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _plain(path: str) -> str:
    """A path without empty and dot segments."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")
