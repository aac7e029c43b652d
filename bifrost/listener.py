"""uvicorn's HTTP/1.1 protocol with the manners a gateway needs; may import nothing of ours.

Added to uvicorn: bounds for heads and for clients that are slow to send, refusals that a client
can read before its connection ends, no wrong word in the middle of another answer, connections that
outlive a declined upgrade, and the head of an answer in one write with its first body piece.

``bifrost serve --listener asgi`` serves with it alone; the compiled listener leaves to it whatever
is not hot.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MOST_HEAD = 65_536  # bytes of a request line with its headers, or of a body's trailers
MOST_HEADERS = 256
MOST_ASKED = 3  # interim answers; some clients take no more than five
TCP_CLOSE = 7
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LINGER_S = 5.0  # that a client gets to read a refusal while it still sends

TOO_LARGE = (
    f"The request's head is too large: at most {MOST_HEADERS} headers and {MOST_HEAD} bytes in all."
)
TOO_SLOW = "The request did not arrive in time; send it again."


class JoinedTransport:
    """A transport that holds a response head back until the next write or the end of the turn.

    ``unread()`` says whether the client may still be sending: an end then comes in two steps, so
    that what it did not read yet is not lost to a reset.
    """

    __slots__ = ("_held", "_loop", "_parting", "_transport", "_unread", "write_through")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        unread: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._unread = unread
        self._held: bytes | None = None
        self._parting: asyncio.TimerHandle | None = None
        self.write_through = transport.write

    def write(self, data: bytes) -> None:
        """Writes ``data``; a head (it begins with the status line) may wait for what follows."""
        held = self._held
        if held is not None:
            self._held = None
            self.write_through(held + data)
        elif data[:5] == b"HTTP/":
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self.write_through(data)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self.write_through(held)

    def close(self) -> None:
        """Closes after what is held is written."""
        self._flush()
        if self.is_closing():
            return
        if self._unread():
            self._transport.write_eof()
            self._transport.resume_reading()  # nobody looks at it, but it is taken
            self._parting = self._loop.call_later(LINGER_S, self._transport.abort)
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._parting is not None or self._transport.is_closing()

    def gone(self) -> None:
        """The connection is no more."""
        if self._parting is not None:
            self._parting.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Doubt:
    """About a client that ended its side of a connection: has it left, or does it only have no more
    to ask? Both look the same until something is written: who left answers with a reset.

    ``ask()`` writes something harmless, if there is a place for it now, and says whether it did.
    """

    __slots__ = ("_ask", "_asked", "_loop", "_pause", "_timer", "_transport")

    def __init__(
        self, transport: Any, loop: asyncio.AbstractEventLoop, ask: Callable[[], bool]
    ) -> None:
        self._transport, self._loop, self._ask = transport, loop, ask
        self._asked = 0
        self._pause = 0.002
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if _reset(self._transport.get_extra_info("socket")):
            self._transport.abort()
            return
        if self._asked < MOST_ASKED and self._pause >= 0.002 * 16**self._asked:
            self._asked += self._ask()
        self._timer = self._loop.call_later(self._pause, self._look)
        self._pause = min(self._pause * 2, 1.0)

    def end(self) -> None:
        """The answer is on its way, or there is nobody."""
        if self._timer is not None:
            self._timer.cancel()


def _reset(sock: Any) -> bool:
    """Whether the peer of a TCP socket answered with a reset."""
    try:
        state: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except (OSError, AttributeError):  # a Unix socket: there a write fails at once
        return False
    return state[0] == TCP_CLOSE


class HeadTooLarge(Exception):
    """Ends the parsing of a request whose head is beyond the bounds."""


class UnknownVersion(Exception):
    """Ends the parsing of a request that is of another HTTP than 1.0 and 1.1."""


class Protocol(HttpToolsProtocol):
    """One connection of a client."""

    joined: JoinedTransport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wraps the transport before uvicorn sees it."""
        self.between = True  # two requests, that is: nothing of the next one is here
        self.headed = self.upgrading = False
        self.touched = time.monotonic()
        self.began = 0.0  # the request that comes in
        self.quiet = 0  # bytes since anything was made of them
        self.last_words: bytes | None = None
        self.doubt: Doubt | None = None
        self.joined = JoinedTransport(transport, self.loop, lambda: not self.between)
        wrapped: Any = self.joined
        super().connection_made(wrapped)
        server = self.app_settings()
        self.timeout_keep_alive = server.keep_alive_timeout_s

    def app_settings(self) -> Any:
        """The ``server`` settings of the app as they are now."""
        return self.config.loaded_app.settings.server

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.joined.gone()
        if self.doubt is not None:
            self.doubt.end()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more; one that waits for its answers still gets them."""
        if not self.ended():
            return False
        self.doubt = Doubt(self.joined, self.loop, self._ask)
        return True

    def ended(self) -> bool:
        """Nothing more will come; says whether the connection must stay for answers."""
        if self.joined.is_closing():
            return False
        if self.headed and not self.between:  # the last request will never be whole
            if not self.pipeline:
                return False
            self.pipeline.popleft()
            self.last_words = b""
        self.between = True
        if self.last_words is not None or self.pipeline:
            return True
        cycle = self.cycle
        if cycle is None or cycle.response_started:
            return False
        return cycle.scope["http_version"] != "1.0"  # that one knows no interim answers

    def _ask(self) -> bool:
        if self.pipeline or self.last_words is not None or self.cycle.response_started:
            return False
        self.joined.write_through(CONTINUE)
        return True

    # -- what comes in -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parses; what cannot be a request is refused after the answers before it."""
        self._unset_keepalive_if_required()
        self.touched = time.monotonic()
        if self.last_words is not None or self.joined.is_closing():
            return
        self.quiet += len(data)
        try:
            self._parse(data)
            if self.quiet > MOST_HEAD and not self.between:
                self.refuse(431, TOO_LARGE)
        except HttpParserError as error:
            if isinstance(error.__context__, HeadTooLarge):
                self.refuse(431, TOO_LARGE)
            else:
                self.refuse(400, f"The request is not valid HTTP/1.1: {_reason(error)}.")

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            # The parser stops there, before any body: it is told the same without the wish.
            head = self._plain_head()
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._parse(head + data[upgrade.args[0] :])

    def _plain_head(self) -> bytes:
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.between = self.headed = False
        self.quiet = 0
        self.began = self.touched
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: nobody asked for those, and no proxy before us vetted them."""
        if self.headed:
            return
        super().on_header(name, value)
        if len(self.headers) > MOST_HEADERS:
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        """The head is there: the app may begin, unless an upgrade must be declined first."""
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise UnknownVersion("Unknown version of HTTP")
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if lines + len(self.url) + 20 > MOST_HEAD:
            raise HeadTooLarge
        self.quiet = 0
        self.upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if not self.upgrading:
            super().on_headers_complete()
            self.headed = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.quiet = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if not self.upgrading:
            self.between = True
            super().on_message_complete()

    # -- what goes out -------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The next request that waits, or else the last words."""
        self.touched = time.monotonic()
        last = not self.pipeline
        super().on_response_complete()
        if last and not self.transport.is_closing():
            if self.last_words is not None:
                self._end()
            elif self.doubt is not None:
                self.transport.close()

    def free(self) -> bool:
        """Whether every request it got is read and answered."""
        cycle = self.cycle
        return self.between and not self.pipeline and (cycle is None or cycle.response_complete)

    def refuse(self, status: int, text: str) -> None:
        """Ends the connection with an answer to what came in last, once the others are answered."""
        self.last_words = self._words(status, text)
        cycle = self.cycle
        if self.headed and not self.between:  # its app waits for the rest of a body
            if self.pipeline:
                self.pipeline.popleft()
            elif not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                if cycle.response_started:
                    self.last_words = b""
                self._end()
                return
        self.between = False
        if cycle is None or (cycle.response_complete and not self.pipeline):
            self._end()

    def _end(self) -> None:
        if self.last_words:
            self.transport.write(self.last_words)
        self.transport.close()

    def _words(self, status: int, text: str) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            if name != b"connection":
                lines += (name, b": ", value, b"\r\n")
        lines.append(
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (len(text), text.encode())
        )
        return b"".join(lines)

    def expire(self, now: float) -> None:
        """Ends the connection if its client was idle or slow for too long; ``now`` is monotonic."""
        server = self.app_settings()
        if self.between:
            if self.free() and now - self.touched > server.keep_alive_timeout_s:
                self.transport.close()
        elif self.last_words is None and not self.flow.read_paused:
            since = self.touched if self.headed else self.began
            if now - since > server.receive_timeout_s:
                self.late()

    def late(self) -> None:
        """Refuses a request that does not come."""
        self.refuse(408, TOO_SLOW)


def _reason(error: HttpParserError) -> str:
    """What the parser says."""
    cause = error.__context__ if isinstance(error, HttpParserCallbackError) else error
    return str(cause).strip().rstrip(".") or "it cannot be parsed"
