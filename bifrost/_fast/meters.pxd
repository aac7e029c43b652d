from libc.stdint cimport int64_t

cdef enum:
    WIDTH = 64                  # numbers of a row
    # A histogram is its sum, then one number per bound and one for what is above them all.
    SLOW = 13                   # bounds of times that people wait
    QUICK = 14                  # bounds of what the gateway takes
    # The row of a model: outcomes, tokens, then these.
    OUTCOMES = 0                # ok, error, cut, broken, unsettled
    TOKENS = 8                  # as they stand in a bf_tokens
    SEARCHES = 14
    COST = 15                   # nano-USD
    TOOK = 16                   # a slow histogram
    FIRST_BYTE = 32             # a slow histogram


cdef class Meter:
    cdef int64_t *at
    cdef object memory          # keeps it

    cpdef void add(self, int index, int64_t number) noexcept
    cpdef void set(self, int index, int64_t number) noexcept
    cdef void slow(self, int index, int64_t ns) noexcept
    cdef void quick(self, int index, int64_t ns) noexcept
