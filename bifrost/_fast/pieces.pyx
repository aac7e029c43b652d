# cython: freethreading_compatible=True
"""What most of a streamed answer is made of, recognised without being read as JSON.

Each function knows one exact spelling and says None to all else, which its caller then reads in
full: so it may be strict, and must never take what the full reading would understand otherwise.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp, strlen

cdef extern from "pieces.h" nogil:
    void pc_prepare()
    uint32_t pc_crc(uint32_t before, const unsigned char *data, size_t size)
    uint32_t pc_number(const unsigned char *data)
    size_t pc_string(const unsigned char *data, size_t size, int *ascii)
    Py_ssize_t pc_base64_size(const unsigned char *data, size_t size)
    bint pc_base64(unsigned char *out, size_t made, const unsigned char *data)

pc_prepare()

ctypedef const unsigned char *Bytes

cdef enum:
    LEAST_FRAME = 16

cdef const char *HEAD = b"event: content_block_delta\ndata: "
cdef const char *DATA = b'{"type":"content_block_delta","index":'
cdef const char *KIND = b',"delta":{"type":"'
cdef bytes TEXT = b"text"
cdef bytes THINKING = b"thinking"
cdef bytes ARGUMENTS = b"partial_json"


cdef inline bint _begins(Bytes *at, Bytes end, const char *what) noexcept:
    """Whether it is there; then ``at`` is behind it."""
    cdef size_t size = strlen(what)
    if <size_t>(end - at[0]) < size or memcmp(at[0], what, size) != 0:
        return False
    at[0] += size
    return True


cdef tuple _delta(Bytes at, Bytes end):
    cdef Bytes digits
    cdef bytes name, text
    cdef size_t size
    cdef int ascii = 1
    if not _begins(&at, end, DATA):
        return None
    digits = at
    while at < end and c"0" <= at[0] <= c"9":
        at += 1
    if at == digits or not _begins(&at, end, KIND):
        return None
    if _begins(&at, end, b'text_delta","text":'):
        name = TEXT
    elif _begins(&at, end, b'thinking_delta","thinking":'):
        name = THINKING
    elif _begins(&at, end, b'input_json_delta","partial_json":'):
        name = ARGUMENTS
    else:
        return None
    size = pc_string(at, end - at, &ascii)
    if size == 0:
        return None
    text = PyBytes_FromStringAndSize(<const char *>at, size)
    at += size
    if not _begins(&at, end, b"}"):
        return None
    while at < end and at[0] == c" ":  # Anthropic pads its events there
        at += 1
    if end - at != 1 or at[0] != c"}":
        return None
    if not ascii:
        try:
            text.decode()
        except UnicodeDecodeError:
            return None
    return name, text


def delta(bytes chunk not None):
    """(name, text in JSON) where a chunk is one whole event with a delta of Anthropic's: text,
    thinking or partial_json. The text holds none but the short escapes: in JSON it is what it would
    be made into again."""
    cdef Bytes at = <Bytes>PyBytes_AS_STRING(chunk)
    cdef Bytes end = at + PyBytes_GET_SIZE(chunk)
    if end - at < 2 or (end - 1)[0] != c"\n" or (end - 2)[0] != c"\n" or not _begins(&at, end, HEAD):
        return None
    return _delta(at, end - 2)


def delta_data(bytes data not None):
    """The same of the data of such an event alone."""
    cdef Bytes at = <Bytes>PyBytes_AS_STRING(data)
    return _delta(at, at + PyBytes_GET_SIZE(data))


def event_data(bytes chunk not None):
    """What stands behind ``data:`` where a chunk is one whole event of one line of data, with or
    without a line that names it before."""
    cdef Bytes at = <Bytes>PyBytes_AS_STRING(chunk)
    cdef Bytes end = at + PyBytes_GET_SIZE(chunk)
    cdef Bytes line
    if _begins(&at, end, b"event:"):
        line = <Bytes>memchr(at, c"\n", end - at)
        if line == NULL:
            return None
        at = line + 1
    if not _begins(&at, end, b"data:"):
        return None
    line = <Bytes>memchr(at, c"\n", end - at)
    if line == NULL:
        return None
    if end - line == 2 and (end - 1)[0] == c"\n":
        return PyBytes_FromStringAndSize(<const char *>at, line - at)
    if end - line == 3 and (end - 1)[0] == c"\n" and (end - 2)[0] == c"\r":
        return PyBytes_FromStringAndSize(<const char *>at, line - at)
    return None


cdef bint _payload(bytes frame, bytes block, Bytes *at, Bytes *end) noexcept:
    """Whether it is one whole frame with these headers and right checksums; then where its payload
    is."""
    cdef Bytes start = <Bytes>PyBytes_AS_STRING(frame)
    cdef size_t size = PyBytes_GET_SIZE(frame)
    cdef size_t headers = PyBytes_GET_SIZE(block)
    cdef uint32_t crc
    if size < LEAST_FRAME + headers or pc_number(start) != size or pc_number(start + 4) != headers:
        return False
    if memcmp(start + 12, PyBytes_AS_STRING(block), headers) != 0:
        return False
    crc = pc_crc(0, start, 8)
    if crc != pc_number(start + 8) or pc_crc(crc, start + 8, size - 12) != pc_number(start + size - 4):
        return False
    at[0], end[0] = start + 12 + headers, start + size - 4
    return True


def frame_payload(bytes frame not None, bytes block not None):
    """The payload of what is one whole frame of application/vnd.amazon.eventstream with the headers
    ``block``, whose checksums are right."""
    cdef Bytes at = NULL
    cdef Bytes end = NULL
    if not _payload(frame, block, &at, &end):
        return None
    return PyBytes_FromStringAndSize(<const char *>at, end - at)


def chunk_event(bytes frame not None, bytes block not None):
    """The event in such a frame whose payload is ``{"bytes":"<base64>"}``, with or without a padding
    ``"p"`` behind it."""
    cdef Bytes at = NULL
    cdef Bytes end = NULL
    cdef Bytes digits
    cdef int ascii = 1
    cdef Py_ssize_t made
    cdef bytes event
    if not _payload(frame, block, &at, &end):
        return None
    if not _begins(&at, end, b'{"bytes":"'):
        return None
    digits = at
    at = <Bytes>memchr(at, c'"', end - at)
    if at == NULL:
        return None
    made = pc_base64_size(digits, at - digits)
    if made < 0:
        return None
    event = PyBytes_FromStringAndSize(NULL, made)
    if not pc_base64(<unsigned char *>PyBytes_AS_STRING(event), made, digits):
        return None
    at += 1
    if _begins(&at, end, b',"p":'):
        at += pc_string(at, end - at, &ascii)
        if not ascii:
            return None
    if end - at != 1 or at[0] != c"}":
        return None
    return event
