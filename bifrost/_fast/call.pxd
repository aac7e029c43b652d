from libc.stdint cimport int64_t

from .gate cimport Ticket


cdef class Call:
    cdef public int64_t at, began, first_byte, last_byte, reserved
    cdef public str request_id, upstream_request
    cdef public object receive, head, scan, grant, lane, exchange, tap, watcher
    cdef public bytes body
    cdef public Ticket ticket
    cdef public int status, key_index
    cdef public bint streaming, gone, settled, sent_upstream, broke
