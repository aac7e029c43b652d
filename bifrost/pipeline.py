"""The order of the rooms: admit, translate, upstream, tap, meter, settle. No policy here.

Bytes of the answer flow back as they come; whatever happens, a call that was admitted is settled.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bifrost._fast import client, stations, wire
from bifrost._fast.gate import Exhausted
from bifrost.call import Call
from bifrost.counting import Counter
from bifrost.errors import GatewayUnavailable, Refusal, UpstreamError, UpstreamUnavailable
from bifrost.failover import Failover
from bifrost.governor import Governor
from bifrost.line import Line
from bifrost.metering.bound import bound
from bifrost.metering.usage import TEXT, Usage, from_message, from_stream, output_estimate
from bifrost.translate import anthropic_anthropic, foreign_thinking
from bifrost.watch import Watch
from bifrost.witness import Witness

log = logging.getLogger("bifrost.pipeline")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_ANSWER = 64 << 20  # bytes of a JSON answer held in memory
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
REPORTED, ESTIMATED = (b"x-bf-count", b"reported"), (b"x-bf-count", b"estimated")
MESSAGES, COUNT = b"/v1/messages", b"/v1/messages/count_tokens"


class Pipeline:
    """Carries calls to their provider and back; those with a dialect go through a passage.

    Two ways lead through it: ``messages`` and ``count_tokens`` for any ASGI server, and the
    compiled listener's, which passes the same stations (``settled``, ``arrived``, ``ended``,
    ``failed``, ``close``, and those of the wire) without a task of its own.
    """

    def __init__(
        self,
        governor: Governor,
        watch: Watch,
        broken_event: Callable[[str, str, str], bytes],
        witness: Witness,
        *,
        debug_headers: bool = False,
    ) -> None:
        """``broken_event(message, request id, type)`` renders a door's event for a cut stream."""
        self.line = Line(governor)
        self.governor = governor
        self.watch = watch
        self.witness = witness
        self.broken_event = broken_event
        self.stations = stations.Stations(debug_headers=debug_headers)
        self.failover = Failover(
            governor, self.line, witness, self._forward, self.settled, self._settle_cut
        )
        self.counter = Counter(governor, self._ask_count)

    async def messages(self, call: Call, send: Send, query: bytes) -> None:
        """Serves one Messages request; raises Refusal only before the first byte of an answer."""
        try:
            self.governor.attempt(call)
        except Exhausted as error:
            await self._wait_in_line(call, error)
            if call.gone:
                return
        self.watch.enter(call, asyncio.current_task())
        try:
            if self.witness.attends(call.grant):
                await self.witness.before(call)
            carry = self._forward if call.route is None else self.failover.carry
            while not await carry(call, MESSAGES + query):
                if call.settled:  # no target served it
                    await _answer(call, send, self._headers(call), call.route.kept.body)
                    break
                body = await call.exchange.read_all(MAX_ANSWER)
                call.status = call.exchange.status  # a translated answer may have another
                if self.lightened(call, body):
                    carry = self._forward  # to the same target
                    continue
                call.last_byte = time.monotonic_ns()
                if call.testimony is not None:
                    call.testimony.hear(body)
                cost, body = self.settled(call, body)
                await _answer(call, send, self._headers(call, cost), body)
                break
            else:
                await self._stream(call, send)
        except asyncio.CancelledError:
            await self._cancelled(call, send)
        except UpstreamError as error:
            if call.streaming:
                await self._broken_stream(call, send, self.broken(call, error))
                return
            raise self.failed(call, error) from error
        finally:
            if call.route is None or call.route.attempts < 2:  # else it was elsewhere before
                self.governor.desk.finish(call)
            self.close(call)
            if call.testimony is not None:
                call.testimony.end()

    async def _wait_in_line(self, call: Call, error: Exhausted) -> None:
        """The budget is tight: waits its turn, watched like any other call that waits."""
        self.watch.enter(call, asyncio.current_task())
        try:
            await self.line.admit(call, error)
        except asyncio.CancelledError:
            if call.ticket is not None:  # admitted in the very moment
                self.governor.settle(call, None, "error")
            await self._cancelled(call, None)
        finally:
            self.watch.leave(call)

    async def _cancelled(self, call: Call, send: Send | None) -> None:
        """The watch ended this call: its client left, or what it may do was taken back."""
        if not call.gone and call.cut is None:
            raise
        _uncancel()
        if call.cut is None:
            return
        if send is None or not call.streaming:
            raise self.failed(call, call.cut)
        call.broke = True
        await self._broken_stream(call, send, self.broken(call, call.cut))

    async def count_tokens(self, call: Call, send: Send, query: bytes) -> None:
        """Serves a token count: a key and an allowed model are needed, no money moves.

        ``x-bf-count`` says whose it is: ``reported`` by a provider, or ``estimated`` by the size.
        """
        self.governor.count(call)
        self.watch.enter(call, asyncio.current_task())
        try:
            body = await self.counter.count(call, COUNT + query)
            if body is None:
                call.status, body = 200, call.lane.passage.estimate(call)
                number = (b"x-request-id", call.request_id.encode())
                headers = [(b"content-type", b"application/json"), number, ESTIMATED]
                await _answer(call, send, [*headers, *self.budget(call)], body)
                return
            headers = self._headers(call)
            await _answer(call, send, [*headers, REPORTED] if call.status == 200 else headers, body)
        except asyncio.CancelledError:
            await self._cancelled(call, None)
        except UpstreamError as error:  # of a door that cannot say the answer
            raise UpstreamUnavailable(f"{error} Try again shortly.") from error
        finally:
            self.watch.leave(call)
            if call.exchange is not None:
                call.exchange.cancel()

    async def _ask_count(self, call: Call, target: bytes) -> bool:
        """Sends a token count upstream and waits for the answer's head."""
        lane = call.lane
        if lane.direct and call.dialect is None:
            call.exchange = await lane.origin.send(self.stations.outgoing(call, target))
        else:
            call.exchange = await lane.passage.count(call)
        return self.stations.answered(call)

    async def _forward(self, call: Call, target: bytes) -> bool:
        """Sends the request upstream, waits for the answer's head; whether a stream follows it."""
        lane = call.lane
        try:
            if lane.direct and call.dialect is None:
                call.exchange = await lane.origin.send(self.stations.outgoing(call, target))
            else:
                call.exchange = await lane.passage.send(call)
        except UpstreamError as error:
            call.sent_upstream = error.sent
            raise
        return self.stations.answered(call)

    async def _stream(self, call: Call, send: Send) -> None:
        """An SSE answer: each piece goes on as it comes."""
        headers = self._headers(call)
        call.tap = wire.Tap()
        await send({"type": "http.response.start", "status": call.status, "headers": headers})
        call.streaming = True
        exchange, dialect = call.exchange, call.dialect
        while chunk := await exchange.read():
            if chunk is client.WAKE:
                if _between(call):
                    await _piece(send, PING if dialect is None else dialect.ping)
                continue
            if call.testimony is not None:
                call.testimony.hear(chunk)
            if self.stations.passed(call, chunk if dialect is None else exchange.metered()):
                self.arrived(call)
            await _piece(send, chunk)
        if dialect is not None and self.stations.passed(call, exchange.metered()):
            self.arrived(call)
        self.ended(call)
        await send({"type": "http.response.body", "body": b""})

    async def _broken_stream(self, call: Call, send: Send, event: bytes) -> None:
        """A stream ends early: the dialect's error event tells the client why."""
        try:
            await _piece(send, event)
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            call.gone = True

    # -- the stations ----------------------------------------------------------------------

    def settled(self, call: Call, body: bytes) -> tuple[int, bytes]:
        """Meters and settles an answer that is complete; its cost in nano-USD (-1 without one) and
        what the client gets of it."""
        if call.status == 200:
            account = body if call.dialect is None else call.exchange.metered()
            return self.governor.settle(call, _usage_of(call, account), "ok"), body
        self.governor.settle(call, None, "error")
        return -1, anthropic_anthropic.error(body)

    def lightened(self, call: Call, answer: bytes) -> bool:
        """Whether a host refused thinking that another vendor's model made (the conversation was
        elsewhere before), and the call is without it now, to be sent once more."""
        if call.status != 400 or foreign_thinking.MARK not in call.body or not call.lane.direct:
            return False
        if call.dialect is not None or (call.encoding is None and b"thinking" not in answer):
            return False
        body = foreign_thinking.without(call.body)
        if body is call.body:
            return False
        call.body, call.scan = body, wire.scan(body)
        call.exchange = call.encoding = None  # nothing has been answered yet
        call.status = 0
        return True

    def arrived(self, call: Call) -> None:
        """The last event of a streamed message is there: settles before it goes on."""
        self._settle_stream(call, "ok")

    def ended(self, call: Call) -> None:
        """The provider ended its stream; raises UpstreamError if it was not complete."""
        tap = call.tap
        tap.finish()
        if not tap.stopped and tap.error is None:
            raise UpstreamError("The provider ended its stream early.", sent=True)
        if not call.settled:
            self._settle_stream(call, "ok" if tap.stopped else "broken")

    def broken(self, call: Call, why: BaseException) -> bytes:
        """The dialect's event for a stream that ends early."""
        call.broke = True
        kind, text = "api_error", f"{why} Try again."
        if isinstance(why, Refusal):
            kind, text = why.kind, str(why)
        elif not isinstance(why, UpstreamError):
            log.error("a stream failed in the gateway", exc_info=why)
            text = "The gateway failed in the middle of this answer. Try again."
        log.warning("stream broken", extra={"request": call.request_id, "error": text})
        lead = b"" if _between(call) else b"\n\n"
        words = self.broken_event if call.dialect is None else call.dialect.broken_event
        return lead + words(text, call.request_id, kind)

    def failed(self, call: Call, error: BaseException) -> Refusal:
        """There will be no answer: what the client is told instead."""
        call.broke = True
        refusal: Refusal
        if isinstance(error, Refusal):
            refusal = error
        elif isinstance(error, UpstreamError):
            refusal = UpstreamUnavailable(f"{error} Try again shortly.")
        else:
            log.error("a call failed in the gateway", exc_info=error)
            refusal = GatewayUnavailable("The gateway failed to serve this request; try again.")
        call.status = refusal.status
        return refusal

    def close(self, call: Call) -> None:
        """The end of every admitted call: nothing is watched, open or held any more."""
        self.watch.leave(call)
        if call.exchange is not None:
            call.exchange.cancel()
        if not call.settled:
            self._settle_cut(call)

    def _headers(self, call: Call, cost: int = -1) -> Headers:
        headers: Headers = self.stations.headers(call, cost, *self.governor.remaining(call))
        if call.route is not None and call.route.attempts:
            headers.append((b"x-bf-attempts", b"%d" % call.route.attempts))
        return headers

    def budget(self, call: Call) -> Headers:
        """What the tightest budget of a call's key has left, as headers; none without budgets."""
        lines = stations.budget_lines(*self.governor.remaining(call))
        return [(name, value) for name, _, value in _parted(lines)]

    def _settle_stream(self, call: Call, outcome: str) -> None:
        tap, lane = call.tap, call.lane
        usage = from_stream(
            tap.start,
            tap.delta,
            # what was too long to be read counts in full rather than not at all
            output_bytes=tap.received if tap.overflow else tap.output_bytes,
            stopped=tap.stopped,
            input_estimate=_input_estimate(call),
            text=lane.density.output or TEXT,
            most=None if tap.stopped and tap.delta else _most_output(call),
            named=(lane.direct and call.dialect is None) or lane.passage.names_model(call),
        )
        self.governor.settle(call, usage, outcome)

    def _settle_cut(self, call: Call) -> None:
        """Closes a call that did not come to its end: billed for what flowed, or for nothing."""
        outcome = "broken" if call.broke else "cut"
        exchange = call.exchange
        if call.tap is not None:
            call.tap.finish()
            self._settle_stream(call, outcome)
        elif call.sent_upstream and (exchange is None or exchange.status in (0, 200)):
            made = 0 if exchange is None else _output_made(call)
            estimate = Usage(in_fresh=_input_estimate(call), out_text=made, source="estimated")
            self.governor.settle(call, estimate, outcome)
        else:
            self.governor.settle(call, None, "error")


