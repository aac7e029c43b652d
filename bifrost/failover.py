"""Failover: a call with several targets goes to the next one until one answers.

Only before the first byte of an answer. Each attempt is admitted and settled by itself: one that
failed is closed before the next one's money is held, so no more is ever held than one attempt may
cost. A target that the budgets do not allow is passed over.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import time
from collections.abc import Awaitable, Callable

from bifrost._fast.gate import Exhausted
from bifrost.call import Call
from bifrost.config.routes import Routing
from bifrost.errors import InvalidRequest, Refusal, UpstreamError
from bifrost.governor import Governor
from bifrost.hedge import Hedges
from bifrost.line import Line
from bifrost.route import Kept, Route
from bifrost.routing.health import SILENT, UNREACHED, Fault, fault_of
from bifrost.witness import Witness

log = logging.getLogger("bifrost.failover")
MOST_ERROR = 1 << 20  # bytes of an error that is kept
ERROR_S = 2.0  # for such an error to arrive


class Failover:
    """Carries the calls that have a choice."""

    def __init__(
        self,
        governor: Governor,
        line: Line,
        witness: Witness,
        forward: Callable[[Call, bytes], Awaitable[bool]],
        settled: Callable[[Call, bytes], tuple[int, bytes]],
        cut: Callable[[Call], None],
    ) -> None:
        """``forward(call, path)`` sends and awaits a head, ``settled(call, body)`` closes a call
        whose answer is complete, ``cut(call)`` one that got none."""
        self.governor, self.line, self.witness = governor, line, witness
        self.hedges = Hedges(governor, witness, forward, cut)
        self._first_byte_timeout_s: float | None = None
        self._forward, self._settled, self._cut = forward, settled, cut

    def configure(self, routing: Routing) -> None:
        """What the configuration says from now on."""
        self._first_byte_timeout_s = routing.first_byte_timeout_s
        self.hedges.spec = routing.hedge

    async def carry(self, call: Call, path: bytes) -> bool:
        """Sends a call to its targets in turn until one answers; whether a stream follows.

        Where none did, the call is settled and stands as the best of their errors left it, its body
        in ``call.route.kept``; without any, raises UpstreamError.
        """
        route: Route = call.route
        while True:
            route.begin(call.lane)
            try:
                if self.hedges.concern(call):
                    streams = await self.hedges.carry(call, path, self._attempt, self._failed)
                else:
                    streams = await self._attempt(call, path)
                fault, failure = fault_of(call.status), None
            except UpstreamError as error:
                fault, failure = (SILENT if error.sent else UNREACHED), error
            except InvalidRequest:
                # what this host cannot be told another one may understand
                if not await self._passed_over(call):
                    raise
                continue
            except BaseException:
                route.leave(call.lane)
                raise
            if fault is None:
                route.served(call.lane)
                return streams
            self._note(call, fault, failure)
            if failure is None:
                await self._keep(call)
            elif not route.further() and route.kept is None:
                raise failure
            self._end(call)
            if not await self._admit_next(call):
                break
        if route.kept is None:
            raise failure or UpstreamError("The provider's error did not arrive.", sent=True)
        call.lane, call.exchange, call.status, _ = route.kept
        return False

    async def _attempt(self, call: Call, path: bytes) -> bool:
        patience = self._first_byte_timeout_s if call.scan.stream else None
        if patience is None or not call.route.more():
            return await self._forward(call, path)
        try:
            async with asyncio.timeout(patience):
                return await self._forward(call, path)
        except TimeoutError as error:
            call.sent_upstream = not getattr(error.__cause__, "unsent", False)
            raise UpstreamError(
                f"The provider at {call.lane.origin.authority} did not begin to answer within"
                f" {patience:g} s.",
                sent=call.sent_upstream,
            ) from None

    async def _failed(self, call: Call, fault: Fault, failure: UpstreamError | None) -> None:
        """One of two attempts failed while the other is under way."""
        self._note(call, fault, failure)
        if failure is None:
            await self._keep(call)
        self._end(call)

    async def _passed_over(self, call: Call) -> bool:
        """Nothing was sent: another target takes its place, if there is one."""
        route: Route = call.route
        route.leave(call.lane)
        route.bar(call.lane.place.part(key=False, model=True))
        if not route.further():
            return False
        self._end(call)
        return await self._admit_next(call)

    def _note(self, call: Call, fault: Fault, failure: UpstreamError | None) -> None:
        place = call.lane.place
        asked = None if failure is not None else asked_ns(call.exchange.headers, time.time())
        call.route.failed(call.lane, fault, asked)
        self.governor.lanes.meters.meter("fault", place.provider, place.model, fault.name).add(0, 1)
        log.warning(
            "attempt failed",
            extra={
                "request": call.request_id, "provider": place.provider, "model": place.model,
                "key": place.key, "fault": fault.name, "status": call.status,
                "error": str(failure) if failure is not None else None,
            },
        )  # fmt: skip

    async def _keep(self, call: Call) -> None:
        """Settles an attempt that was answered with an error, and keeps that."""
        exchange = call.exchange
        try:
            async with asyncio.timeout(ERROR_S):
                body = await exchange.read_all(MOST_ERROR)
        except (TimeoutError, UpstreamError):
            return
        call.status = exchange.status  # a translated answer may have another
        _, body = self._settled(call, body)
        call.route.keep(Kept(call.lane, exchange, call.status, body))

    def _end(self, call: Call) -> None:
        """Settles what is not yet settled: nothing, or an estimate where a provider may have worked
        for nobody."""
        call.broke = True
        if call.exchange is not None:
            call.exchange.cancel()
        if not call.settled:
            self._cut(call)

    async def _admit_next(self, call: Call) -> bool:
        """Holds the money of the next target that can be had."""
        route: Route = call.route
        while route.further():
            before = call.lane
            call.again()
            try:
                try:
                    self.governor.attempt(call)
                except Exhausted as error:
                    await self.line.admit(call, error)
            except Refusal:
                if call.lane is before:
                    return False  # its key may not go on
                route.bar(call.lane.place.part(key=False, model=True))
                continue
            call.settled = False
            if self.witness.attends(call.grant):
                await self.witness.again(call)
            return True
        return False


def asked_ns(headers: list[tuple[bytes, bytes]], now: float) -> int | None:
    """The pause that an answer's headers ask for, in ns: ``retry-after-ms``, else ``retry-after``
    as seconds or as a date, seen from ``now`` (Unix seconds). None without a sensible one."""
    found = dict(headers)
    if found.get(b"retry-after-ms", b"").isdigit():
        return int(found[b"retry-after-ms"][:15]) * 1_000_000
    value = found.get(b"retry-after", b"")
    if value.isdigit():
        return int(value[:12]) * 1_000_000_000
    try:
        date = email.utils.parsedate_to_datetime(value.decode("latin-1"))
        return max(0, int((date.timestamp() - now) * 1e9))
    except (ValueError, OverflowError):
        return None
