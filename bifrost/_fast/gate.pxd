from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from .home cimport Home, home_row
from .ledger cimport LED_SLOTS, led_answer, led_ask, led_slot, ledger
from .lmdb_api cimport MDB_txn
from .timing cimport Timing


cdef class Plan:
    cdef int n
    cdef led_slot *slots
    cdef object window
    cdef readonly tuple labels
    cdef int64_t first_end, last_start

    cdef int refresh(self, int64_t now_ns) except -1


cdef class Ticket:
    cdef uint32_t record
    cdef uint64_t sequence
    cdef int64_t spent_ns       # governing so far: everything since the caller's ``since_ns``
    cdef int64_t gate_ns        # of that, the gate's own admit
    cdef readonly int64_t amount
    cdef readonly bint open
    cdef readonly int64_t remaining
    cdef readonly int64_t resets_ns


cdef class Gate:
    cdef Home home
    cdef ledger books
    cdef uint64_t sequence
    cdef int owner_fd, ledger_fd, using_fd
    cdef list owed              # settlements that found no room
    cdef uint32_t meter         # where the search for idle meters goes on
    cdef uint8_t pruned[17]     # and that for old rows
    cdef readonly uint32_t owner
    cdef readonly str directory
    cdef readonly bint unclean
    cdef readonly Timing gating, admitting, settling, governing

    cdef Ticket hold(self, Plan plan, led_ask *ask, int64_t since_ns)
    cdef int book(self, Ticket ticket, int64_t cost, int64_t input_tokens, int64_t output_tokens,
                  const char *event, size_t size, int64_t now_ns, int64_t since_ns) except -1
    cdef int _open_ledger(self) except -1
    cdef int _recognise(self, uint64_t fresh) except -1
    cdef int _take_owner(self) except -1
    cdef int _require(self) except -1
    cdef int _locate(self, led_slot *slot, int64_t now_ns) except -1
    cdef int _place(self, led_slot *slot, home_row *row, int64_t now_ns) except? -1
    cdef uint32_t _retire(self, int64_t idle_since_ns, int64_t now_ns, uint32_t start,
                          uint32_t span) except? 0xFFFFFFFF
    cdef int _retire_meters(self, int64_t now_ns) except -1
    cdef int _require_open(self) except -1
    cdef bint _free_a_meter(self, int64_t now_ns) except -1
    cdef int _give_meters(self, MDB_txn *txn, const uint32_t *idle, int n) noexcept
    cdef int _move_out(self, MDB_txn *txn, uint32_t cell, int64_t idle_since_ns, int64_t now_ns,
                       uint32_t *moved) noexcept
    cdef int _spill(self) except -1
    cdef int _ring(self, uint64_t after, int most, list found) except -1