async def _answer(call: Call, send: Send, headers: Headers, body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": call.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _piece(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


def _between(call: Call) -> bool:
    """Whether no event is half sent to the client."""
    return bool(call.tap.boundary if call.dialect is None else call.exchange.boundary)


def _uncancel() -> None:
    """The watch cancelled this task because the client left; nobody else did."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _parted(lines: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]


def _input_estimate(call: Call) -> int:
    """Tokens of the input when the provider has not told, by the body's size."""
    return output_estimate(len(call.body))


def _most_output(call: Call) -> int:
    """Output tokens that the call was admitted for: no estimate goes beyond them."""
    window, limit = call.lane.price.max_input_tokens, call.output_limit or None
    return bound(call.scan, len(call.body), window, max_tokens=limit).output_tokens


def _output_made(call: Call) -> int:
    """Output tokens of a JSON answer that broke off, by the size that it has or was to have."""
    size = call.exchange.received
    for name, value in call.exchange.headers or ():
        if name == b"content-length" and value.isdigit():
            size = max(size, int(value))
    return min(output_estimate(size), _most_output(call))


def _usage_of(call: Call, body: bytes) -> Usage:
    """The usage of a JSON answer; estimated from its size if the provider reported none."""
    if call.encoding is not None and call.encoding.lower() in (b"gzip", b"deflate", b"x-gzip"):
        try:
            body = zlib.decompress(body, zlib.MAX_WBITS | 32)
        except zlib.error:
            body = b""
    raw = wire.top_level(body, "usage") or b""
    usage = from_message(raw, None)
    if usage.source == "reported":
        return usage
    return from_message(raw, None, input_estimate=_input_estimate(call), output_bytes=len(body))
