"""Hedges: where a target has not begun to answer in time, another one is asked beside it.

Only before the first byte of an answer. Both attempts are admitted before they are sent and settled
by themselves; whoever first begins a good answer serves the client, and the other is given up. A
hedge that the budgets or limits cannot hold is not sent, and nobody hears of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bifrost.call import Call
from bifrost.config.routes import Hedging
from bifrost.errors import GatewayUnavailable, InvalidRequest, UpstreamError
from bifrost.governor import Governor
from bifrost.patterns import any_matches
from bifrost.route import Route
from bifrost.routing.health import SILENT, UNREACHED, Fault, fault_of
from bifrost.witness import Witness

log = logging.getLogger("bifrost.hedge")
MOST_SAVED = 10.0  # hedges that quiet times save up for slow ones
Failed = Callable[[Call, Fault, UpstreamError | None], Awaitable[None]]
Send = Callable[[Call, bytes], Awaitable[bool]]


class Hedges:
    """Hedges the calls of one process, as far as ``spec`` says so (None: none).

    What may be hedged is counted: each call that could have been adds its share to the savings, and
    each hedge takes one from them, so that a slow provider does not double the load.
    """

    def __init__(
        self, governor: Governor, witness: Witness, forward: Send, cut: Callable[[Call], None]
    ) -> None:
        """``forward(call, path)`` sends and awaits a head, ``cut(call)`` closes a call that got no
        answer."""
        self.spec: Hedging | None = None
        self._governor, self._witness = governor, witness
        self._forward, self._cut = forward, cut
        self._saved = 1.0

    def concern(self, call: Call) -> bool:
        """Whether an attempt of this call may be hedged."""
        spec, route = self.spec, call.route
        if spec is None or route.attempts > 1 or not route.beside(call.lane):
            return False
        return any_matches(call.scan.model or "", spec.models)

    async def carry(self, call: Call, path: bytes, attempt: Send, failed: Failed) -> bool:
        """``attempt(call, path)``, with a hedge beside it once it has taken its time.

        The call stands as the attempt left it that served, or that failed last; of the other one
        ``failed(call, fault, failure)`` is told.
        """
        assert self.spec is not None
        self._saved = min(MOST_SAVED, self._saved + self.spec.max_share)
        first = asyncio.ensure_future(attempt(call, path))
        race: Race | None = None
        try:
            await asyncio.wait({first}, timeout=self.spec.after_ms / 1_000)
            if not first.done():
                other = await self._held(call)
                if other is not None and first.done():  # it was answered after all
                    self._cut(other)
                elif other is not None:
                    call.route.begin(other.lane)
                    second = asyncio.ensure_future(self._forward(other, path))
                    race = Race(call, other, first, second, failed, self._cut)
                    try:
                        return await race.run()
                    finally:
                        self._count(race.outcome)
            return await first
        except BaseException:
            await _stopped(first)
            if race is not None:
                await race.abandon()
            raise

    async def _held(self, call: Call) -> Call | None:
        """The hedge of a call, its money held; None where there can be none."""
        if self._saved < 1.0:
            self._count("limited")
            return None
        route: Route = call.route
        other = call.sibling()
        with route.apart(call.lane):
            if not self._governor.hold(other):
                self._count("unaffordable")
                return None
        if other.lane.place.part(key=False, model=True) in call.lane.place.parts():
            self._cut(other)  # the configuration has changed: there is no other any more
            return None
        try:
            if self._witness.attends(call.grant):
                await self._witness.again(other)
        except GatewayUnavailable:
            self._cut(other)
            return None
        except BaseException:
            self._cut(other)
            raise
        self._saved -= 1.0
        return other

    def _count(self, outcome: str) -> None:
        self._governor.lanes.meters.meter("hedge", outcome).add(0, 1)


class Race:
    """Two attempts of one request under way. ``outcome``: what becomes of the hedge: won, lost,
    failed, or cut where the client left."""

    def __init__(
        self,
        call: Call,
        other: Call,
        first: asyncio.Future[bool],
        second: asyncio.Future[bool],
        failed: Failed,
        cut: Callable[[Call], None],
    ) -> None:
        self._call, self._other = call, other
        self._first, self._second = first, second
        self._failed, self._cut = failed, cut
        self.outcome = "cut"

    async def run(self) -> bool:
        """Whether a stream follows; raises what the attempt raised that failed last."""
        first, second = self._first, self._second
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            fault, failure = _ended(self._call, first)
            if fault is None:
                self.outcome = "lost"
                await self.abandon()
                return first.result()
            await self._failed(self._call, fault, failure)
            await asyncio.wait({second})
            return self._alone()
        if not await self._good():
            await asyncio.wait({first})
            return first.result()
        self.outcome = "won"
        if await _stopped(first):
            self._call.sent_upstream = False
        self._call.swap(self._other)
        await self.abandon()
        return second.result()

    def _alone(self) -> bool:
        """The first attempt failed and is settled: the hedge takes its place, as it ended."""
        self._call.swap(self._other)
        self.outcome = "failed"
        streams = self._second.result()
        if fault_of(self._call.status) is None:
            self.outcome = "won"
        return streams

    async def _good(self) -> bool:
        """Whether the hedge, which has ended, answered well; else it is closed here."""
        other, self.outcome = self._other, "failed"
        try:
            fault, failure = _ended(other, self._second)
        except InvalidRequest:  # that host cannot be told; nothing was sent
            other.route.bar(other.lane.place.part(key=False, model=True))
            await self.abandon()
            return False
        if fault is not None:
            await self._failed(other, fault, failure)
        return fault is None

    async def abandon(self) -> None:
        """Ends the attempt that serves nobody, and settles it: it may have been worked on."""
        other = self._other
        if await _stopped(self._second):
            other.sent_upstream = False
        if other.settled:
            return
        other.route.leave(other.lane)
        if other.exchange is not None:
            other.exchange.cancel()
        self._cut(other)


def _ended(call: Call, task: asyncio.Future[bool]) -> tuple[Fault | None, UpstreamError | None]:
    """How an attempt failed, if it did."""
    try:
        task.result()
    except UpstreamError as error:
        return (SILENT if error.sent else UNREACHED), error
    return fault_of(call.status), None


async def _stopped(task: asyncio.Future[bool]) -> bool:
    """Ends an attempt, whatever came of it; whether that was before its request had left."""
    task.cancel()
    await asyncio.wait({task})
    try:
        task.exception()
    except asyncio.CancelledError as gone:
        return bool(getattr(gone, "unsent", False))
    return False
