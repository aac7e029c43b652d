"""The watch: notices clients that leave, providers that fall silent and keys that are taken back.

One coarse timer per process instead of one task per request: a call that is answered within a tick
is never watched at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from bifrost.call import Call
from bifrost.errors import Refusal

TICK_S = 0.025
SLOW_TICK_S = 0.05


class Carrier(Protocol):
    """What serves a call and can be told to end it."""

    def cancel(self) -> object: ...


class Watch:
    """Watches the calls under way on one event loop."""

    def __init__(
        self,
        ping_interval_s: float = 20.0,
        *,
        epoch: Callable[[], int] = int,
        still: Callable[[Call], Refusal | None] | None = None,
    ) -> None:
        """``epoch()`` moves with the policy; ``still(call)`` then says which calls must end."""
        self.ping_interval_ns = int(ping_interval_s * 1e9)
        self._epoch, self._still = epoch, still
        self._known = epoch()
        self.fresh: dict[Call, Carrier] = {}  # the tick runs while there are any
        self._watched: dict[Call, Carrier] = {}
        self._fast: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.fresh) + len(self._watched)

    def enter(self, call: Call, carrier: Carrier | None) -> None:
        """Begins to watch a call; ``carrier`` is the task that serves it, or what stands for one.

        A call without ``receive`` has a carrier that notices by itself when its client leaves.
        """
        assert carrier is not None
        self.fresh[call] = carrier
        if self._fast is None:
            self._fast = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def leave(self, call: Call) -> None:
        """Ends it; to be called exactly once per ``enter``."""
        if self.fresh.pop(call, None) is None:
            self._watched.pop(call, None)
            if call.watcher is not None:
                call.watcher.cancel()
                call.watcher = None

    def _tick(self) -> None:
        self._fast = None
        loop = asyncio.get_running_loop()
        ripe = time.monotonic_ns() - int(TICK_S * 0.8e9)
        for call in [call for call in self.fresh if call.began <= ripe]:
            carrier = self._watched[call] = self.fresh.pop(call)
            if call.receive is not None:
                call.watcher = loop.create_task(self._until_gone(call, carrier))
        if self.fresh:
            self._fast = loop.call_later(TICK_S, self._tick)
        if self._watched and self._slow is None:
            self._slow = loop.call_later(SLOW_TICK_S, self._look)

    async def _until_gone(self, call: Call, carrier: Carrier) -> None:
        with contextlib.suppress(OSError):
            while (await call.receive())["type"] != "http.disconnect":
                pass
        call.watcher = None
        if call in self._watched:
            call.gone = True
            carrier.cancel()

    def _look(self) -> None:
        self._slow = None
        if not self._watched:
            return
        if self._epoch() != self._known:
            self._known = self._epoch()
            self._cut()
        silent = time.monotonic_ns() - self.ping_interval_ns
        for call in self._watched:
            if call.streaming and call.last_byte and call.last_byte <= silent:
                call.exchange.wake()
        pause = min(SLOW_TICK_S, self.ping_interval_ns / 4e9)
        self._slow = asyncio.get_running_loop().call_later(pause, self._look)

    def _cut(self) -> None:
        """Ends the calls whose key, user, team or customer may not go on."""
        if self._still is None:
            return
        for call, carrier in [*self._watched.items(), *self.fresh.items()]:
            refusal = self._still(call)
            if refusal is not None and call.cut is None and not call.gone:
                call.cut = refusal
                carrier.cancel()
