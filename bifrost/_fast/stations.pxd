# Attributes and internal methods of stations.pyx.
from libc.stdint cimport int64_t

from .call cimport Call


cdef class Stations:
    cdef public bint debug_headers

    cpdef list outgoing(self, Call call, bytes target)
    cpdef bint answered(self, Call call) except -1
    cpdef bint passed(self, Call call, bytes chunk) except -1
    cdef bytes head(self, Call call, bytes lead, bytes more, int64_t cost, Py_ssize_t length,
                    bint closing)
    cdef bytes _lines(self, Call call, bytes lead, bytes more, int64_t cost, int64_t left,
                      int64_t resets_ns, Py_ssize_t length, bint closing)


cdef bytes framed(bytes lead, bytes chunk, bint last)
