"""One worker with its client and provider in a single process, so that its instructions count.

Run by ``benchmarks.instructions`` under valgrind. Everything is sequential and the same each time:
one connection, canned answers, no steward. ``direct`` sends the same trace past the gateway; the
difference of the two is the gateway's.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from benchmarks.cases import Case, cases
from benchmarks.gateway import configuration
from bifrost._fast import wire
from bifrost._fast.listener import Listener
from bifrost.app import App
from bifrost.call import Call
from bifrost.config.load import parse
from bifrost.metering.usage import from_message

WARM = 200
USAGE = b'"usage":{"input_tokens":412,"cache_read_input_tokens":96,"output_tokens":120}'
JSON = (
    b'{"id":"msg_01","type":"message","role":"assistant","model":"claude-sonnet-4-5",'
    b'"content":[{"type":"text","text":"' + b"All is well. " * 40 + b'"}],'
    b'"stop_reason":"end_turn",' + USAGE + b"}"
)
WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_upstream_01\r\n"
    b"content-length: %d\r\n\r\n" % len(JSON) + JSON
)
EVENTS = 30


def event(kind: str, members: bytes) -> bytes:
    """One server-sent event."""
    name = kind.encode()
    return b'event: %b\ndata: {"type":"%b",%b}\n\n' % (name, name, members)


def streamed() -> list[bytes]:
    """The pieces of a stream: head and start, the deltas, the end."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_upstream_01\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    delta = b'"index":0,"delta":{"type":"text_delta","text":"All is well, sir. "}'
    events = [
        event("message_start", b'"message":{"model":"claude-sonnet-4-5",' + USAGE + b"}"),
        *[event("content_block_delta", delta)] * EVENTS,
        event("message_delta", b'"delta":{"stop_reason":"end_turn"},' + USAGE)
        + event("message_stop", b'"x":0'),
    ]
    pieces = [b"%x\r\n%b\r\n" % (len(one), one) for one in events]
    return [head + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n"]


class Provider(asyncio.Protocol):
    """Answers each whole request with the same bytes; a stream one event per turn of the loop."""

    def __init__(self, case: Case) -> None:
        self.pieces = streamed() if case.stream else [WHOLE]
        self.body, self.got = len(case.body), b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back."""
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Counts bytes until the request is whole."""
        self.got += data
        head, found, body = self.got.partition(b"\r\n\r\n")
        if found and len(body) >= self.body:
            self.got = b""
            self._play(0)

    def _play(self, at: int) -> None:
        self.transport.write(self.pieces[at])
        if at + 1 < len(self.pieces):
            asyncio.get_running_loop().call_soon(self._play, at + 1)


class Client(asyncio.Protocol):
    """Sends the same request as soon as the answer to the one before is whole."""

    def __init__(self, request: bytes, stream: bool) -> None:
        self.request, self.stream = request, stream
        self.got, self.left = b"", 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way out."""
        self.transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody answers any more."""
        if not self.done.done():
            self.done.set_exception(error or RuntimeError("the connection was closed"))

    def run(self, count: int) -> asyncio.Future[None]:
        """Starts ``count`` requests, one after another."""
        self.left, self.done = count, asyncio.get_running_loop().create_future()
        self.transport.write(self.request)
        return self.done

    def data_received(self, data: bytes) -> None:
        """Looks for the answer's end."""
        self.got += data
        if not self._whole():
            return
        if not self.got.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.got[:300].decode("latin-1")))
            return
        self.got = b""
        self.left -= 1
        if self.left:
            self.transport.write(self.request)
        else:
            self.done.set_result(None)

    def _whole(self) -> bool:
        if self.stream:
            return self.got.endswith(b"\r\n0\r\n\r\n")
        return self.got.endswith(b"}") and b"\r\n\r\n" in self.got


async def gateway(folder: Path, upstream: str) -> tuple[App, int]:
    """A worker's app behind the compiled listener; returns its port."""
    settings = parse(configuration(upstream), where="trace", base=folder)
    app = App(settings, folder, steward=False, native=True)
    await app.start()
    assert app.core is not None and app._keeper is not None
    app.core.recorder.stands_in = True  # nobody is steward here
    app.core.declare(settings)
    app._keeper.cancel()  # its rounds fall where they fall
    config = uvicorn.Config(app, http=Listener, ws="none", lifespan="off", access_log=False,
                            log_config=None, server_header=False, proxy_headers=False)  # fmt: skip
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Listener(config, state, {}, loop), "127.0.0.1", 0)
    return app, server.sockets[0].getsockname()[1]


def governed(app: App, case: Case, count: int, direct: bool) -> None:
    """``count`` times all that governance does for a request; ``direct``: only what it is given."""
    assert app.core is not None
    governor = app.core.governor
    lines = [(name.encode(), value.encode()) for name, value in case.all_headers()]
    for _ in range(count):
        call = Call("req_0123456789abcdef01234567", None)
        call.head, call.body = wire.read_head(lines), case.body
        call.scan = wire.scan(case.body)
        usage = from_message(USAGE[8:], None)
        call.status = 200
        if not direct:
            governor.attempt(call)
            governor.settle(call, usage, "ok")


async def prepared(name: str, folder: Path, direct: bool) -> Callable[[int], Awaitable[None]]:
    """What runs so many requests of a trace."""
    loop = asyncio.get_running_loop()
    wanted = "json-1k" if name == "governance" else name
    [case] = [one for one in cases() if one.name == wanted]
    provider = await loop.create_server(lambda: Provider(case), "127.0.0.1", 0)
    port, path = provider.sockets[0].getsockname()[1], "/v1/messages"
    if name == "governance":
        app, _ = await gateway(folder, f"http://127.0.0.1:{port}")

        async def run(count: int) -> None:
            governed(app, case, count, direct)

        return run
    if not direct:
        _, port = await gateway(folder, f"http://127.0.0.1:{port}")
        path = "/anthropic" + path
    request = case.message("gateway", path)
    _, client = await loop.create_connection(
        lambda: Client(request, case.stream), "127.0.0.1", port
    )
    return client.run


async def trace(name: str, folder: Path, count: int, direct: bool) -> None:
    """Warms up, says so, waits for a line, runs ``count`` requests and ends."""
    run = await prepared(name, folder, direct)
    await run(WARM)
    gc.collect()
    gc.freeze()
    gc.disable()
    os.set_blocking(0, False)
    print("warm", flush=True)
    while not sys.stdin.buffer.raw.read(1):  # type: ignore[attr-defined]
        time.sleep(0.02)
    await run(count)
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(trace(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["direct"]))
