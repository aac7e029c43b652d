from libc.stdint cimport int64_t

cdef extern from "tariff.h" nogil:
    enum:
        BF_STEPS, BF_RATES
    ctypedef struct bf_tokens:
        int64_t count[6]
    ctypedef struct bf_step:
        int64_t above
        int64_t rate[6]
    int64_t bf_cost(const bf_step *, int n, const bf_tokens *, int64_t divisor, int64_t searches,
                    int64_t each, int64_t most)
    int64_t bf_worst(const bf_step *, int n, int64_t input, int64_t output, bint hour,
                     int64_t divisor, int64_t searches, int64_t each, int64_t most)

cdef int64_t MOST               # no amount is above it: sums of two never overflow

cdef class Tariff:
    cdef int n
    cdef bf_step steps[16]
    cdef int64_t divisor, web_search

    cdef int64_t charge(self, const bf_tokens *tokens, int64_t searches) noexcept


cdef class Ceiling:
    cdef int n
    cdef bf_step steps[16]
    cdef int64_t divisor, web_search

    cdef int64_t worst(self, int64_t input_tokens, int64_t max_tokens, bint cache_1h,
                       int64_t searches) noexcept

cdef int read_tokens(object usage, bf_tokens *tokens) except -1
