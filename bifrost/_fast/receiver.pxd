# Attributes and internal methods of receiver.pyx.
from .client cimport Follower
from .hall cimport Hall


cdef enum:
    IDLE, HEAD, BODY, BUSY, ASGI    # what a connection is at


cdef class Receiver(Follower):
    cdef object config, server_state, app_state, loop, transport, parser, cold
    cdef Hall hall
    cdef int state
    cdef double touched                 # when something happened last
    cdef double began                   # when the first byte of an incomplete head came
    cdef bint closing, write_paused, read_paused
    # the request that comes in
    cdef bytes head                     # its beginning, while the rest is missing
    cdef bytes raw, url, query, target
    cdef list headers
    cdef bytes body                     # written to while it is nobody else's
    cdef Py_ssize_t length, filled
    cdef bint unusual, headed
    cdef bytes held                     # what came behind it

    cdef bint admit(self, bytes body) except -1
    cdef int _feed(self, bytes data) except -1
    cdef int _begin(self, bytes data, Py_ssize_t end) except -1
    cdef bint _hot(self) except -1
    cdef int _take(self, bytes data, Py_ssize_t start) except -1
    cdef int _filled(self, Py_ssize_t size) except -1
    cdef int _read_whole(self) except -1
    cdef int _cool(self, bytes data) except -1
    cdef int _chill(self) except -1
