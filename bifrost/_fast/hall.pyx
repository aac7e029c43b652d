# cython: freethreading_compatible=True
"""The hall: what the connections of one worker share, and the lines all their answers begin with.

A compiled leaf.
"""

from http import HTTPStatus

cimport cython

from .desk cimport Desk

cdef dict _STATUS = {}


cdef bytes status_line(int status):
    line = _STATUS.get(status)
    if line is None:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = _STATUS[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()
    return line


@cython.final
cdef class Hall:
    """What the connections of one worker share.

    ``targets`` maps the paths of hot routes, as they stand on the wire, to the provider's path.
    ``pipeline`` has the stations of a call; ``refusal(refusal, request id, more headers)`` renders
    (status, headers, body) in the door's dialect.
    ``cold`` is the protocol for all that is not hot: uvicorn's with ``free``, ``refuse`` and
    ``expire``; ``doubt`` finds out whether a client that sends no more is gone. A client may be idle
    for ``keep_alive_s`` and slow with a request for ``receive_s``; ``proxies`` knows who it is.
    """

    def __init__(self, Desk desk not None, pipeline, dict targets not None, *, refusal, cold, doubt,
                 Py_ssize_t max_body_bytes, Py_ssize_t max_answer, bytes ping, proxies,
                 double keep_alive_s, double receive_s):
        self.desk = desk
        self.pipeline = pipeline
        self.stations = pipeline.stations
        self.fresh = pipeline.watch.fresh
        self.default_headers = self.default_lines = None
        self.targets = targets
        self.refusal = refusal
        self.cold = cold
        self.doubt = doubt
        self.max_body_bytes = max_body_bytes
        self.max_answer = max_answer
        self.ping = ping
        self.proxies = proxies
        self.keep_alive_s = keep_alive_s
        self.receive_s = receive_s

    cdef bytes lines(self, object headers):
        """The server's own header lines; it makes the list anew each second."""
        if headers is not self.default_headers:
            self.default_headers = headers
            self.retiring = any([name == b"connection" for name, _ in headers])
            self.default_lines = b"".join([b"%b: %b\r\n" % one for one in headers
                                           if one[0] != b"connection"])
        return self.default_lines
