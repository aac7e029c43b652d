"""What it costs to translate a stream: processor time per 100 events of the host, for each way.

    python -m benchmarks.translating [--repeats 15]

The streams are those of the mock provider: a text of 1,000 deltas, and a call whose arguments come
in as many (Gemini's come whole: no figure). Each event is fed alone, as hosts send them, through
what carries it inside the gateway: the crossing and its way. The reading itself, which streams that
are not translated need too, is taken off, and the meters that every stream passes are not in it.
Figures are of this process alone; the least is the one least disturbed by other programs.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import re
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, cast

import msgspec

from bifrost.config.hosts import Api
from bifrost.mock import MockOptions, MockServer, running
from bifrost.passage.crossing import Crossing
from bifrost.passage.ways import FROM_CLIENTS, RELAYS, TO_HOSTS, Way, way
from bifrost.translate.bedrock_anthropic import AnthropicStream as ToBedrock
from bifrost.translate.event_stream import FrameReader, framed, headers_of
from bifrost.translate.translation import Stream, Traits
from bifrost.upstream.pool import Exchange

EVENTS = 1_000
_EVENTS, _FRAMES = b"text/event-stream", b"application/vnd.amazon.eventstream"
BAR_US = 300.0  # per 100 events
TRAITS = Traits(reasons=True, adaptive=True)
_GEMINI = "/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"
PATHS: dict[Api, str] = {
    "messages": "/v1/messages",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "gemini": _GEMINI,
    "converse": "/model/us.amazon.nova-pro-v1:0/converse-stream",
}
_MODELS: dict[Api, str] = {"gemini": "gemini-3-pro", "converse": "us.amazon.nova-pro-v1:0"}
_SAID = [{"role": "user", "content": "Go"}]
_SHELL = {"type": "object", "properties": {"command": {"type": "string"}}}
_FUNCTION = {"name": "bash", "parameters": _SHELL}
ASKED: dict[Api, dict[str, Any]] = {
    "messages": {"messages": _SAID, "max_tokens": 30_000, "tools": [
        {"name": "bash", "input_schema": _SHELL}]},
    "chat": {"messages": _SAID, "tools": [{"type": "function", "function": _FUNCTION}],
             "stream_options": {"include_usage": True}},
    "responses": {"input": _SAID, "tools": [{"type": "function", **_FUNCTION}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Go"}]}],
               "tools": [{"functionDeclarations": [_FUNCTION]}]},
}  # fmt: skip
_WORDS = "echo every bridge is made of plain words and leads back home again "
OPTIONS = {
    "text": MockOptions(chunks=EVENTS),
    "call": MockOptions(chunks=EVENTS, script="tool", tool_command=_WORDS * 60),
}
_END = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")


class Played:
    """An exchange that has its answer already; as much of one as a crossing looks at."""

    status = 200
    complete, received = True, 0

    def __init__(self, host: Api, pieces: Sequence[bytes]) -> None:
        in_frames = host in ("bedrock", "converse")
        self.headers = ((b"content-type", _FRAMES if in_frames else _EVENTS),)
        self._pieces = iter(pieces)

    async def read(self) -> bytes:
        """The next piece, at once."""
        return next(self._pieces, b"")


def stream(server: MockServer, host: Api) -> list[bytes]:
    """The events of an answer of that host."""
    translated = host in ("gemini", "converse")
    client: Api = "messages" if translated else host
    body = msgspec.json.encode({"model": "gpt-5.1", "stream": True, **ASKED[client]})
    if translated:
        body = way("messages", host, body, _MODELS[host], None, TRAITS).body
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        headers = {"authorization": "Bearer any", "content-type": "application/json"}
        connection.request("POST", PATHS[host], body, headers)
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{host}: the mock answered {answer.status}: {told[:200]!r}")
        if host == "converse":
            return [
                framed(headers_of(one.headers), one.payload) for one in FrameReader().feed(told)
            ]
        return [event for event in _END.split(told) if event]
    finally:
        connection.close()


def carried(made: Callable[[], Way], host: Api, pieces: Sequence[bytes]) -> float:
    """Seconds of processor time in which a crossing carries a stream."""

    async def carry() -> float:
        bare = Played(host, pieces)
        began = time.process_time()
        while await bare.read():
            pass
        read = time.process_time() - began
        began = time.process_time()
        crossing = Crossing(cast(Exchange, Played(host, pieces)), way_, 1_000, same=False)
        while await crossing.read():
            crossing.metered()
        return time.process_time() - began - read

    way_ = made()
    return asyncio.run(carry())


def fed(made: Callable[[], Stream], pieces: Sequence[bytes]) -> float:
    """Seconds of processor time in which a translator without a way reads a stream."""
    reader = made()
    began = time.process_time()
    for piece in pieces:
        reader.feed(piece)
    reader.finish()
    return time.process_time() - began


def frames(pieces: Sequence[bytes]) -> list[bytes]:
    """Anthropic's events as Bedrock sends them."""
    reader = ToBedrock()
    return [frame for piece in pieces if (frame := reader.feed(piece))]


def cases(streams: dict[Api, list[bytes]]) -> dict[str, tuple[Callable[[], float], int]]:
    """What is timed, and how many events of the host it reads, by "client on host"."""
    pairs: list[tuple[Api, Api]] = [("messages", host) for host in TO_HOSTS]
    pairs += [(client, "messages") for client in FROM_CLIENTS]
    pairs += [(client, host) for client in FROM_CLIENTS for host in TO_HOSTS if client != host]
    pairs += [(same, same) for same in RELAYS]
    found: dict[str, tuple[Callable[[], float], int]] = {}
    for client, host in pairs:
        found[f"{client} on {host}"] = (_timed(client, host, streams[host]), len(streams[host]))
    events = streams["messages"]
    found["bedrock on messages"] = lambda: fed(ToBedrock, events), len(events)
    return found


def _timed(client: Api, host: Api, pieces: Sequence[bytes]) -> Callable[[], float]:
    body = msgspec.json.encode({"model": "m", "stream": True, **ASKED[client]})
    return lambda: carried(lambda: way(client, host, body, "m", None, TRAITS), host, pieces)


def table(repeats: int) -> str:
    """The figures as Markdown; the ways take turns, so that a disturbance meets all of them."""
    lines = [f"| way | {' | '.join(OPTIONS)} |", "|---|" + "--:|" * len(OPTIONS)]
    cells: dict[str, list[str]] = {}
    for options in OPTIONS.values():
        with running(options) as server:
            streams = {host: stream(server, host) for host in PATHS}
        claude = streams["messages"]
        timed = cases({**streams, "bedrock": frames(claude), "vertex": claude})
        taken: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(repeats):
            for name, (run, events) in timed.items():
                taken[name].append(run() * 1e8 / events)
        for name, seen in taken.items():
            mark = " **above**" if min(seen) > BAR_US else ""
            told = f"{min(seen):,.0f} ({median(seen):,.0f}){mark}"
            cells.setdefault(name, []).append(told if timed[name][1] > EVENTS / 2 else "–")
    return "\n".join([*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    print("µs of processor time per 100 events of the host: least (median)\n")
    print(table(parser.parse_args().repeats))


if __name__ == "__main__":
    main()
