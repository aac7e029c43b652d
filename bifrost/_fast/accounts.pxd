from libc.stdint cimport int64_t, uint8_t, uint32_t

from .home cimport home_row
from .ledger cimport led_slot
from .lmdb_api cimport MDB_txn
from .state cimport State


cdef class Accounts(State):
    cdef uint32_t meter         # where the search for idle meters goes on
    cdef uint8_t pruned[17]     # and that for old rows

    cdef int _locate(self, led_slot *slot, int64_t now_ns) except -1
    cdef int _place(self, led_slot *slot, home_row *row, int64_t now_ns) except? -1
    cdef uint32_t _retire(self, int64_t idle_since_ns, int64_t now_ns, uint32_t start,
                          uint32_t span) except? 0xFFFFFFFF
    cdef int _retire_meters(self, int64_t now_ns) except -1
    cdef bint _free_a_meter(self, int64_t now_ns) except -1
    cdef int _give_meters(self, MDB_txn *txn, const uint32_t *idle, int n) noexcept
    cdef int _move_out(self, MDB_txn *txn, uint32_t cell, int64_t idle_since_ns, int64_t now_ns,
                       uint32_t *moved) noexcept
