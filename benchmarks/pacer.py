"""A provider for thousands of streams: every stream gets a small event each 50 ms, spread evenly.

Run as a process of its own: ``python -m benchmarks.pacer CHUNKS``; the first line it prints is its
port. Plain sockets and no event loop for writing, because the load core also has the clients. Each
delta says its number and when it was sent, so that its way can be timed and a loss be seen.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from collections import deque
from typing import cast

import httptools
import uvloop

PERIOD_NS = 50_000_000  # 20 events/s
SLOTS = 50  # of one millisecond: a stream belongs to the one in which it began
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_pacer\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
DELTA = '"index":0,"delta":{"type":"text_delta","text":"n=%d t=%d"}'
USAGE = {"input_tokens": 412, "output_tokens": 1}


def event(kind: str, members: str) -> bytes:
    """One event as one chunk."""
    text = f'event: {kind}\ndata: {{"type":"{kind}",{members}}}\n\n'
    return b"%x\r\n%b\r\n" % (len(text), text.encode())


def opening() -> bytes:
    """Head and first event."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [],
               "model": "claude-sonnet-4-5", "usage": USAGE}  # fmt: skip
    return HEAD + event("message_start", f'"message":{json.dumps(message)}')


def ending(chunks: int) -> bytes:
    """Last events and the end of the body."""
    last = event("message_delta", f'"delta":{{}},"usage":{{"output_tokens":{chunks}}}')
    return last + event("message_stop", '"x":0') + b"0\r\n\r\n"


class Stream:
    """One stream under way."""

    __slots__ = ("number", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.number = sock, 0


class Connection(asyncio.Protocol):
    """Reads requests; streams are written past it."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer, self._parser = pacer, httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser: a request is whole, its stream begins."""
        sock = self._transport.get_extra_info("socket")
        self._pacer.begin(socket.socket(fileno=socket.dup(sock.fileno())))


class Pacer:
    """The streams by slot. One that cannot take an event (its buffer is full) is broken off."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._slots: tuple[deque[Stream], ...] = tuple(deque() for _ in range(SLOTS))
        self._next = 0
        self._opening, self._ending = opening(), ending(chunks)

    def begin(self, sock: socket.socket) -> None:
        """A new stream, in the slot with the fewest."""
        sock.setblocking(False)
        sock.send(self._opening)
        min(self._slots, key=len).append(Stream(sock))

    async def run(self) -> None:
        """One slot each millisecond; late ones are made up for."""
        due = time.monotonic_ns()
        while True:
            due += PERIOD_NS // SLOTS
            if (left := due - time.monotonic_ns()) > 0:
                await asyncio.sleep(left / 1e9)
            else:
                await asyncio.sleep(0)
            self._write(self._slots[self._next])
            self._next = (self._next + 1) % SLOTS

    def _write(self, slot: deque[Stream]) -> None:
        for _ in range(len(slot)):
            stream = slot.popleft()
            try:
                if stream.number == self._chunks:
                    stream.sock.send(self._ending)
                    stream.sock.close()
                    continue
                members = DELTA % (stream.number, time.monotonic_ns())
                stream.sock.send(event("content_block_delta", members))
            except OSError:
                stream.sock.close()
                continue
            stream.number += 1
            slot.append(stream)


async def serve(chunks: int) -> None:
    """Serves until it is ended."""
    pacer = Pacer(chunks)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(pacer), "127.0.0.1", 0, backlog=4096
    )
    print(f"pacer: port {server.sockets[0].getsockname()[1]}", flush=True)
    await pacer.run()


if __name__ == "__main__":
    gc.freeze()
    gc.disable()
    uvloop.run(serve(int(sys.argv[1])))
