"""One request and one reply of the mock provider, as bytes, with the parts that dialects share."""

from __future__ import annotations

import http
import itertools
import secrets
import time
import zlib
from collections.abc import Callable
from email.utils import formatdate

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.plan import Plan

_RUN = secrets.token_hex(6).encode()
_serials = itertools.count(1)

JSON_TYPE = b"application/json"
SSE_TYPE = b"text/event-stream; charset=utf-8"


def serial() -> bytes:
    """22 characters that no other id of this machine's mock providers has."""
    return b"%b%010x" % (_RUN, next(_serials))


class Request:
    """One whole request. ``headers`` has lower-case names; ``pairs`` (only when recording) the
    wire's order and spelling. ``steered`` tells that some ``x-mock-*`` header is there."""

    __slots__ = (
        "body",
        "headers",
        "http_1_0",
        "keep_alive",
        "method",
        "pairs",
        "steered",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        *,
        pairs: list[tuple[bytes, bytes]] | None = None,
        keep_alive: bool = True,
        http_1_0: bool = False,
        steered: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.pairs = pairs
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.steered = steered

    def content(self) -> bytes:
        """The body without its Content-Encoding (gzip or deflate); InvalidRequest otherwise."""
        coding = self.headers.get(b"content-encoding")
        if coding is None or coding == b"identity":
            return self.body
        if coding not in (b"gzip", b"deflate"):
            raise InvalidRequest(f"content-encoding {coding.decode('latin-1')} is not supported")
        try:
            return zlib.decompress(self.body, 32 + zlib.MAX_WBITS)
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {coding.decode('latin-1')}: {error}") from error


class Reply:
    """One answer: a head, then either ``body`` or SSE ``events``.

    Attributes
    ----------
    head: status line and headers with the closing blank line.
    events, sizes: SSE events, and for each the bytes of answer text in it (0: not a delta).
    error_event: what this dialect sends when a stream breaks.
    usage: tokens of the whole answer; None if it has none (errors, lists, counts).
    dialect, model, path: what it is booked under; without a path it is not booked.
    plan: pace and faults, None to send it at once.
    request_id: what the client calls this request.
    """

    __slots__ = (
        "body",
        "dialect",
        "error_event",
        "events",
        "head",
        "model",
        "path",
        "plan",
        "request_id",
        "sizes",
        "status",
        "usage",
    )

    def __init__(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        status: int = 200,
        model: str = "",
        usage: Usage | None = None,
        events: list[bytes] | None = None,
        sizes: list[int] | None = None,
        error_event: bytes = b"",
    ) -> None:
        self.head = head
        self.body = body
        self.status = status
        self.model = model
        self.usage = usage
        self.events = events
        self.sizes = sizes
        self.error_event = error_event
        self.dialect = ""
        self.path = ""
        self.plan: Plan | None = None
        self.request_id = b""


class Heads:
    """Response heads of one dialect; the parts with a clock are rebuilt once a second.

    ``own`` gives the dialect's header lines (each with its line end) at a Unix second; in them
    ``%b`` stands exactly once, for the request's serial.
    """

    def __init__(self, own: Callable[[int], bytes], stream_type: bytes = SSE_TYPE) -> None:
        self._own, self._stream_type = own, stream_type
        self._second = -1
        self._json = b""
        self._stream = b""
        self._lines = b""

    def _turn(self, now: int) -> None:
        self._second = now
        date = formatdate(now, usegmt=True).encode()
        self._lines = b"date: %b\r\nserver: bifrost-mock\r\n" % date + self._own(now)
        start = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
        self._json = start % JSON_TYPE + self._lines + b"content-length: %d\r\n\r\n"
        self._stream = start % self._stream_type + b"cache-control: no-cache\r\n" + self._lines
        self._stream += b"transfer-encoding: chunked\r\n\r\n"

    def json(self, number: bytes, length: int) -> bytes:
        """Head of a 200 with a JSON body of that many bytes."""
        now = int(time.time())
        if now != self._second:
            self._turn(now)
        return self._json % (number, length)

    def stream(self, number: bytes, request: Request) -> bytes:
        """Head of a 200 with SSE: chunked, or up to the end of the connection for HTTP/1.0."""
        now = int(time.time())
        if now != self._second:
            self._turn(now)
        head = self._stream % number
        return head.replace(b"transfer-encoding: chunked\r\n", b"") if request.http_1_0 else head

    def error(self, number: bytes, length: int, status: int, plan: Plan | None) -> bytes:
        """Head of an error with a JSON body: retry-after on 429 and 529, x-should-retry on all."""
        now = int(time.time())
        if now != self._second:
            self._turn(now)
        more = b"x-should-retry: %b\r\n" % (b"true" if _retryable(status) else b"false")
        if status in (429, 529):
            more += b"retry-after: %d\r\n" % (1 if plan is None else plan.retry_after)
        return (
            status_line(status)
            + b"content-type: %b\r\n" % JSON_TYPE
            + self._lines % number
            + more
            + b"content-length: %d\r\n\r\n" % length
        )


def status_line(status: int) -> bytes:
    """``HTTP/1.1 429 Too Many Requests`` and its line end."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Overloaded" if status == 529 else "Error"
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


def _retryable(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def plain_reply(body: bytes, status: int = 200, more: bytes = b"") -> Reply:
    """A JSON answer that belongs to no dialect; ``more`` is further header lines."""
    head = status_line(status) + b"content-type: application/json\r\n" + more
    return Reply(head + b"content-length: %d\r\n\r\n" % len(body), body, status=status)


def chunk(data: bytes) -> bytes:
    """One chunk of chunked transfer coding (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
