"""The clients of thousands of streams at the same time: is each event there, and how late?

Run as a process of its own: ``python -m benchmarks.crowd PLAN``; the result is JSON. Most streams
are read in rounds, four times a second, so that the clients' own work does not take the core; some
are read at once, and their events are timed from the provider's writing to the client's reading.
Everything is kept and checked at the end.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import sys
import time
from array import array
from pathlib import Path

import httptools
import msgspec

from benchmarks.openloop import Quantiles

PROMPT = 50  # streams that are read at once
ROUND_S = 0.25
BEGIN_PER_S = 1000  # streams that begin in a second
DRAIN_S = 20.0
_DELTA = re.compile(rb'"text":"n=(\d+) t=(\d+)"')


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``streams`` requests like ``message``, each answered with ``chunks`` events."""

    host: str
    port: int
    message: bytes
    streams: int
    chunks: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came: whole streams, events lost or out of order, the way of an event in time."""

    whole: int
    lost: int
    events: int
    seconds: float
    delay: Quantiles


class Stream:
    """One client: a plain socket and what it was sent."""

    __slots__ = ("done", "got", "sock")

    def __init__(self, plan: Plan) -> None:
        self.sock = socket.create_connection((plan.host, plan.port), 10)
        self.sock.setblocking(False)
        self.sock.send(plan.message)
        self.got: list[bytes] = []
        self.done = False

    def read(self) -> bytes:
        """Takes what is there; ``done`` at the end of the body or of the connection."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.got.append(data)
        if not data or data.endswith(b"0\r\n\r\n"):
            self.done = True
        return data


class Body:
    """What a parser found."""

    def __init__(self, data: bytes) -> None:
        self.parts: list[bytes] = []
        self.whole = False
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            self.whole = False
        self.status = parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self.parts.append(part)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.whole = True


class Crowd:
    """Opens the streams, reads them to their ends."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.prompt: dict[int, Stream] = {}
        self.streams: list[Stream] = []
        self.delays: array[int] = array("q")
        self._poll = select.epoll()

    def run(self) -> Outcome:
        """All of it."""
        began = time.monotonic()
        self._open(began)
        limit = time.monotonic() + self.plan.chunks / 20 + DRAIN_S
        while time.monotonic() < limit and not all(stream.done for stream in self.streams):
            self._prompt(ROUND_S)
            for stream in self.streams:
                if not stream.done and stream.sock.fileno() not in self.prompt:
                    stream.read()
        seconds = time.monotonic() - began
        for stream in self.streams:
            stream.sock.close()
        self._poll.close()
        return self._outcome(seconds)

    def _open(self, began: float) -> None:
        """One after another; those that stand are read meanwhile."""
        every = max(1, self.plan.streams // PROMPT)
        for number in range(self.plan.streams):
            stream = Stream(self.plan)
            self.streams.append(stream)
            if number % every == 0:
                self.prompt[stream.sock.fileno()] = stream
                self._poll.register(stream.sock.fileno(), select.EPOLLIN)
            self._prompt(max(0.0, began + number / BEGIN_PER_S - time.monotonic()))

    def _prompt(self, seconds: float) -> None:
        """Reads the prompt ones as they come, for so long."""
        until = time.monotonic() + seconds
        while True:
            for fd, _ in self._poll.poll(max(0.0, until - time.monotonic())):
                stream = self.prompt[fd]
                data, now = stream.read(), time.monotonic_ns()
                self.delays.extend(now - int(at) for _, at in _DELTA.findall(data))
                if stream.done:
                    self._poll.unregister(fd)
            if time.monotonic() >= until:
                return

    def _outcome(self, seconds: float) -> Outcome:
        whole = lost = events = 0
        wanted = list(range(self.plan.chunks))
        for stream in self.streams:
            body = Body(b"".join(stream.got))
            found = [int(number) for number, _ in _DELTA.findall(b"".join(body.parts))]
            events += len(found)
            if body.whole and body.status == 200 and found == wanted:
                whole += 1
            else:
                lost += len(wanted) - len(set(found) & set(wanted))
        return Outcome(whole=whole, lost=lost, events=events, seconds=seconds,
                       delay=Quantiles.of(self.delays))  # fmt: skip


def main() -> None:
    """``python -m benchmarks.crowd PLAN``."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    gc.disable()
    sys.stdout.buffer.write(msgspec.json.encode(Crowd(plan).run()))


if __name__ == "__main__":
    main()
