# cython: freethreading_compatible=True
"""A Call carries one request through the rooms: the one mutable object of the house."""

from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from .timing cimport now_mono, now_wall

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t call_number(uint64_t *number) {
        return __atomic_add_fetch(number, 1, __ATOMIC_RELAXED);
    }
    """
    uint64_t call_number(uint64_t *) noexcept nogil

cdef enum:
    PREFIX = 16                 # hex digits
    LEAST = 8                   # digits of the number behind them

cdef char _prefix[PREFIX]
cdef uint64_t _number = 0


def own_prefix(bytes digits not None):
    """Sets what the request ids of this process begin with, 16 hex digits."""
    if len(digits) != PREFIX:
        raise ValueError(f"a prefix has {PREFIX} digits, not {len(digits)}")
    memcpy(_prefix, <const char *>digits, PREFIX)


cpdef str new_request_id():
    """A request id, unique over processes: 16 random hex digits of this one and a number."""
    cdef char text[4 + PREFIX + 16]
    cdef uint64_t number = call_number(&_number)
    cdef int digits = LEAST
    cdef int i
    while digits < 16 and number >> (4 * digits):
        digits += 1
    memcpy(text, b"req_", 4)
    memcpy(text + 4, _prefix, PREFIX)
    for i in range(digits):
        text[4 + PREFIX + i] = b"0123456789abcdef"[number >> (4 * (digits - 1 - i)) & 15]
    return PyUnicode_DecodeASCII(text, 4 + PREFIX + digits, NULL)


cdef class Call:
    """What is known of a request so far. Times are monotonic ns but ``at``, which is wall time.

    ``sent`` is when it left for the provider. ``cut`` is the refusal for which it is being broken off, ``gone`` says that the client left.
    """

    def __cinit__(self, str request_id, receive):
        self.at = now_wall()
        self.began = now_mono()
        self.request_id = request_id
        self.receive = receive
        self.body = b""
