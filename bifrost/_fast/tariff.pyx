# cython: freethreading_compatible=True
"""Tariffs: what tokens cost and what a request can cost at most, in integers.

The metering room decides which prices apply; here is only the arithmetic. A compiled leaf.
"""

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #include "tariff.h"
    static inline void bf_split(const bf_step *steps, int n, const bf_tokens *t, int64_t *high,
                                uint64_t *low) {
        __int128 pico = bf_pico(steps, n, t);
        *high = (int64_t)(pico >> 64);
        *low = (uint64_t)pico;
    }
    """
    void bf_split(const bf_step *, int n, const bf_tokens *, int64_t *high, uint64_t *low)

MOST = 1 << 62


cdef int fill(bf_step *steps, tuple rows, int rates) except -1:
    if not 1 <= len(rows) <= BF_STEPS:
        raise ValueError(f"a price has 1 to {BF_STEPS} steps, not {len(rows)}")
    for i, row in enumerate(rows):
        steps[i].above = row[0]
        for j in range(rates):
            steps[i].rate[j] = row[j + 1]
    return len(rows)


cdef int read_tokens(object usage, bf_tokens *tokens) except -1:
    """The disjoint buckets of a usage in the order of the rates; tool input is fresh input."""
    tokens.count[0] = <int64_t>usage.in_fresh + <int64_t>usage.in_tool
    tokens.count[1] = usage.in_cache_read
    tokens.count[2] = usage.in_cache_w5m
    tokens.count[3] = usage.in_cache_w1h
    tokens.count[4] = usage.out_text
    tokens.count[5] = usage.out_think
    return 0


cdef class Tariff:
    """What tokens cost, served one way.

    ``steps`` are rows (above, input, cache read, 5m write, 1h write, output, thinking): pico-USD
    per token times a common factor, which together with 1000 is ``divisor``; the last row whose
    ``above`` the prompt exceeds holds for the whole request. ``web_search`` is nano-USD each.
    Costs end at 2**62 nano-USD.
    """

    def __init__(self, tuple steps, int64_t divisor, int64_t web_search):
        self.n = fill(self.steps, steps, 6)
        self.divisor = divisor
        self.web_search = web_search

    cdef int64_t charge(self, const bf_tokens *tokens, int64_t searches) noexcept:
        return bf_cost(self.steps, self.n, tokens, self.divisor, searches, self.web_search, MOST)

    def cost(self, usage, int64_t searches):
        """Nano-USD of a usage's buckets and ``searches`` web searches, rounded up once."""
        cdef bf_tokens tokens
        read_tokens(usage, &tokens)
        return self.charge(&tokens, searches)

    def pico(self, usage):
        """(exact price of a usage's buckets, what to divide it by to have nano-USD)."""
        cdef bf_tokens tokens
        cdef int64_t high
        cdef uint64_t low
        read_tokens(usage, &tokens)
        bf_split(self.steps, self.n, &tokens, &high, &low)
        return (<object>high << 64) + low, self.divisor


cdef class Ceiling:
    """What a request can cost at most: rows (above, input, input with 1h writes, output)."""

    def __init__(self, tuple steps, int64_t divisor, int64_t web_search):
        self.n = fill(self.steps, steps, 3)
        self.divisor = divisor
        self.web_search = web_search

    cdef int64_t worst(self, int64_t input_tokens, int64_t max_tokens, bint cache_1h,
                       int64_t searches) noexcept:
        return bf_worst(self.steps, self.n, input_tokens, max_tokens, cache_1h, self.divisor,
                        searches, self.web_search, MOST)

    def most(self, int64_t input_tokens, int64_t max_tokens, bint cache_1h, int64_t searches):
        """Nano-USD, rounded up; 2**62 stands for all that is more."""
        return self.worst(input_tokens, max_tokens, cache_1h, searches)
