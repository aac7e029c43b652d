from libc.stdint cimport uint32_t, uint64_t

from .home cimport Home
from .ledger cimport ledger

cdef enum:
    NO_CELL = -7                # beside LED_FULL, which stands for records
    NO_METER = -8

cdef int check(str what, int code) except -1
cdef object own_file(path, int flags=*)


cdef class State:
    cdef Home home
    cdef ledger books
    cdef int owner_fd, ledger_fd, using_fd
    cdef readonly uint32_t owner
    cdef readonly str directory
    cdef readonly bint unclean

    cdef int _require(self) except -1
    cdef int _open_ledger(self) except -1
    cdef int _recognise(self, uint64_t fresh) except -1
    cdef int _take_owner(self) except -1
