"""Token counts: they go to the targets of a request in its order, and never fail an agent.

A count costs nothing and holds nothing. What does not answer it gets out of the way of the next
target; where none is left, or the host has no such call, the size of the body is the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bifrost.call import Call
from bifrost.errors import InvalidRequest, UpstreamError
from bifrost.governor import Governor
from bifrost.lanes import Lane
from bifrost.passage.counts import uncounted
from bifrost.route import Route
from bifrost.routing.health import SILENT, UNREACHED, Fault, fault_of
from bifrost.translate import anthropic_anthropic

log = logging.getLogger("bifrost.counting")
PATIENCE_S = 10.0  # for one target
MOST_ANSWER = 1 << 20  # bytes


class Counter:
    """Counts the tokens of calls."""

    def __init__(self, governor: Governor, forward: Callable[[Call, bytes], Awaitable[bool]]):
        """``forward(call, path)`` sends a count and awaits the head of its answer."""
        self._governor, self._forward = governor, forward
        self.patience_s = PATIENCE_S

    async def count(self, call: Call, path: bytes) -> bytes | None:
        """The answer for the client of a call that was let in, with the status in ``call``; None
        where none is to be had, so that an estimate is due.

        Raises the refusal of a key that is not let in any more; InvalidRequest where no target can
        be told what the call asks for.
        """
        while True:
            lane: Lane = call.lane
            if not _counts(call):
                return None
            if call.route is not None:
                call.route.ask(lane)
            try:
                body = await self._answer(call, path)
                fault = fault_of(call.status)
            except UpstreamError as error:
                fault = SILENT if error.sent else UNREACHED
                log.warning("token count failed", extra=_told(call, str(error)))
            except InvalidRequest:
                # what this host cannot be told another one may understand
                if not self._passed_over(call, lane):
                    raise
                continue
            if fault is None:
                return None if uncounted(call.status, body) else body
            if not self._failed(call, lane, fault):
                return None

    async def _answer(self, call: Call, path: bytes) -> bytes:
        """One target's answer, whatever its status."""
        try:
            async with asyncio.timeout(self.patience_s):
                await self._forward(call, path)
                body: bytes = await call.exchange.read_all(MOST_ANSWER)
        except TimeoutError as error:
            raise UpstreamError(
                f"The provider did not count within {self.patience_s:g} s.",
                sent=not getattr(error.__cause__, "unsent", False),
            ) from None
        call.status = call.exchange.status  # a translated answer may have another
        return body if call.status == 200 else anthropic_anthropic.error(body)

    def _failed(self, call: Call, lane: Lane, fault: Fault) -> bool:
        """Whether there is another target. Only that nobody can be connected to is news of it:
        counts have limits of their own, and their failures are none of the model's."""
        route: Route | None = call.route
        if route is None:
            return False
        if fault is UNREACHED:
            route.failed(lane, fault, None)
        else:
            route.bar(fault.part(lane.place))
        return self._further(call, route)

    def _passed_over(self, call: Call, lane: Lane) -> bool:
        route: Route | None = call.route
        if route is None:
            return False
        route.bar(lane.place.part(key=False, model=True))
        return self._further(call, route)

    def _further(self, call: Call, route: Route) -> bool:
        if not route.further():
            return False
        if call.exchange is not None:
            call.exchange.cancel()
        call.again()
        self._governor.count(call)
        return True


def _counts(call: Call) -> bool:
    """Whether the call's present target counts tokens."""
    if call.dialect is None:
        return bool(call.lane.direct or call.lane.passage.counts("messages"))
    return bool(call.lane.passage.counts(call.dialect.api))


def _told(call: Call, error: str) -> dict[str, str]:
    place = call.lane.place
    return {
        "request": call.request_id, "provider": place.provider, "model": place.model,
        "error": error,
    }  # fmt: skip
