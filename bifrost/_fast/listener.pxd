# Attributes and internal methods of listener.pyx.
from libc.stdint cimport int64_t

from .call cimport Call
from .client cimport Exchange, Follower
from .hall cimport Hall


cdef class Listener(Follower):
    cdef object config, server_state, app_state, loop, transport, parser, cold, task, doubt
    cdef Hall hall
    cdef object proxies, host           # who judged the peer, and its address
    cdef bytes peer                     # what events say of it
    cdef bint trusted                   # it speaks for others
    cdef int state
    cdef double touched                 # when something happened last
    cdef double began                   # when the first byte of an incomplete head came
    cdef bint lost, closing, write_paused, read_paused
    # the request that comes in
    cdef bytes head                     # its beginning, while the rest is missing
    cdef bytes raw, url, query, target
    cdef list headers
    cdef bytes body                     # written to while it is nobody else's
    cdef Py_ssize_t length, filled
    cdef bint unusual, headed
    cdef bytes held                     # what came behind it
    # the call under way
    cdef Call call
    cdef Exchange exchange
    cdef list request                   # until the provider answers
    cdef list parts                     # of an answer that goes out whole
    cdef Py_ssize_t gathered            # bytes in them
    cdef bytes opening                  # head of a stream that waits for its first piece
    cdef bint answering, streaming

    cdef int _feed(self, bytes data) except -1
    cdef int _begin(self, bytes data, Py_ssize_t end) except -1
    cdef bint _hot(self) except -1
    cdef int _take(self, bytes data, Py_ssize_t start) except -1
    cdef int _filled(self, Py_ssize_t size) except -1
    cdef int _read_whole(self) except -1
    cdef int _cool(self, bytes data) except -1
    cdef int _chill(self) except -1
    cdef bint _admit(self, bytes body) except -1
    cdef bytes _client(self)
    cdef int _move(self, Exchange exchange) except -1
    cdef int _gather(self, Exchange exchange) except -1
    cdef int _answer(self, bytes body) except -1
    cdef int _pass(self, Exchange exchange) except -1
    cdef int _fail(self, error) except -1
    cdef int _leave(self) except -1
    cdef int _done(self) except -1
    cdef bint _over(self) except -1
    cdef bytes _head(self, int64_t cost, Py_ssize_t length)
    cdef bytes _refusal(self, int status, list headers)
    cdef bytes _defaults(self)
    cdef int _write(self, list parts) except -1
