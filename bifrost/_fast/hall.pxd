# Attributes and methods of hall.pyx.
from .desk cimport Desk
from .stations cimport Stations


cdef class Hall:
    cdef public Desk desk
    cdef public dict targets
    cdef public object pipeline, refusal, cold, doubt, proxies
    cdef Stations stations
    cdef dict fresh                     # the watch's: calls younger than its tick
    cdef object default_headers         # as ``default_lines`` were made of them
    cdef bytes default_lines
    cdef bint retiring
    cdef public Py_ssize_t max_body_bytes, max_answer
    cdef public double keep_alive_s, receive_s
    cdef bytes ping

    cdef bytes lines(self, object headers)


cdef bytes status_line(int status)
