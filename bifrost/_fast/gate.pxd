from libc.stdint cimport int64_t, uint32_t, uint64_t

from .ledger cimport led_ask, led_slot
from .outbox cimport Outbox
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


cdef class Gate(Outbox):
    cdef uint64_t sequence      # of this owner's latest reservation
    cdef list owed              # settlements that found no room
    cdef readonly Timing gating, admitting, settling, governing

    cdef Ticket hold(self, Plan plan, led_ask *ask, int64_t since_ns)
    cdef int book(self, Ticket ticket, int64_t cost, int64_t input_tokens, int64_t output_tokens,
                  const char *event, size_t size, int64_t now_ns, int64_t since_ns) except -1
