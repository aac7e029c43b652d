# cython: freethreading_compatible=True
"""A Call carries one request through the rooms: the one mutable object of the house."""

from .timing cimport now_mono, now_wall


cdef class Call:
    """What is known of a request so far. Times are monotonic ns but ``at``, which is wall time.

    ``cut`` is the refusal for which it is being broken off, ``gone`` says that the client left.
    """

    def __cinit__(self, str request_id, receive):
        self.at = now_wall()
        self.began = now_mono()
        self.request_id = request_id
        self.receive = receive
        self.body = b""
