# cython: freethreading_compatible=True
"""How long things took, kept where they happen: a histogram that costs nanoseconds to feed."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset


SIZE = WORDS * 8


cdef class Timing:
    """A log-linear histogram of nanoseconds (16 steps per power of two, error below 6.3 %).

    Its counts are its own until they are laid into memory that others read.
    """

    def __cinit__(self):
        self.counts = self.own

    @property
    def count(self):
        """How many there were."""
        return self.counts[COUNT]

    @property
    def total_ns(self):
        """Their sum in ns."""
        return self.counts[TOTAL]

    def lay(self, buffer, Py_ssize_t offset):
        """Goes on counting in ``SIZE`` bytes of a writable buffer, on top of what is there."""
        cdef unsigned char[::1] view = buffer
        cdef uint64_t *there
        cdef int i
        if offset < 0 or offset % 8 or offset + WORDS * 8 > view.shape[0]:
            raise ValueError("a timing must lie within its buffer")
        there = <uint64_t *>&view[offset]
        for i in range(WORDS):
            there[i] += self.counts[i]
        self.counts, self.memory = there, buffer

    def merge(self, const unsigned char[::1] other):
        """Adds the counts of another one, as the ``SIZE`` bytes it was laid into."""
        cdef const uint64_t *there
        cdef int i
        if other.shape[0] < WORDS * 8:
            raise ValueError("this is less than a timing")
        there = <const uint64_t *>&other[0]
        for i in range(WORDS):
            self.counts[i] += there[i]

    cdef void add(self, int64_t ns) noexcept:
        cdef int exponent = 0
        cdef uint64_t v = <uint64_t>ns if ns > 0 else 0
        cdef uint64_t w = v >> 4
        while w:
            exponent += 1
            w >>= 1
        cdef int index = <int>v if exponent == 0 else exponent * 16 + <int>((v >> (exponent - 1)) & 15)
        if index >= BUCKETS:
            index = BUCKETS - 1
        self.counts[index] += 1
        self.counts[COUNT] += 1
        self.counts[TOTAL] += v

    def quantile(self, double q):
        """The upper edge, in ns, of the bucket that holds quantile ``q`` (0..1); 0 when empty."""
        cdef uint64_t count = self.counts[COUNT]
        cdef uint64_t want = <uint64_t>(q * count) + 1
        cdef uint64_t seen = 0
        cdef int i
        for i in range(BUCKETS):
            seen += self.counts[i]
            if self.counts[i] and seen >= min(want, count):
                return i if i < 16 else (16 + i % 16 + 1) << (i // 16 - 1)
        return 0

    def clear(self):
        """Forgets everything."""
        memset(self.counts, 0, WORDS * sizeof(uint64_t))
