"""A scripted HTTP origin on the loopback, and the two event loops the clients must work on."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

Handler = Callable[["Peer"], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

on_both_loops = pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda main: _run(main, asyncio.new_event_loop), id="asyncio"),
        pytest.param(lambda main: _run(main, uvloop.new_event_loop), id="uvloop"),
    ],
)


def _run(main: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bounded())


def post(body: bytes = b"{}", target: str = "/v1/messages", host: str = "origin") -> list[bytes]:
    """A request as the gateway hands it over: head and body."""
    head = f"POST {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
    return [head.encode(), body]


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for a condition that is about to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        await asyncio.sleep(0.005)


def full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A listener that lets nobody in any more, and those who fill its queue; close all of them."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    callers = []
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(listener.getsockname())
        callers.append(caller)
    return listener, callers


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.requests = 0
        self.ended_at = 0.0

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.requests += 1
        return head + await self.reader.readexactly(length)

    async def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    async def ended(self) -> None:
        """Wait until the client has closed its side."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.ended_at = time.monotonic()

    def reset(self) -> None:
        """Breaks the connection off, if it is still there."""
        transport = self.writer.transport
        # asyncio's transport raises when it is aborted after it closed behind its last flush;
        # a closed one has a closed socket (asyncio) or none (uvloop, TLS)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            transport.abort()


def replies(*pieces: bytes, times: int = 1_000_000) -> Handler:
    """A handler that answers ``times`` requests with these bytes and then closes."""

    async def handle(peer: Peer) -> None:
        for _ in range(times):
            await peer.request()
            await peer.write(*pieces)

    return handle


class Server:
    """Serves the first connection with the first handler and so on; the last one stays."""

    def __init__(self, *handlers: Handler, host: str = "127.0.0.1", tls: Any = None) -> None:
        self._handlers = handlers
        self._host = host
        self._tls: ssl.SSLContext | None = tls
        self.peers: list[Peer] = []
        self.port = 0
        self.serving = 0

    @property
    def requests(self) -> int:
        return sum(peer.requests for peer in self.peers)

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for peer in self.peers:
            peer.reset()
        await until(lambda: not self.serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        handler = self._handlers[min(len(self.peers), len(self._handlers)) - 1]
        self.serving += 1
        try:
            await handler(peer)
        except (ConnectionError, asyncio.IncompleteReadError, RuntimeError):  # uvloop: closed
            pass
        finally:
            self.serving -= 1
            writer.close()
