"""Asking token endpoints: one request and its answer, and what can be wrong with either.

Who sends (the upstream room) is given as ``Ask``; this room knows no connections.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from bifrost.config.values import is_local
from bifrost.errors import BifrostError

FORM = "application/x-www-form-urlencoded"
_LONGEST = 300  # characters of a foreign sentence that are repeated


class CredentialError(BifrostError):
    """No credential is to be had; the text says of whom it was asked and why not.

    ``lasting``: asking again soon will not help, somebody has to change something.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class Errand(msgspec.Struct, frozen=True):
    """One request to a token endpoint. ``repr`` shows neither headers nor body: they are secrets.

    ``near``: the endpoint is of this machine or its link, so no proxy leads to it, and where it is
    not there nobody answers: the wait is short.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = {}
    body: bytes = b""
    near: bool = False

    def __repr__(self) -> str:
        return f"Errand({self.method} {self.place})"

    @property
    def place(self) -> str:
        """The address without its query, as it may be shown."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


class Reply(msgspec.Struct, frozen=True):
    """What a token endpoint answered; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Reply({self.status}, …)"


# Raises UpstreamError where there is no answer.
Ask = Callable[[Errand], Awaitable[Reply]]


def form(url: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Errand:
    """A POST of a form."""
    body = urlencode(fields).encode()
    return Errand(url, "POST", {"content-type": FORM, **(headers or {})}, body)


def document(errand: Errand, reply: Reply, advice: str = "") -> dict[str, Any]:
    """The JSON object of an answer; CredentialError if it is a refusal or none.

    ``advice``: what to do about a refusal, a sentence.
    """
    told = decoded(reply.body)
    if reply.status != 200 or told is None:
        raise refused(errand, reply, advice)
    return told


def decoded(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or None if it is something else."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def refused(errand: Errand, reply: Reply, advice: str = "") -> CredentialError:
    """The error for an answer that holds no credential: the endpoint's own words, and ours."""
    said = _reason(decoded(reply.body) or {})
    state = f"answers {reply.status}" if reply.status != 200 else "answers without a credential"
    text = f"{errand.place} {state}{f' ({said})' if said else ''}."
    passing = reply.status in (408, 409, 429) or reply.status >= 500
    return CredentialError(
        f"{text} {advice}".rstrip() if not passing else text, lasting=not passing
    )


def member(errand: Errand, told: Mapping[str, Any], name: str) -> str:
    """A text of an answer that has to be there, fit for a header; CredentialError if not."""
    value = told.get(name)
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise CredentialError(f"{errand.place} answers without a usable {name!r}.")
    return value


def seconds(told: Mapping[str, Any], name: str) -> float | None:
    """A number of seconds, which some endpoints write as text; None if it is none."""
    value = told.get(name)
    try:
        found = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None
    return found if found is not None and 0 < found < 1e11 else None


def safe_address(url: str, what: str) -> str:
    """An address that secrets may be sent to; CredentialError if it is http to another machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and is_local(url):
        return url
    raise CredentialError(f"{what} has to be an https address, got {url[:100]!r}.", lasting=True)


def _reason(told: Mapping[str, Any]) -> str:
    """What an OAuth server, Google or AWS says of its refusal, in one printable line."""
    inner = told.get("error")
    if isinstance(inner, dict):
        words = [inner.get("status"), inner.get("message")]
    else:
        words = [inner, told.get("error_description"), told.get("message"), told.get("Message")]
    said = ": ".join(word for word in words if isinstance(word, str) and word)
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"
