from libc.stdint cimport int64_t, uint64_t


cdef extern from "density.h" nogil:
    ctypedef struct bf_density:
        uint64_t name


cdef enum:
    # A prompt in words is over 3 bytes a token; 2 leaves room for digits and code. Tools add a hidden
    # system prompt of up to 1,000 tokens (Anthropic's tool use documentation).
    BF_PER_KIB = 512            # input tokens of 1,024 bytes, before anything is known
    BF_OVERHEAD = 1_024         # input tokens


cdef class Density:
    cdef bf_density *cell
    cdef bf_density own         # where there is no file, or no room in it
    cdef object map             # keeps the cell's memory

    cdef int64_t most_per_kib(self) noexcept
    cpdef void learn(self, int64_t size, int64_t tokens) noexcept
    cpdef void hear(self, int64_t size, int64_t tokens) noexcept


cdef class Densities:
    cdef object map
    cdef bf_density *cells
    cdef dict found
