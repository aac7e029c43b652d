"""Values that stand as text in a configuration: money, spans, instants, keys, addresses."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

VISIBLE = re.compile(r"[!-~]+")
_LOCAL = ("localhost", "127.", "::1")
MONEY = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?")
DURATION = re.compile(r"([1-9][0-9]{0,2}|1000)[mhdwMQY]")
WINDOW = re.compile(r"([1-9][0-9]{0,4})([smhd])")
MOST_WINDOW_S = 31 * 86_400
AGE = re.compile(r"(0|[1-9][0-9]{0,4})([smhdwMY])")
MOST_AGE_S = 100 * 366 * 86_400
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONG = _SECONDS | {"w": 7 * 86_400, "M": 31 * 86_400, "Y": 366 * 86_400}  # never too short
MOST_USD = 1_000_000_000
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9})[0-9]*)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def nano_usd(amount: str | int) -> int:
    """An amount in USD ("75", "75.00", 75) as int nano-USD; ValueError if it is not one."""
    shape = MONEY.fullmatch(str(amount))
    if shape is None:
        raise ValueError("expected an amount in USD such as '75.00', at most 9 decimals")
    nanos = int(shape[1]) * 1_000_000_000 + int((shape[2] or "").ljust(9, "0"))
    if nanos > MOST_USD * 1_000_000_000:
        raise ValueError(f"expected at most {MOST_USD} USD")
    return nanos


def span_ns(text: str) -> int:
    """The length in ns of a rate limit's window, ``<n>`` and s, m, h or d; ValueError if none."""
    shape = WINDOW.fullmatch(text)
    if shape is None or int(shape[1]) * _SECONDS[shape[2]] > MOST_WINDOW_S:
        raise ValueError(
            "expected a number and one of s m h d (seconds, minutes, hours, days), at most 31d,"
            f" such as '1m', got {text[:24]!r}"
        )
    return int(shape[1]) * _SECONDS[shape[2]] * 1_000_000_000


def age_ns(text: str) -> int:
    """The ns of an age, ``<n>`` and s, m, h, d, w, M (31 days) or Y (366); ValueError if none."""
    shape = AGE.fullmatch(text)
    if shape is None or int(shape[1]) * _LONG[shape[2]] > MOST_AGE_S:
        raise ValueError(
            "expected a number up to 99999 and one of s m h d w M Y (M is 31 days, Y 366), at most"
            " 100Y, such as '365d'"
        )
    return int(shape[1]) * _LONG[shape[2]] * 1_000_000_000


def instant_ns(text: str) -> int:
    """An RFC 3339 time as int nanoseconds since the Unix epoch; ValueError if it is not one."""
    shape = _TIME.fullmatch(text)
    try:
        if shape is None:
            raise ValueError
        offset = "+00:00" if shape[4] in "Zz" else shape[4]
        moment = datetime.fromisoformat(f"{shape[1]}T{shape[2]}{offset}")
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
        if not 1700 < moment.year < 2262:  # what 63 bits of nanoseconds hold
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a time with its offset, such as '2027-01-31T12:00:00Z' (RFC 3339), in a year"
            " from 1701 to 2261"
        ) from None
    return seconds * 1_000_000_000 + int((shape[3] or "").ljust(9, "0"))


def signing_key(secret: str) -> bytes:
    """The key in a secret of Standard Webhooks, ``whsec_`` and base64; ValueError if it is none."""
    prefix, _, text = secret.partition("_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError(
            "expected 'whsec_' and 24 to 64 random bytes in base64, such as"
            " `echo whsec_$(openssl rand -base64 32)` prints"
        )
    return key


def is_address(url: str, *, user: bool = False, query: bool = False) -> bool:
    """Whether it is an http(s) address; with user and password, or query, only where allowed."""
    if not VISIBLE.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return sound and (user or "@" not in parts.netloc) and (query or not set("?#") & set(url))


def is_local(url: str) -> bool:
    """Whether what is sent to an address stays on this machine."""
    return (urlsplit(url).hostname or "").startswith(_LOCAL)
