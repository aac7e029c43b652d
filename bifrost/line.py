"""The line: requests that wait for money under way, or do with less output, before any is refused.

A budget that cannot hold a request's worst case now may hold it when requests in flight have come
back, for they are settled for what they really used. So, as the budget's ``tight`` says: wait,
first come first served over all workers; then lower the output limit to what is left; then refuse.
"""

from __future__ import annotations

import asyncio
import time

from bifrost._fast.gate import Exhausted, Gate
from bifrost.call import Call
from bifrost.governor import Governor

POLL_S = 0.005  # how soon a settlement in another worker is noticed
HEARD_S = 0.25  # a place in the line is lost after 2 s of silence


class Line:
    """Lets calls in for one process; ``patience_s`` bounds each wait."""

    def __init__(self, governor: Governor, patience_s: float = 10.0) -> None:
        self.governor = governor
        self.patience_s = patience_s
        self._freed: asyncio.Event | None = None
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None

    async def admit(self, call: Call, error: Exhausted) -> None:
        """Admits a call that ``error`` kept out at first; raises its Refusal when nothing helps."""
        gate = self.governor.treasury.gate
        deadline = time.monotonic() + self.patience_s
        try:
            while True:
                await self._make_room(call, gate, error, deadline)
                try:
                    self.governor.attempt(call)
                    return
                except Exhausted as again:
                    error = again
        finally:
            place, call.place = call.place, 0
            gate.quit(place)

    async def _make_room(self, call: Call, gate: Gate, error: Exhausted, deadline: float) -> None:
        """Waits a little or lowers the output limit; raises the refusal if neither can help."""
        plan = call.lane.plan
        budget = plan.labels[error.slot].budget
        steps = budget.tight.split(",") if budget is not None else ()
        in_time = time.monotonic() < deadline
        if "wait" in steps and error.waits and in_time:
            call.place = gate.wait(plan, error.slot, time.time_ns(), call.place)
            await self._until_freed(gate, deadline)
            return
        if "clamp" in steps:
            affordable = error.limit - error.settled
            if "wait" not in steps or not in_time:
                affordable -= error.reserved
            if self.governor.lower(call, affordable):
                return
        raise self.governor.refuse(call, error) from error

    async def _until_freed(self, gate: Gate, deadline: float) -> None:
        """Returns when something was given back anywhere, or after a quarter of a second."""
        if self._poller is None:
            self._freed = asyncio.Event()
            self._poller = asyncio.get_running_loop().create_task(self._poll(gate))
        assert self._freed is not None
        self._waiting += 1
        try:
            patience = min(HEARD_S, max(deadline - time.monotonic(), 0))
            async with asyncio.timeout(patience):
                await self._freed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1

    async def _poll(self, gate: Gate) -> None:
        """One task for all who wait in this process; ends with the last of them."""
        seen, quiet = gate.freed, 0
        while quiet < 100:
            await asyncio.sleep(POLL_S)
            quiet = 0 if self._waiting else quiet + 1
            if gate.freed != seen:
                seen = gate.freed
                freed, self._freed = self._freed, asyncio.Event()
                assert freed is not None
                freed.set()
        self._poller = None
