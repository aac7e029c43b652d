from libc.stdint cimport int64_t, uint32_t

from .gate cimport Ticket


cdef class Call:
    cdef public int64_t at, began, sent, first_byte, last_byte, reserved
    cdef public int64_t output_limit    # tokens, where the budget affords no more; 0: as asked
    cdef public uint32_t place          # in the line for a budget; 0: none
    cdef public str request_id, upstream_request
    cdef public object receive, head, scan, grant, lane, exchange, tap, watcher, cut
    cdef public object dialect          # of its client; None is Anthropic's own
    cdef public object testimony        # what is kept of its content, if anything is
    cdef public bytes body, client      # client: its address as events name it, or None
    cdef public bytes encoding          # of the answer's content, as its provider says
    cdef public Ticket ticket
    cdef public int status, key_index
    cdef public bint streaming, gone, settled, sent_upstream, broke


cpdef str new_request_id()
