"""A relay between a client and a server that remembers every request that passed through it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httptools


class Seen:
    """One whole request as it went over the wire."""

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def __repr__(self) -> str:
        return f"{self.method} {self.target.decode()}"


class _Parser:
    """Fills a list with the requests of one connection."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen
        self._now = Seen()
        self._parser = httptools.HttpRequestParser(self)
        self.feed = self._parser.feed_data

    def on_message_begin(self) -> None:
        self._now = Seen()

    def on_url(self, part: bytes) -> None:
        self._now.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._now.headers.append((name.lower(), value))

    def on_body(self, part: bytes) -> None:
        self._now.body += part

    def on_message_complete(self) -> None:
        self._now.method = self._parser.get_method().decode()
        self._seen.append(self._now)


class Relay:
    """Listens at ``url`` and passes bytes on to ``upstream`` and back; counts whole requests."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._to = parts.hostname, parts.port
        self.seen: list[Seen] = []
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> asyncio.Server:
        """Starts to listen on a free port of the loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            back, there = await asyncio.open_connection(*self._to)
            parser = _Parser(self.seen)
            await asyncio.gather(self._pump(reader, there, parser), self._pump(back, writer))

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        parser: _Parser | None = None,
    ) -> None:
        self._open.add(sink)
        try:
            while data := await source.read(65536):
                if parser is not None:
                    parser.feed(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._open.discard(sink)
            sink.close()

    async def close(self, server: asyncio.Server) -> None:
        """Ends every connection."""
        server.close()
        for writer in list(self._open):
            writer.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 5)


@contextlib.contextmanager
def relay(upstream: str) -> Iterator[Relay]:
    """A running relay to the server at that address."""
    loop = asyncio.new_event_loop()
    running = Relay(upstream)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(running.listen(), loop).result(5)
        yield running
        asyncio.run_coroutine_threadsafe(running.close(server), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
