from libc.stdint cimport uint64_t

from .accounts cimport Accounts


cdef class Outbox(Accounts):
    cdef int _require_open(self) except -1
    cdef int _spill(self) except -1
    cdef int _ring(self, uint64_t after, int most, list found) except -1
