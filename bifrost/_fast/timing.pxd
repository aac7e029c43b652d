from libc.stdint cimport int64_t, uint64_t

cdef extern from "clock.h" nogil:
    int64_t now_mono()
    int64_t now_wall()

cdef enum:
    BUCKETS = 1024

cdef class Timing:
    cdef uint64_t counts[BUCKETS]
    cdef readonly uint64_t count
    cdef readonly uint64_t total_ns

    cdef void add(self, int64_t ns) noexcept
