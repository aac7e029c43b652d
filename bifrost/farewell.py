"""How a worker leaves: at once with SIGTERM, unnoticed with SIGUSR2 when others take its place."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn

CALM_S = 3.0  # busy clients learn from an answer that their connection ends, then use another
LEAVE_S = 3_600.0  # for the longest streams; SIGTERM ends the wait


class Server(uvicorn.Server):
    """uvicorn's server; retired by SIGUSR2 it finishes what it has, however long that takes.

    Its listening socket must be open elsewhere too: new connections are then never refused.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._retired = False
        self._urgent = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts; from now on SIGUSR2 retires this server."""
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._retire)

    def _retire(self) -> None:
        self._retired = self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: also a retired server has only ``timeout_graceful_shutdown`` left."""
        self._urgent = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; once in a second parts with clients that are idle or too slow."""
        if counter % 10 == 0:
            self._expire()
        return await super().on_tick(counter)

    def _expire(self) -> None:
        now = time.monotonic()
        for connection in list(self.server_state.connections):
            one: Any = connection
            one.expire(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends as it was told to."""
        if self._retired:
            for server in self.servers:
                server.close()
            for sock in sockets or []:
                sock.close()
            await self._part()
        await super().shutdown(sockets)

    async def _part(self) -> None:
        """Tells clients with their next answer to connect anew, and waits for those that stay."""
        # Closing an idle connection at once could meet a request that is on its way.
        self.server_state.default_headers = [
            *self.server_state.default_headers, (b"connection", b"close")
        ]  # fmt: skip
        await self._while_connected(CALM_S)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._while_connected(LEAVE_S)

    async def _while_connected(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.server_state.connections and not self._urgent:
            if time.monotonic() >= deadline:
                return
            self._expire()
            await asyncio.sleep(0.05)
