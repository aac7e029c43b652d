"""The receiving half of a listener's connection: requests come in, up to the end of their bodies.

A request on a hot route is read into the bytes that leave for the provider, and offered to the
listener whole. Everything else goes, byte for byte as it came, to uvicorn's own protocol and so to
the app; so does what the listener declines. Heads are parsed by llhttp (through httptools).
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

from httptools import HttpRequestParser

from .client cimport Follower, monotonic
from .hall cimport Hall

cdef extern from *:
    """
    #include <stddef.h>
    extern void *memmem(const void *, size_t, const void *, size_t);
    """
    void *memmem(const void *, size_t, const void *, size_t) noexcept nogil

cdef enum:
    MOST_HEAD = 65_536          # bytes; whatever is longer is not for us to refuse
    MOST_HEADERS = 256
    MOST_HELD = 65_536          # bytes of pipelined requests before reading pauses
    FIRST = 16_384              # bytes that a read takes in whose meaning is not known yet
    ROOM = 1_048_576            # bytes of a body that are made room for before any has come

cdef char _scratch[262_144]     # what is read, until the callback that it is for returns


cdef Py_ssize_t _blank_line(bytes data) noexcept:
    """Where the end of a head begins, -1 if it is not there."""
    cdef const char *start = PyBytes_AS_STRING(data)
    cdef const char *found = <const char *>memmem(start, PyBytes_GET_SIZE(data), b"\r\n\r\n", 4)
    return found - start if found != NULL else -1


cdef Py_ssize_t _decimal(bytes value) noexcept:
    """A number of at most 12 digits; -1 for anything else."""
    cdef const char *p = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value), found = 0, i
    if not 0 < size <= 12:
        return -1
    for i in range(size):
        if not c"0" <= p[i] <= c"9":
            return -1
        found = found * 10 + (p[i] - c"0")
    return found


cdef bint _is_1_1(bytes head) except -1:
    """Whether the first line ends with that version; the parser has seen that it is one."""
    cdef const char *start = PyBytes_AS_STRING(head)
    cdef const char *end = <const char *>memchr(start, 13, PyBytes_GET_SIZE(head))
    return end != NULL and end - start > 8 and memcmp(end - 8, b"HTTP/1.1", 8) == 0


cdef class Receiver(Follower):
    """What a connection has to do with requests that come in."""

    cdef bint admit(self, bytes body) except -1:
        """Takes a whole request over, its head being in ``headers``; False when it is not for us."""
        return False

    def get_buffer(self, hint):
        return self

    def __getbuffer__(self, Py_buffer *view, int flags):
        """Where the transport puts what it reads next: into the body, if that is what comes."""
        if self.state == BODY:
            PyBuffer_FillInfo(view, self, PyBytes_AS_STRING(self.body) + self.filled,
                              PyBytes_GET_SIZE(self.body) - self.filled, False, flags)
        else:
            PyBuffer_FillInfo(view, self, _scratch, FIRST if self.state < BODY else sizeof(_scratch),
                              False, flags)

    def buffer_updated(self, Py_ssize_t size):
        if self.state == BODY:
            self.touched = monotonic()
            self._filled(size)
        else:
            self.data_received(PyBytes_FromStringAndSize(_scratch, size))

    def data_received(self, bytes data):
        self.touched = monotonic()
        if self.state == ASGI:
            if not self.cold.free():
                self.cold.data_received(data)
                return
            self.cold._unset_keepalive_if_required()
            self.state = IDLE
        if self.state == BUSY:
            self.held = data if self.held is None else self.held + data
            if PyBytes_GET_SIZE(self.held) > MOST_HELD and not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()
            return
        if self.state == BODY:
            self._take(data, 0)
        else:
            self._feed(data)

    cdef int _feed(self, bytes data) except -1:
        """Takes bytes of a request up to the end of its head."""
        cdef Py_ssize_t end
        if self.head is not None:
            data, self.head = self.head + data, None
        end = _blank_line(data)
        if end < 0:
            if self.state == IDLE:
                data = data.lstrip(b"\r\n")     # empty lines before a request mean nothing
                if not data:
                    return 0
                self.state, self.began = HEAD, self.touched
            if PyBytes_GET_SIZE(data) > MOST_HEAD:
                self._cool(data)
            else:
                self.head = data
            return 0
        self._begin(data, end + 4)
        return 0

    cdef int _begin(self, bytes data, Py_ssize_t end) except -1:
        """The head is there: hot requests get a body, everything else goes to uvicorn."""
        cdef bytes head = data if end == PyBytes_GET_SIZE(data) else data[:end]
        self.headers = []
        self.url = b""
        self.length = -1
        self.unusual = self.headed = False
        self.parser = HttpRequestParser(self)
        try:
            self.parser.feed_data(head)
        except Exception:
            self.unusual = True
        if end > MOST_HEAD or not _is_1_1(head) or not self._hot():
            self._cool(data)
            return 0
        self.raw = head
        self.state, self.filled = BODY, 0
        self.body = PyBytes_FromStringAndSize(NULL, min(self.length, ROOM))
        self._take(data, end)
        return 0

    cdef int _take(self, bytes data, Py_ssize_t start) except -1:
        """Takes bytes of a body from there on, and keeps what comes behind it."""
        cdef Py_ssize_t size
        while True:
            size = min(PyBytes_GET_SIZE(data) - start, PyBytes_GET_SIZE(self.body) - self.filled)
            memcpy(PyBytes_AS_STRING(self.body) + self.filled, PyBytes_AS_STRING(data) + start, size)
            start += size
            if self.filled + size == self.length:
                self.held = data[start:] if start < PyBytes_GET_SIZE(data) else None
            self._filled(size)
            if self.state != BODY or start == PyBytes_GET_SIZE(data):
                return 0

    cdef int _filled(self, Py_ssize_t size) except -1:
        """So many bytes more of the body are there."""
        cdef bytes more
        self.filled += size
        if self.filled == self.length:
            self._read_whole()
        elif self.filled == PyBytes_GET_SIZE(self.body):
            more = PyBytes_FromStringAndSize(NULL, min(self.length, 4 * self.filled))
            memcpy(PyBytes_AS_STRING(more), PyBytes_AS_STRING(self.body), self.filled)
            self.body = more
        return 0

    cdef bint _hot(self) except -1:
        cdef Hall hall = self.hall
        cdef bytes path = self.url
        cdef Py_ssize_t mark
        if self.unusual or not self.headed or self.length < 0:
            return False
        if self.length > hall.max_body_bytes or len(self.headers) > MOST_HEADERS:
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or not parser.should_keep_alive():
            return False
        mark = path.find(b"?")
        self.query = b""
        if mark >= 0:
            self.query, path = path[mark:], path[:mark]
            if self.query.find(b"key=") >= 0 or self.query.find(b"#") >= 0:
                return False        # a credential; not for a provider
        self.target = hall.targets.get(path)
        return self.target is not None

    def on_url(self, bytes url):
        self.url += url

    def on_header(self, bytes name, bytes value):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
        self.headers.append((name, value))
        if size == 14:
            if name.lower() == b"content-length":
                self.unusual |= self.length >= 0
                self.length = _decimal(value)
                self.unusual |= self.length < 0
        elif size == 6 or size == 7 or size == 16 or size == 17:
            self.unusual |= name.lower() in (
                b"expect", b"upgrade", b"content-encoding", b"transfer-encoding")

    def on_headers_complete(self):
        self.headed = True

    def on_body(self, bytes data):
        self.unusual = True         # the head ended before the blank line that was looked for

    cdef int _read_whole(self) except -1:
        """The request is complete; what follows it waits."""
        cdef bytes body = self.body
        self.body = None
        self.state = BUSY
        if not self.admit(body):
            rest, self.held = self.held, None
            raw, self.raw = self.raw, None
            self._cool(raw + body if rest is None else raw + body + rest)
        return 0

    cdef int _cool(self, bytes data) except -1:
        """Leaves this request, as it came, and what follows it to uvicorn's protocol."""
        self._chill()
        self.cold.data_received(data)
        if self.closing:
            self.cold.shutdown()
        return 0

    cdef int _chill(self) except -1:
        """From now on uvicorn's protocol has the word."""
        if self.cold is None:
            self.cold = self.hall.cold(self.config, self.server_state, self.app_state, self.loop)
            self.cold.connection_made(self.transport)
            self.server_state.connections.discard(self.cold)    # we speak for it
            if self.write_paused:
                self.cold.pause_writing()
        self.state = ASGI
        self.head = self.raw = self.parser = self.headers = self.body = None
        return 0
