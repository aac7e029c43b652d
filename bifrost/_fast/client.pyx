"""HTTP/1.1 client of one origin: a keep-alive pool over asyncio or uvloop transports.

Responses are parsed by httptools (llhttp). A request is the bytes of its head and body, complete
and correct: nothing is added. HEAD requests and upgrades are not supported.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as tls
from collections import deque
from contextlib import suppress

from httptools import HttpResponseParser


WAKE = bytes(bytearray(b"wake"))  # a unique object: compare with ``is``

# A model may think for minutes in silence; without probes a NAT forgets such a connection
# (AWS NAT gateways after 350 s).
cdef list KEEPALIVE_PROBES = [
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
]


class ClientError(Exception):
    """A failed exchange; the text is a phrase whose subject is the origin.

    ``sent`` is False only if no byte of the request can have reached the origin.
    """

    def __init__(self, message, *, sent=False, phase=None):
        super().__init__(message)
        self.sent = sent
        self.phase = phase


class ConnectFailed(ClientError):
    """No connection could be made, or its certificate does not verify."""


class Timeout(ClientError):
    """``phase`` is "pool", "connect", "first_byte" or "idle"."""


class Broken(ClientError):
    """The connection was closed, reset, cancelled, or carried something that is not HTTP."""


cdef class Follower:
    def hear(self):
        """``moved``, for the event loop."""
        self.moved()

    cdef int moved(self) except -1:
        return 0

    cdef int silent(self) except -1:
        return 0


cdef class Exchange:
    """One request and its response; whoever got it reads to the end or calls ``cancel``."""

    def __init__(self):
        raise TypeError("an Exchange comes from Pool.send()")

    cdef int follow(self, Follower follower) except -1:
        """Tells ``follower`` from now on; what is there already it must look at by itself."""
        self._follower = follower
        return 0

    async def read(self):
        """Next body bytes; ``b""`` at the complete end; ``WAKE`` if ``wake()`` came first."""
        data = self.read_nowait()
        while data is None:
            if self._waiter is not None:
                raise RuntimeError("another task is already reading this response")
            self._woken = False
            self._waiter = self._pool._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            data = self.read_nowait()
            if data is None and self._woken:
                data = WAKE
        return data

    cpdef object read_nowait(self):
        """What is buffered; ``b""`` at the complete end; None if a read would wait."""
        cdef list chunks = self._chunks
        if chunks:
            data = b"".join(chunks)  # a single one is not copied
            chunks.clear()
            self._buffered = 0
            if self._conn is not None and self._conn.paused:
                self._deadline = monotonic() + self._pool._idle_timeout
                self._conn.paused = False
                self._conn.transport.resume_reading()
            return data
        if self.complete:
            return b""
        if self._failure is not None:
            raise self._pool.raised(self.error())
        return None

    async def read_all(self, Py_ssize_t limit):
        """The whole body; over ``limit`` bytes it is cancelled and reported as broken."""
        cdef list parts = []
        cdef Py_ssize_t total = 0
        while data := await self.read():
            if data is WAKE:
                continue
            total += len(data)
            if total > limit:
                self.cancel()
                text = f"sent a response of more than {limit} bytes"
                raise self._pool.raised(Broken(text, sent=True))
            parts.append(data)
        return b"".join(parts)

    cpdef object cancel(self):
        """Close the connection now and drop what was not read; nothing after the end."""
        cdef Connection conn = self._conn
        self._follower = None
        if conn is not None:
            self._chunks.clear()
            self.fail(Broken, "was cut off by the gateway")
            conn.abort()

    cpdef object wake(self):
        """Let a waiting ``read()`` return ``WAKE``; nothing happens if nobody waits."""
        if self._follower is not None:
            self._follower.silent()
        elif self._waiter is not None and self._head_done:
            self._woken = True
            settle(self._waiter)

    cdef int finish(self) except -1:
        self.complete = True
        self._conn.exchange = None
        self._conn = None
        self._pool.active -= 1
        return settle(self._waiter)

    cdef int fail(self, object kind, str text, str phase=None) except -1:
        # Not an exception object yet: a stored one would hold frames that hold this exchange.
        if self._conn is None:
            return 0
        self._failure = (kind, text, phase)
        self._conn.exchange = None
        self._conn = None
        self._pool.active -= 1
        if self._follower is not None:
            self._pool._loop.call_soon(self._follower.hear)
        return settle(self._waiter)

    cdef object error(self):
        kind, text, phase = self._failure
        return kind(text, sent=True, phase=phase)


cdef class Connection:
    """One transport with its parser; belongs to one exchange at a time."""

    def connection_made(self, transport):
        self.transport = transport
        if self.dead:  # given up while it was being made
            transport.abort()
            return
        self.parser = HttpResponseParser(self)
        sock = transport.get_extra_info("socket")
        with suppress(OSError):  # a connection already reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE_PROBES:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data):
        cdef Exchange exchange = self.exchange
        if exchange is None:  # nobody asked
            self.abort()
            return
        exchange._touched = True
        if exchange._head_done:
            exchange._deadline = monotonic() + self.pool._idle_timeout
        else:
            self.head_size += len(data)
        parser = self.parser
        try:
            parser.feed_data(data)
        except Exception as error:
            self.keep = False
            exchange.fail(Broken, f"sent a malformed response ({error})")
        if not exchange._head_done and self.head_size > MAX_HEAD:
            exchange.fail(Broken, f"sent more than {MAX_HEAD} bytes of headers")
        if exchange.complete:
            self.pool.finished(self)
        elif self.exchange is None:
            self.abort()
            return
        if exchange._follower is not None:
            exchange._follower.moved()
        if self.exchange is exchange and exchange._buffered > self.pool._high_water:
            exchange._deadline = 0
            if not self.paused:
                self.paused = True
                self.transport.pause_reading()

    def eof_received(self):
        self.lost(None)

    def connection_lost(self, error):
        self.transport = None
        self.lost(error)

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    def on_message_begin(self):
        self.headers = []
        if self.exchange is None:  # bytes after the end of the response
            self.keep = False

    def on_header(self, bytes name, bytes value):
        if self.headers is not None:  # else a trailer
            self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self):
        cdef Exchange exchange = self.exchange
        cdef int status = self.parser.get_status_code()
        if exchange is None or status < 200:
            return
        self.keep = self.parser.should_keep_alive()
        if not self.keep and status != 204 and status != 304:
            # As in RFC 9112 §6.3; the parser refuses contradictory lengths.
            lengths = dict(self.headers)
            coding = lengths.get(b"transfer-encoding", b"").lower()
            self.until_eof = not (b"content-length" in lengths or coding.endswith(b"chunked"))
        exchange.status = status
        exchange.headers = self.headers
        self.headers = None
        exchange._head_done = True
        exchange._deadline = monotonic() + self.pool._idle_timeout
        settle(exchange._waiter)

    def on_body(self, bytes data):
        cdef Exchange exchange = self.exchange
        if exchange is not None:
            exchange._chunks.append(data)
            exchange._buffered += len(data)
            exchange.received += len(data)
            settle(exchange._waiter)

    def on_message_complete(self):
        cdef Exchange exchange = self.exchange
        if exchange is None or not exchange._head_done:  # an interim response
            return
        if self.transport.get_write_buffer_size():
            exchange.early = True
            self.keep = False
        exchange.finish()

    cdef Exchange begin(self, list request, Follower follower):
        cdef Exchange exchange = Exchange.__new__(Exchange)
        cdef Py_ssize_t total = 0
        for part in request:
            total += len(part)
        exchange._pool = self.pool
        exchange._conn = self
        exchange._follower = follower
        if follower is None:
            exchange._waiter = self.pool._loop.create_future()
        exchange._chunks = []
        exchange._unwritten = total
        exchange._begun = monotonic()
        exchange._deadline = exchange._begun + self.pool._first_byte_timeout
        self.exchange = exchange
        self.head_size = 0
        self.until_eof = False
        self.pool.active += 1
        try:
            if total <= JOIN_BELOW:
                self.transport.write(b"".join(request))
            else:
                self.transport.writelines(request)
        except (OSError, RuntimeError):
            self.lost(None)
        return exchange

    cdef int check(self, double now) except -1:
        """Fail the exchange whose deadline has passed; a request still flowing out gets more."""
        cdef Exchange exchange = self.exchange
        cdef Py_ssize_t unwritten
        if exchange is None or exchange._deadline == 0:
            return 0
        if not exchange._head_done:
            unwritten = self.transport.get_write_buffer_size()
            if unwritten != exchange._unwritten:
                exchange._unwritten = unwritten
                exchange._deadline = now + self.pool._first_byte_timeout
        if now >= exchange._deadline:
            if exchange._head_done:
                text = f"sent nothing for {self.pool._idle_timeout:g} s in the middle of a response"
                exchange.fail(Timeout, text, "idle")
            else:
                text = f"did not answer within {self.pool._first_byte_timeout:g} s"
                exchange.fail(Timeout, text, "first_byte")
            self.abort()
        return 0

    cdef int lost(self, object error) except -1:
        cdef Exchange exchange = self.exchange
        if self.dead:
            return 0
        if exchange is not None:
            if self.until_eof and exchange._head_done and error is None:
                exchange.finish()
                if exchange._follower is not None:
                    self.pool._loop.call_soon(exchange._follower.hear)
            else:
                exchange._stale = (
                    self.reused and not exchange._touched
                    and monotonic() - exchange._begun < STALE_S
                )
                where = "in the middle of" if exchange._head_done else "without"
                exchange.fail(Broken, f"closed the connection {where} a response")
        return self.abort()

    cdef int abort(self) except -1:
        self.dead = True
        self.parser = None  # it holds this object's methods: a cycle
        if self.adopted:
            self.adopted = False
            self.pool.removed(self)
        if self.transport is not None:
            self.transport.abort()
        return 0


cdef class Waiter:
    """A send() in the queue for a connection or for the right to open one."""


cdef class Pool:
    """Connections to one origin. Times in seconds, sizes in bytes; bound to the first loop used.

    ``error`` turns a ClientError into what is raised instead.
    """

    def __init__(
        self, str host, int port, *, ssl=None, server_hostname=None,
        int max_connections=1000, int max_idle=64, double idle_close_s=60.0,
        double connect_timeout_s=10.0, double first_byte_timeout_s=600.0,
        double idle_timeout_s=300.0, int retries=2, Py_ssize_t high_water=262144, error=None,
    ):
        self.host = host
        self.port = port
        self._tls = {"ssl": ssl, "server_hostname": server_hostname}
        self._error = error
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._idle_close = idle_close_s
        self._connect_timeout = connect_timeout_s
        self._first_byte_timeout = first_byte_timeout_s
        self._idle_timeout = idle_timeout_s
        self._retries = retries
        self._high_water = high_water
        smallest = min(idle_close_s, connect_timeout_s, first_byte_timeout_s, idle_timeout_s)
        self._interval = max(0.01, min(0.25, smallest / 4))
        self._conns = set()
        self._idle = []
        self._waiters = deque()
        self.opened_total = self.reused_total = 0

    @property
    def idle(self):
        return len(self._idle)

    @property
    def waiting(self):
        """Sends queued for a connection."""
        return len(self._waiters)

    async def send(self, list request, bint again=False):
        """Send ``[head, body]`` and return once the response's head is there.

        Raises ClientError. A request that met a dying kept connection is sent once more; ``again``
        says that this is that time. A CancelledError from before it was sent is marked ``unsent``.
        """
        cdef Connection conn
        cdef Exchange exchange
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        try:
            while True:
                if self._closed:
                    raise ConnectFailed("is no longer used by the gateway")
                if self._idle and not again:
                    conn = self._idle.pop()
                    self.reused_total += 1
                else:
                    try:
                        conn = await self._obtain(again)
                    except asyncio.CancelledError as gone:
                        gone.unsent = not again
                        raise
                self.start_timer()
                exchange = conn.begin(request, None)
                try:
                    await exchange._waiter
                except BaseException:
                    exchange.cancel()
                    raise
                exchange._waiter = None
                if exchange._head_done:
                    return exchange
                if again or not exchange._stale:
                    raise exchange.error()
                again = True
        except ClientError as error:
            if again:
                error.sent = True
            raise self.raised(error) from None

    cdef Exchange start(self, list request, Follower follower):
        """Send on a kept connection and tell ``follower``; None if there is none to spare."""
        cdef Connection conn
        if self._closed or not self._idle:
            return None
        conn = self._idle.pop()
        self.reused_total += 1
        self.start_timer()
        return conn.begin(request, follower)

    def close(self):
        """Close everything now: exchanges in flight break, later sends are refused."""
        cdef Connection conn
        cdef Waiter waiter
        self._closed = True
        for waiter in self._waiters:
            waiter.failure = ConnectFailed("is no longer used by the gateway")
            settle(waiter.future)
        self._waiters.clear()
        for conn in list(self._conns):
            if conn.exchange is not None:
                conn.exchange.fail(Broken, "was cut off because the gateway closed its pool")
            conn.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drain(self, double timeout):
        """Stop keeping connections, wait for exchanges in flight, then ``close()``."""
        self._retired = True
        while self._idle:
            (<Connection>self._idle[0]).abort()
        if self.open:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=timeout)
        self.close()

    async def _obtain(self, bint fresh):
        """A connection from the queue or a new one; it holds a slot of the pool."""
        cdef Waiter waiter
        if self.open >= self._max_connections and fresh and self._idle:
            (<Connection>self._idle[0]).abort()
        if self.open < self._max_connections and not self._waiters:
            self.open += 1
            return await self._connect()
        waiter = Waiter.__new__(Waiter)
        waiter.fresh = fresh
        waiter.deadline = monotonic() + self._connect_timeout
        while True:
            waiter.future = self._loop.create_future()
            (self._waiters.appendleft if fresh else self._waiters.append)(waiter)
            self.start_timer()
            try:
                await waiter.future
            except BaseException:
                self.withdraw(waiter)
                raise
            if waiter.failure is not None:
                raise waiter.failure
            if waiter.granted:
                return await self._connect()
            if not waiter.conn.dead:
                self.reused_total += 1
                return waiter.conn
            waiter.conn = None  # it died on the way here: back to the head of the queue
            fresh = True

    cdef int withdraw(self, Waiter waiter) except -1:
        """A queued send was cancelled, maybe after it had been served."""
        if waiter.granted:
            waiter.granted = False
            self.freed()
        elif waiter.conn is not None:
            self.offer(waiter.conn)
        elif waiter in self._waiters:
            self._waiters.remove(waiter)
        return 0

    async def _connect(self):
        """Open a connection in a slot already counted; all tries share one time limit."""
        cdef Connection conn
        try:
            async with asyncio.timeout(self._connect_timeout):
                conn = await self._try_connect()
            if self._closed:
                conn.abort()
                raise ConnectFailed("is no longer used by the gateway")
        except TimeoutError:
            self.freed()
            text = f"did not accept a connection within {self._connect_timeout:g} s"
            raise Timeout(text, phase="connect") from None
        except BaseException:
            self.freed()
            raise
        conn.adopted = True
        self._conns.add(conn)
        self.opened_total += 1
        return conn

    async def _try_connect(self):
        cdef Connection conn
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(0.05 if attempt == 1 else 0.2)
            made = conn = Connection.__new__(Connection)
            conn.pool = self
            try:
                await self._loop.create_connection(lambda: made, self.host, self.port, **self._tls)
                if not conn.dead:
                    return conn
                failure = "closed the connection at once"
            except tls.SSLCertVerificationError as error:
                text = f"has a certificate that does not verify ({error.verify_message})"
                raise ConnectFailed(text) from None
            except OSError as error:
                failure = connect_failure(error)
            except BaseException:
                conn.abort()
                raise
        raise ConnectFailed(failure)

    cdef int finished(self, Connection conn) except -1:
        """The exchange on this connection ended well."""
        if not conn.keep or conn.dead:
            return conn.abort()
        if conn.paused:
            conn.paused = False
            conn.transport.resume_reading()
        conn.reused = True
        return self.offer(conn)

    cdef int offer(self, Connection conn) except -1:
        cdef Waiter waiter
        if conn.dead:
            return 0
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.fresh:
                return conn.abort()  # its slot goes to that waiter
            self._waiters.popleft()
            if not waiter.future.done():
                waiter.conn = conn
                return settle(waiter.future)
        if self._retired or self._max_idle <= 0:
            return conn.abort()
        if len(self._idle) >= self._max_idle:
            (<Connection>self._idle[0]).abort()
        conn.idle_since = monotonic()
        self._idle.append(conn)
        return 0

    cdef int removed(self, Connection conn) except -1:
        self._conns.discard(conn)
        if conn.exchange is None and conn in self._idle:
            self._idle.remove(conn)
        return self.freed()

    cdef int freed(self) except -1:
        """A slot is free: the first in the queue gets it."""
        cdef Waiter waiter
        self.open -= 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                waiter.granted = True
                self.open += 1
                return settle(waiter.future)
        if self.open == 0 and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        return 0

    cdef object raised(self, object error):
        return error if self._error is None else self._error(error)

    cdef int start_timer(self) except -1:
        if self._timer is not None:
            if not self._slow_timer:
                return 0
            self._timer.cancel()
        self._slow_timer = False
        self._timer = self._loop.call_later(self._interval, self._tick)
        return 0

    def _tick(self):
        cdef Connection conn
        cdef Waiter waiter
        cdef double now = monotonic()
        self._timer = None
        for conn in list(self._conns):
            conn.check(now)
        for waiter in list(self._waiters):
            if now >= waiter.deadline:
                self._waiters.remove(waiter)
                text = (f"has all {self._max_connections} connections busy and none came free"
                        f" within {self._connect_timeout:g} s")
                waiter.failure = Timeout(text, phase="pool")
                settle(waiter.future)
        while self._idle and now >= (<Connection>self._idle[0]).idle_since + self._idle_close:
            (<Connection>self._idle[0]).abort()
        if self.active or self._waiters:
            self.start_timer()
        elif self._idle:
            conn = self._idle[0]
            self._slow_timer = True
            wait = max(self._interval, conn.idle_since + self._idle_close - now)
            self._timer = self._loop.call_later(wait, self._tick)


cdef str connect_failure(object error):
    if isinstance(error, tls.SSLError):
        return f"could not agree on TLS ({error.reason or 'handshake failed'})"
    if error.errno is not None and error.errno > 0:
        return f"could not be reached ({os.strerror(error.errno)})"
    return f"could not be reached ({error.strerror or error})"  # strerror of a failed look-up
