"""The mock provider's server: one raw protocol per connection, httptools for HTTP/1.1.

A request that neither waits nor breaks is answered within the read callback: no task, no future,
one write. Requests are answered in order; pipelined ones wait while a slow reply plays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections import deque
from collections.abc import Iterator
from typing import cast

import httptools
import msgspec
import uvloop

from bifrost.mock.exchange import LAST_CHUNK, Request, chunk, plain_reply
from bifrost.mock.options import MockOptions
from bifrost.mock.playback import Playback
from bifrost.mock.provider import Provider

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_WAITING_MAX = 64
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, provider: Provider, open_connections: set[Connection]) -> None:
        self._provider = provider
        self._open = open_connections
        self._recording = provider.log is not None
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._playback: Playback | None = None
        self._continue_owed = False
        self._closing = False
        self._choked = False
        self._draining = False
        self._clear()

    def _clear(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._pairs: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._steered = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)
        self._provider.account.open_connections += 1
        self._provider.account.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio; a reply still playing is booked as left by the client."""
        self._closing = True
        self._open.discard(self)
        self._provider.account.open_connections -= 1
        self._waiting.clear()
        if self._playback is not None:
            self._playback.abandon()
            self._playback = None

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data, upgrade)
        except httptools.HttpParserCallbackError as error:
            _log.error("mock provider: a request could not be answered", exc_info=error)
            self._refuse(500, "the mock provider has a defect; see its log")
        except httptools.HttpParserError as error:
            self._refuse(400, f"malformed HTTP: {error}")

    def pause_writing(self) -> None:
        """Called by asyncio: the client does not read."""
        self._choked = True
        if not self._transport.is_closing():
            self._transport.pause_reading()
        if self._playback is not None:
            self._playback.pause()

    def resume_writing(self) -> None:
        """Called by asyncio: the client reads again."""
        self._choked = False
        if self._playback is not None:
            self._playback.resume()
        self._drain()

    def close(self) -> None:
        """Drop the connection now."""
        self._closing = True
        self._transport.abort()

    # httptools' side

    def on_url(self, part: bytes) -> None:
        """Called by the parser, once per piece."""
        self._target = self._target + part if self._target else part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header."""
        if self._recording:
            self._pairs.append((name, value))
        name = name.lower()
        self._headers[name] = value
        if name.startswith(b"x-mock-"):
            self._steered = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        expected = self._headers.get(b"expect")
        if expected is not None and expected.lower() == b"100-continue":
            self._continue_owed = True
            self._drain()

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Called by the parser: one request is whole."""
        if self._closing:
            return  # after a refusal or a cut nothing more is answered
        parts, parser = self._parts, self._parser
        request = Request(
            parser.get_method(),
            self._target,
            self._headers,
            parts[0] if len(parts) == 1 else b"".join(parts),
            pairs=self._pairs,
            keep_alive=parser.should_keep_alive(),
            http_1_0=parser.get_http_version() == "1.0",
            steered=self._steered,
        )
        self._clear()
        self._continue_owed = False
        if not self._waiting and not self._busy():
            self._answer(request)
            return
        self._waiting.append(request)
        if len(self._waiting) >= _WAITING_MAX:
            self._transport.pause_reading()

    # answering

    def _answer(self, request: Request) -> None:
        if request.headers.get(b"upgrade", b"").lower() == b"websocket":
            self._refuse(426, "WebSocket is not supported; use POST")
            return
        reply = self._provider.answer(request)
        if not request.keep_alive:
            reply.head = reply.head[:-2] + b"connection: close\r\n\r\n"
        if reply.plan is not None:
            self._playback = Playback(
                reply,
                reply.plan,
                request,
                self._transport,
                self._provider.account,
                lambda keep: self._played(keep and request.keep_alive),
            )
            self._playback.start()
            return
        keep = request.keep_alive
        if reply.events is None:
            self._transport.write(reply.head + reply.body)
        elif request.http_1_0:
            self._transport.write(reply.head + b"".join(reply.events))
            keep = False
        else:
            chunks = [chunk(event) for event in reply.events]
            self._transport.write(reply.head + b"".join(chunks) + LAST_CHUNK)
        if reply.path:
            self._provider.account.completed(
                reply.dialect,
                reply.model,
                reply.path,
                reply.status,
                reply.usage,
                reply.request_id,
            )
        if not keep:
            self._finish()

    def _played(self, keep: bool) -> None:
        self._playback = None
        if keep:
            self._drain()
        else:
            self._finish()

    def _busy(self) -> bool:
        return self._playback is not None or self._choked or self._closing

    def _drain(self) -> None:
        """Answer what waits, in order, then let the client send on."""
        if self._draining:
            return
        self._draining = True
        while self._waiting and not self._busy():
            self._answer(self._waiting.popleft())
        self._draining = False
        if self._busy():
            return
        if self._continue_owed:
            self._continue_owed = False
            self._transport.write(_CONTINUE)
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def _upgrade(self, data: bytes, upgrade: Exception) -> None:
        """After an Upgrade that is not taken, the connection goes on with HTTP/1.1."""
        if self._closing:
            return
        self._parser = httptools.HttpRequestParser(self)
        rest = data[upgrade.args[0] :]
        if rest:
            self.data_received(rest)

    def _refuse(self, status: int, message: str) -> None:
        if self._closing:
            return
        body = msgspec.json.encode({"error": message})
        reply = plain_reply(body, status, b"connection: close\r\n")
        self._transport.write(reply.head + reply.body)
        self._finish()

    def _finish(self) -> None:
        self._closing = True
        self._waiting.clear()
        self._transport.close()


class MockServer:
    """A listening mock provider, made by ``start``."""

    def __init__(
        self,
        options: MockOptions,
        provider: Provider,
        server: asyncio.Server,
        connections: set[Connection],
    ) -> None:
        self._server = server
        self._connections = connections
        self.options = options
        self.provider = provider
        self.account = provider.account
        self.port = 0 if options.uds else int(server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Base URL; for a Unix socket the URL to use over it."""
        if self.options.uds:
            return "http://localhost"
        host = self.options.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening and drop every open connection."""
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()


async def start(options: MockOptions) -> MockServer:
    """Listen on the running loop (asyncio's or uvloop's); OSError if the address is taken."""
    loop = asyncio.get_running_loop()
    provider = Provider(options)
    connections: set[Connection] = set()

    def connection() -> Connection:
        return Connection(provider, connections)

    if options.uds:
        server = await loop.create_unix_server(connection, options.uds, backlog=_BACKLOG)
    else:
        server = await loop.create_server(connection, options.host, options.port, backlog=_BACKLOG)
    return MockServer(options, provider, server, connections)


async def _serve(options: MockOptions) -> None:
    server = await start(options)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    place = options.uds or server.url
    print(f"bifrost mock: listening on {place}", flush=True)
    await stop.wait()
    await server.close()


def run(options: MockOptions) -> None:
    """Serve on uvloop until SIGINT or SIGTERM; prints where it listens as its first line."""
    uvloop.run(_serve(options))


@contextlib.contextmanager
def running(options: MockOptions) -> Iterator[MockServer]:
    """A mock provider on a thread of its own, for programs without a loop."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bifrost-mock", daemon=True)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(start(options), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
