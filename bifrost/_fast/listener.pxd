# Attributes and internal methods of listener.pyx.
from libc.stdint cimport int64_t

from .call cimport Call
from .client cimport Exchange
from .receiver cimport Receiver


cdef class Listener(Receiver):
    cdef object task, doubt
    cdef object proxies, host           # who judged the peer, and its address
    cdef bytes peer                     # what events say of it
    cdef bint trusted                   # it speaks for others
    cdef bint lost
    # the call under way
    cdef Call call
    cdef Exchange exchange
    cdef list request                   # until the provider answers
    cdef list parts                     # of an answer that goes out whole
    cdef Py_ssize_t gathered            # bytes in them
    cdef bytes opening                  # head of a stream that waits for its first piece
    cdef bint answering, streaming

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
