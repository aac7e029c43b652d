"""The listener's protocol under ``bifrost serve``: uvicorn's own, with head and body in one write.

uvicorn writes the head of an answer and its first body piece apart, which is two system calls and
two packets for a short answer. Here a head waits for its body within the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedTransport:
    """A transport that holds a response head back until the next write or the end of the turn."""

    __slots__ = ("_held", "_loop", "_transport", "write_through")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
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
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoinedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol over a ``JoinedTransport``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wraps the transport before uvicorn sees it."""
        joined: Any = JoinedTransport(transport, self.loop)
        super().connection_made(joined)
