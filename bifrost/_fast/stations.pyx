# cython: freethreading_compatible=True
"""The stations a usual call passes on its way out and back, on the wire: heads and frames.

What leaves for a provider, what is read of its answer's head, and the lines the client gets. Which
lane, price and key it is, is decided elsewhere. A compiled leaf.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from .call cimport Call
from .desk cimport LaneBase
from .timing cimport now_mono
from .wire cimport Tap, named

from .wire import rewrite

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "head.h":
    enum:
        FORWARD
    ctypedef struct head_rule:
        pass
    const head_rule *head_responses
    const head_rule *head_response_starts
    int head_role(const head_rule *, const head_rule *, const char *, size_t)
    bint head_lower(const char *, size_t, char *)
    bint head_clean(const char *, size_t)

cdef extern from "head_out.h" nogil:
    ctypedef struct out:
        char *at
        char *end
        bint full
    void out_raw(out *, const char *text, size_t size)
    void out_lit(out *, const char *)
    void out_int(out *, int64_t)
    void out_usd(out *, int64_t)
    void out_instant(out *, int64_t ns)
    void out_hex(out *, uint64_t)
    void out_line(out *, const void *name, size_t size, const void *value, size_t length)

cdef enum:
    NAME = 256                  # bytes of a header's name that a client may see
    OWN = 512                   # bytes of the lines that are our own, the request id and lane aside
    NEAR = 8192                 # bytes of a head that need no memory of their own


cdef inline void _bytes(out *o, bytes text) noexcept:
    out_raw(o, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef int _text(out *o, str text) except -1:
    cdef Py_ssize_t size
    cdef const char *at = PyUnicode_AsUTF8AndSize(text, &size)
    out_raw(o, at, size)
    return 0


cdef Py_ssize_t _room(list headers) except -1:
    """Bytes that the lines of these headers need."""
    cdef Py_ssize_t size = 0
    cdef bytes name, value
    for name, value in headers:
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
    return size


cdef int _shown(out *o, list headers) except -1:
    """The lines of a provider's headers that the client may see; the framing is the gateway's."""
    cdef char lower[NAME]
    cdef bytes name, value
    cdef set hops = named(headers)
    cdef Py_ssize_t size
    for name, value in headers:
        size = PyBytes_GET_SIZE(name)
        if size > NAME or not head_lower(PyBytes_AS_STRING(name), size, lower):
            continue
        if not head_clean(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)):
            continue
        if head_role(head_responses, head_response_starts, lower, size) != FORWARD:
            continue
        if size == 14 and not memcmp(lower, b"content-length", 14):
            continue
        if hops is None or lower[:size] not in hops:
            out_line(o, lower, size, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return 0


cdef void _budget(out *o, int64_t left, int64_t resets_ns) noexcept:
    if left >= 0:
        out_lit(o, b"x-bf-budget-remaining-usd: ")
        out_usd(o, left)
        out_lit(o, b"\r\nx-bf-budget-reset: ")
        out_instant(o, resets_ns)
        out_lit(o, b"\r\n")


def visible(list headers not None):
    """The lines of a provider's response headers that a client may see, names in lower case.

    A header whose name is no token or whose value holds CR, LF or NUL is left out, and so is the
    content length, which whoever sends the body states.
    """
    cdef out o
    cdef Py_ssize_t room = _room(headers)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, room)
    o.at, o.end, o.full = PyBytes_AS_STRING(made), PyBytes_AS_STRING(made) + room, False
    _shown(&o, headers)
    return made[:o.at - PyBytes_AS_STRING(made)]


def budget_lines(int64_t left, int64_t resets_ns):
    """What a budget has left (nano-USD; below 0: there is none) and when its window ends."""
    cdef char near[OWN]
    cdef out o
    o.at, o.end, o.full = near, near + OWN, False
    _budget(&o, left, resets_ns)
    return near[:o.at - near]


cdef bytes framed(bytes lead, bytes chunk, bint last):
    """A piece of an answer in chunks, with what goes before it (None: nothing), in one object."""
    cdef char size[24]
    cdef out o
    cdef Py_ssize_t before = PyBytes_GET_SIZE(lead) if lead is not None else 0
    cdef Py_ssize_t length = PyBytes_GET_SIZE(chunk)
    cdef bytes made
    o.at, o.end, o.full = size, size + 24, False
    if length:
        out_hex(&o, length)
        out_raw(&o, b"\r\n", 2)
    cdef Py_ssize_t digits = o.at - size
    cdef Py_ssize_t total = before + digits + length + (2 if length else 0) + (5 if last else 0)
    made = PyBytes_FromStringAndSize(NULL, total)
    o.at = PyBytes_AS_STRING(made)
    o.end = o.at + total
    if before:
        _bytes(&o, lead)
    if length:
        out_raw(&o, size, digits)
        _bytes(&o, chunk)
        out_raw(&o, b"\r\n", 2)
    if last:
        out_raw(&o, b"0\r\n\r\n", 5)
    return made


@cython.final
cdef class Stations:
    """What every call passes on the wire; ``debug_headers`` adds the gateway's own time."""

    def __init__(self, *, bint debug_headers=False):
        self.debug_headers = debug_headers

    cpdef list outgoing(self, Call call, bytes target):
        """The request as it leaves for the provider of the call's lane: head and body."""
        cdef LaneBase lane = <LaneBase>call.lane
        cdef bytes body = call.body
        cdef bytes forward = call.head.forward
        cdef bytes made, signed
        cdef out o
        cdef Py_ssize_t size, room
        if lane.renamed is not None or call.output_limit:
            body = rewrite(body, call.scan, lane.renamed, call.output_limit or None)
        if len(lane.signed) > 1:
            call.key_index = lane.host.pick()
        signed = lane.signed[call.key_index]
        PyUnicode_AsUTF8AndSize(call.request_id, &size)
        room = (PyBytes_GET_SIZE(lane.start) + PyBytes_GET_SIZE(target) + PyBytes_GET_SIZE(signed)
                + size + PyBytes_GET_SIZE(forward) + 64)
        made = PyBytes_FromStringAndSize(NULL, room)
        o.at, o.end, o.full = PyBytes_AS_STRING(made), PyBytes_AS_STRING(made) + room, False
        _bytes(&o, lane.start)
        _bytes(&o, target)
        _bytes(&o, signed)
        _text(&o, call.request_id)
        out_lit(&o, b"\r\n")
        _bytes(&o, forward)
        out_lit(&o, b"content-length: ")
        out_int(&o, PyBytes_GET_SIZE(body))
        out_lit(&o, b"\r\n\r\n")
        call.sent_upstream = True
        call.sent = now_mono()
        return [made[:o.at - PyBytes_AS_STRING(made)], body]

    cpdef bint answered(self, Call call) except -1:
        """The head of the provider's answer is there; whether it is a stream of events."""
        cdef bytes name, value
        cdef Py_ssize_t size
        cdef bint stream = False, typed = False
        call.first_byte = call.last_byte = now_mono()
        exchange = call.exchange
        call.status = exchange.status
        for name, value in exchange.headers:
            size = PyBytes_GET_SIZE(name)
            if size == 10:
                if name == b"request-id":
                    call.upstream_request = value.decode("latin-1")
            elif size == 12 and not typed and name == b"content-type":
                typed, stream = True, value.startswith(b"text/event-stream")
            elif size == 16 and name == b"content-encoding":
                call.encoding = value
        return stream and call.status == 200

    cpdef bint passed(self, Call call, bytes chunk) except -1:
        """Sees a piece of a stream before it goes on; whether the call is now due to be settled."""
        cdef Tap tap = <Tap>call.tap
        call.last_byte = now_mono()
        tap.feed(chunk)
        return tap.stopped and not call.settled

    def headers(self, Call call, int64_t cost, int64_t left, int64_t resets_ns):
        """The same lines as a list, for a server that writes heads by itself."""
        cdef bytes line
        cdef list lines = self._lines(call, b"", b"", cost, left, resets_ns, -2, False).split(
            b"\r\n")
        lines.pop()     # nothing, behind the last end
        return [tuple(line.split(b": ", 1)) for line in lines]

    cdef bytes head(self, Call call, bytes lead, bytes more, int64_t cost, Py_ssize_t length,
                    bint closing):
        """The head of an admitted call's answer, behind its status line and the server's lines.

        ``cost`` in nano-USD, below 0 while it is not known; ``length`` of the body, -1 for chunks.
        """
        return self._lines(call, lead, more, cost, call.ticket.remaining, call.ticket.resets_ns,
                           length, closing)

    cdef bytes _lines(self, Call call, bytes lead, bytes more, int64_t cost, int64_t left,
                      int64_t resets_ns, Py_ssize_t length, bint closing):
        cdef LaneBase lane = <LaneBase>call.lane
        cdef char near[NEAR]
        cdef char *base = near
        cdef out o
        cdef list headers = call.exchange.headers
        cdef Py_ssize_t room = (
            _room(headers) + PyBytes_GET_SIZE(lane.shown) + PyBytes_GET_SIZE(lead)
            + PyBytes_GET_SIZE(more) + 4 * len(call.request_id) + OWN)
        if room > NEAR:
            base = <char *>malloc(room)
            if base == NULL:
                raise MemoryError()
        o.at, o.end, o.full = base, base + room, False
        try:
            _bytes(&o, lead)
            _bytes(&o, more)
            _shown(&o, headers)
            out_lit(&o, b"x-request-id: ")
            _text(&o, call.request_id)
            out_lit(&o, b"\r\n")
            _bytes(&o, lane.shown)
            _budget(&o, left, resets_ns)
            if call.output_limit:
                out_lit(&o, b"x-bf-output-limit: ")
                out_int(&o, call.output_limit)
                out_lit(&o, b"\r\n")
            if self.debug_headers:
                out_lit(&o, b"x-bf-overhead-us: ")
                out_int(&o, (call.sent - call.began + now_mono() - call.first_byte) // 1000)
                out_lit(&o, b"\r\n")
            if cost >= 0:
                out_lit(&o, b"x-bf-cost-usd: ")
                out_usd(&o, cost)
                out_lit(&o, b"\r\n")
            if length >= 0:
                out_lit(&o, b"content-length: ")
                out_int(&o, length)
                out_lit(&o, b"\r\n")
            elif length == -1:
                out_lit(&o, b"transfer-encoding: chunked\r\n")
            if closing:
                out_lit(&o, b"connection: close\r\n")
            if length >= -1:
                out_lit(&o, b"\r\n")
            return base[:o.at - base]
        finally:
            if base != near:
                free(base)
