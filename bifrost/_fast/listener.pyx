"""The listener: the connections of clients under ``bifrost serve``, one object each.

A request on a hot route that the desk admits goes its whole way here, from callback to callback,
without a task, a scope or a message: received (``receiver``), sent to its provider, answered.
Everything else goes to uvicorn's own protocol and so to the app.
"""

import asyncio
import logging

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from .call cimport Call, new_request_id
from .client cimport Exchange, Pool, monotonic
from .client import Broken
from .hall cimport Hall, status_line
from .gate import Exhausted, GateError
from .receiver cimport ASGI, BUSY, HEAD, IDLE, Receiver
from .stations cimport framed
from .timing cimport now_mono
from .wire cimport Head
from .wire import Tap, WireError, read_head, scan as scan_body

log = logging.getLogger("bifrost.listener")

cdef enum:
    JOIN_BELOW = 16_384         # one copy of so few bytes is cheaper than a vectored write


@cython.final
cdef class Listener(Receiver):
    """One connection of a client; made by uvicorn as its HTTP protocol."""

    def __init__(self, config, server_state, app_state, _loop=None):
        self.config, self.server_state, self.app_state = config, server_state, app_state
        self.loop = _loop or asyncio.get_event_loop()
        self.hall = config.loaded_app.hall
        self.state = IDLE

    # -- what the transport calls --------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        self.touched = monotonic()
        self.server_state.connections.add(self)

    def connection_lost(self, error):
        self.lost = True
        self.server_state.connections.discard(self)
        if self.doubt is not None:
            self.doubt.end()
        if self.cold is not None:
            self.cold.connection_lost(error)
        cdef Call call = self.call
        if call is not None:
            call.gone = True
            self._leave()
        self.parser = None

    def eof_received(self):
        """The client sends no more; one that waits for its answer still gets it."""
        if self.state == HEAD and self.head is not None:
            self._cool(self.head)   # it may be wrong already
        if self.state == ASGI:
            return self.cold.eof_received()
        if self.state != BUSY:
            return False
        self.doubt = self.hall.doubt(self.transport, self.loop, self._ask)
        return True

    def _ask(self):
        """Writes something that changes no answer, if it can stand here; whether it did."""
        if self.call is None or self.write_paused:
            return False
        if self.answering:
            return bool(self.silent())
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def pause_writing(self):
        self.write_paused = True
        if self.cold is not None:
            self.cold.pause_writing()

    def resume_writing(self):
        self.write_paused = False
        if self.cold is not None:
            self.cold.resume_writing()
        if self.exchange is not None:
            self.moved()

    def shutdown(self):
        """The worker stops: ends what is idle now, the rest with its answer."""
        self.closing = True
        if self.state == ASGI and not self.cold.free():
            self.cold.shutdown()
        elif self.state == IDLE or self.state == HEAD or self.state == ASGI:
            self.transport.close()

    def expire(self, double now):
        """Ends the connection if its client was idle or slow for too long; ``now`` is monotonic."""
        cdef double since
        if self.state == ASGI:
            self.cold.expire(now)
        elif self.state == IDLE:
            if now - self.touched > self.hall.keep_alive_s:
                self.transport.close()
        elif self.state != BUSY:
            since = self.began if self.state == HEAD else self.touched
            if now - since > self.hall.receive_s:
                self._chill()
                self.cold.late()

    # -- the call ------------------------------------------------------------------------------

    cdef bint admit(self, bytes body) except -1:
        """Admits and sends the request; False when that is not for us to decide."""
        cdef Hall hall = self.hall
        cdef Head head
        cdef Call call
        try:
            head = read_head(self.headers)
            call = Call.__new__(Call, None, None)
            call.head, call.body, call.scan = head, body, scan_body(body)
            call.client = self._client()
            if head.request_id is not None:
                call.request_id = head.request_id.decode()
            else:
                call.request_id = new_request_id()
            if not hall.desk.admit(call):
                return False
        except (WireError, Exhausted, GateError):
            return False        # the app finds the same, and words it
        self.raw = self.headers = self.parser = None
        self.call = call
        self.streaming = self.answering = False
        try:
            if hall.fresh:
                hall.fresh[call] = self     # its timer runs already
            else:
                hall.pipeline.watch.enter(call, self)
            self.request = hall.stations.outgoing(call, self.target + self.query)
            pool = call.lane.origin.pool
            self.exchange = (<Pool?>pool).start(self.request, self)
            if self.exchange is None:
                self.task = self.loop.create_task(self._send(pool, False))
        except BaseException:
            self._leave()
            self.transport.abort()
            raise
        return True

    cdef bytes _client(self):
        """Who the event names: the peer, looked at once, or whom a trusted one speaks for."""
        proxies = self.hall.proxies
        if self.proxies is not proxies:
            peer = self.transport.get_extra_info("peername")
            self.host, self.peer, self.trusted = proxies.met(peer)
            self.proxies = proxies
        if self.trusted:
            return proxies.behind(self.host, self.headers)
        return self.peer

    async def _send(self, pool, bint again):
        """Sends where a connection must be made or waited for first."""
        cdef Call call = self.call
        try:
            exchange = await (pool.send(self.request, True) if again else pool.send(self.request))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if self.call is call:
                self.task = None
                call.sent_upstream = getattr(error, "sent", True)
                self._fail(error)
            return
        if self.call is not call:
            exchange.cancel()
            return
        self.task = None
        call.exchange = self.exchange = exchange
        self.exchange.follow(self)
        self.moved()

    def cancel(self):
        """The watch ends this call: what its key may do was taken back."""
        cdef Call call = self.call
        if call is None or call.cut is None:
            return
        self._fail(call.cut)

    cdef int moved(self) except -1:
        """Something came from the provider, or the client takes more."""
        cdef Exchange exchange = self.exchange
        if self.call is None or exchange is None:
            return 0
        try:
            self._move(exchange)
        except BaseException as error:
            self._fail(error)
        return 0

    cdef int _move(self, Exchange exchange) except -1:
        cdef Call call = self.call
        cdef Hall hall = self.hall
        if not self.answering:
            if not exchange._head_done:
                if exchange._failure is None:
                    return 0
                if exchange._stale and self.request is not None:
                    self.exchange = None
                    self.task = self.loop.create_task(self._send(exchange._pool, True))
                    return 0
                call.sent_upstream = True
                raise exchange._pool.raised(exchange.error())
            self.answering = True
            self.request = self.parts = None
            self.gathered = 0
            call.exchange = exchange
            self.streaming = hall.stations.answered(call)
            if self.streaming:
                self.opening = self._head(-1, -1)
                call.tap = Tap()
                call.streaming = True
        if self.streaming:
            self._pass(exchange)
        else:
            self._gather(exchange)
        if exchange._failure is not None and self.exchange is exchange and not self.write_paused:
            exchange.read_nowait()      # what came before is passed on: raises
        return 0

    cdef int _gather(self, Exchange exchange) except -1:
        """An answer that must be whole before anything of it goes on."""
        cdef Hall hall = self.hall
        chunk = exchange.read_nowait()
        if chunk is None:
            return 0
        if exchange.complete and self.parts is None:
            return self._answer(chunk)
        if self.parts is None:
            self.parts = []
        self.parts.append(chunk)
        self.gathered += PyBytes_GET_SIZE(chunk)
        if self.gathered > hall.max_answer:
            text = f"sent a response of more than {hall.max_answer} bytes"
            raise exchange._pool.raised(Broken(text, sent=True))
        if exchange.complete:
            chunk, self.parts = b"".join(self.parts), None
            return self._answer(chunk)
        return 0

    cdef int _answer(self, bytes body) except -1:
        """A whole answer: settled, then written."""
        cdef Call call = self.call
        cdef Hall hall = self.hall
        cdef int64_t cost
        if call.status == 400 and hall.pipeline.lightened(call, body):
            self.answering = False
            self.exchange._follower = None
            self.exchange = None
            self.request = hall.stations.outgoing(call, self.target + self.query)
            self.task = self.loop.create_task(self._send(call.lane.origin.pool, False))
            return 0
        call.last_byte = now_mono()
        try:
            cost = hall.desk.settle_whole(call, body)
        except GateError as error:
            cost = hall.pipeline.governor.unbooked(call, error)
        if cost < 0:
            cost, body = hall.pipeline.settled(call, body)
        self._write([self._head(cost, PyBytes_GET_SIZE(body)), body])
        return self._done()

    cdef int _pass(self, Exchange exchange) except -1:
        """Pieces of a stream go on as they come, unless the client is slow."""
        cdef Call call = self.call
        cdef bytes opening = self.opening
        self.opening = None
        chunk = None if self.write_paused else exchange.read_nowait()
        if chunk is None:
            if opening is not None:
                self.transport.write(opening)
            return 0
        if PyBytes_GET_SIZE(chunk):
            if self.hall.stations.passed(call, chunk):
                self.hall.pipeline.arrived(call)
        if exchange.complete:
            self.hall.pipeline.ended(call)
        if PyBytes_GET_SIZE(chunk) <= JOIN_BELOW:
            self.transport.write(framed(opening, chunk, exchange.complete))
        else:
            out = [] if opening is None else [opening]
            out += (b"%x\r\n" % PyBytes_GET_SIZE(chunk), chunk,
                    b"\r\n0\r\n\r\n" if exchange.complete else b"\r\n")
            self.transport.writelines(out)
        return self._done() if exchange.complete else 0

    cdef int silent(self) except -1:
        """The provider is silent: the client hears that the stream still lives."""
        cdef Call call = self.call
        if call is not None and self.streaming and call.tap.boundary and not self.write_paused:
            self.transport.write(framed(None, self.hall.ping, False))
            return 1
        return 0

    cdef int _fail(self, error) except -1:
        """The call ends early: the client gets the dialect's event or refusal."""
        cdef Call call = self.call
        cdef Hall hall = self.hall
        pipeline = hall.pipeline
        try:
            if self.streaming:
                event = pipeline.broken(call, error)
                self.transport.write(framed(self.opening, event, True))
            else:
                refusal = pipeline.failed(call, error)
                more = pipeline.budget(call)
                pipeline.close(call)
                status, headers, body = hall.refusal(refusal, call.request_id, more)
                self._write([self._refusal(status, headers), body])
        except BaseException:
            log.exception("a call could not be ended well", extra={"request": call.request_id})
            self._leave()
            self.transport.abort()
            return 0
        return self._done()

    cdef int _leave(self) except -1:
        """Lets go of the call, settled for what flowed."""
        cdef Call call = self.call
        cdef Exchange exchange = self.exchange
        self.call = self.exchange = self.request = self.opening = self.parts = None
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
        if exchange is not None:
            exchange._follower = None
            if call.exchange is None:
                exchange.cancel()
        self.hall.desk.finish(call)
        if call.settled and exchange is not None and exchange.complete and call in self.hall.fresh:
            del self.hall.fresh[call]       # nothing is open or held
        else:
            self.hall.pipeline.close(call)
        return 0

    cdef int _done(self) except -1:
        """The answer is written; the next request may come."""
        self._leave()
        self.touched = monotonic()
        if self.closing or self.doubt is not None and self.held is None:
            self.state = IDLE
            self.transport.close()
        elif self.held is None:
            self.state = IDLE
        else:
            self.loop.call_soon(self._next)     # until then what comes goes behind it
        return 0

    def _next(self):
        """A pipelined request, after the answer to the one before it."""
        cdef bytes held = self.held
        self.held = None
        self.state = IDLE
        if self.lost or self.transport.is_closing():
            return
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if not self.closing:
            self._feed(held)
        if self.closing or self.doubt is not None and self._over():
            self.transport.close()

    cdef bint _over(self) except -1:
        """Whether nothing is due any more to a client that sends no more."""
        if self.state == HEAD and self.head is not None:
            self._cool(self.head)   # it may be wrong already
        if self.state == ASGI:
            self.cold.doubt = self.doubt
            return not self.cold.ended()
        return self.state != BUSY       # the rest of a request never comes

    # -- writing -------------------------------------------------------------------------------

    cdef bytes _head(self, int64_t cost, Py_ssize_t length):
        """The head of the call's answer; ``length`` of the body, -1 for one in chunks."""
        cdef bytes lines = self._defaults()
        return self.hall.stations.head(self.call, status_line(self.call.status), lines, cost, length,
                                   self.closing)

    cdef bytes _refusal(self, int status, list headers):
        """The head of an answer of the gateway's own."""
        cdef bytes lines = self._defaults()
        cdef list out = [status_line(status), lines]
        for name, value in headers:
            out += (name, b": ", value, b"\r\n")
        out.append(b"connection: close\r\n\r\n" if self.closing else b"\r\n")
        return b"".join(out)

    cdef bytes _defaults(self):
        """The server's own lines; a worker that retires parts with its clients."""
        cdef Hall hall = self.hall
        cdef bytes lines = hall.lines(self.server_state.default_headers)
        if hall.retiring:
            self.closing = True
        return lines

    cdef int _write(self, list parts) except -1:
        cdef Py_ssize_t total = 0
        cdef bytes part
        for part in parts:
            total += PyBytes_GET_SIZE(part)
        if total <= JOIN_BELOW:
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines(parts)
        return 0
