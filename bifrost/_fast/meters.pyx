# cython: freethreading_compatible=True
"""Meters: rows of numbers that one process counts in, plainly, while others read them.

No lock and no atomic operation: a number is written by one thread at a time and read as a whole.
What a row means is said by its readers; the row of a model is written by the desk.
"""

cimport cython
from libc.stdint cimport int64_t

cdef int64_t *slow_bounds = [
    50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000,
    10_000_000_000, 20_000_000_000, 30_000_000_000, 60_000_000_000, 120_000_000_000,
    300_000_000_000,
]
cdef int64_t *quick_bounds = [
    25_000, 50_000, 100_000, 150_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    25_000_000, 100_000_000, 250_000_000, 1_000_000_000,
]

ROW = WIDTH
SLOW_NS = tuple(slow_bounds[i] for i in range(SLOW))
QUICK_NS = tuple(quick_bounds[i] for i in range(QUICK))
PLACES = {"outcomes": OUTCOMES, "tokens": TOKENS, "searches": SEARCHES, "cost": COST, "took": TOOK,
          "first_byte": FIRST_BYTE}


cdef inline void _observe(int64_t *at, const int64_t *bounds, int most, int64_t ns) noexcept:
    cdef int i = 0
    if ns < 0:
        ns = 0
    while i < most and ns > bounds[i]:
        i += 1
    at[0] += ns
    at[1 + i] += 1


@cython.final
cdef class Meter:
    """One row of a writable buffer of int64, beginning at byte ``offset``."""

    def __init__(self, buffer, Py_ssize_t offset):
        cdef unsigned char[::1] view = buffer
        if offset < 0 or offset % 8 or offset + WIDTH * 8 > view.shape[0]:
            raise ValueError("a row must lie within its buffer")
        self.memory = buffer
        self.at = <int64_t *>&view[offset]

    cpdef void add(self, int index, int64_t number) noexcept:
        """Counts on."""
        if 0 <= index < WIDTH:
            self.at[index] += number

    cpdef void set(self, int index, int64_t number) noexcept:
        """Says how it is now."""
        if 0 <= index < WIDTH:
            self.at[index] = number

    def row(self):
        """All numbers, as they are."""
        return [self.at[i] for i in range(WIDTH)]

    cdef void slow(self, int index, int64_t ns) noexcept:
        _observe(self.at + index, slow_bounds, SLOW, ns)

    cdef void quick(self, int index, int64_t ns) noexcept:
        _observe(self.at + index, quick_bounds, QUICK, ns)
