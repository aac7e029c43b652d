# cython: freethreading_compatible=True
"""How long things took, kept where they happen: a histogram that costs nanoseconds to feed."""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset


cdef class Timing:
    """A log-linear histogram of nanoseconds (16 steps per power of two, error below 6.3 %)."""

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
        self.count += 1
        self.total_ns += v

    def quantile(self, double q):
        """The upper edge, in ns, of the bucket that holds quantile ``q`` (0..1); 0 when empty."""
        cdef uint64_t want = <uint64_t>(q * self.count) + 1
        cdef uint64_t seen = 0
        cdef int i
        for i in range(BUCKETS):
            seen += self.counts[i]
            if self.counts[i] and seen >= min(want, self.count):
                return i if i < 16 else (16 + i % 16 + 1) << (i // 16 - 1)
        return 0

    def clear(self):
        """Forgets everything."""
        memset(self.counts, 0, sizeof(self.counts))
        self.count = 0
        self.total_ns = 0
