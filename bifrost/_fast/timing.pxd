from libc.stdint cimport int64_t, uint64_t

cdef extern from "clock.h" nogil:
    int64_t now_mono()
    int64_t now_wall()

cdef enum:
    BUCKETS = 1024
    COUNT = BUCKETS             # behind the buckets: how many, and their sum in ns
    TOTAL = BUCKETS + 1
    WORDS = BUCKETS + 2

cdef class Timing:
    cdef uint64_t *counts
    cdef uint64_t own[WORDS]
    cdef object memory          # keeps the counts, if they are not our own

    cdef void add(self, int64_t ns) noexcept
