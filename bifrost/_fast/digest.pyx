# cython: freethreading_compatible=True
"""The hashes of the audit log's tree, over many entries at a time and without the interpreter.

SHA-256 is OpenSSL's and CRC-32 zlib's, both as Python itself has loaded them. ``BOUND`` is False
where Python has them built in and hides them, and in OpenSSL's FIPS mode, which these calls would go
round; then whoever imports this does without.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef extern from "digest.h" nogil:
    enum:
        DG_HASH
    ctypedef struct dg_walk:
        size_t at
        uint64_t index
        size_t hashed
    bint dg_bind(const char *hashes, const char *crcs)
    void dg_hash(unsigned char *out, unsigned char prefix, const void *data, size_t size)
    void dg_fold(unsigned char *row, size_t count)
    void dg_frames(const unsigned char *data, size_t size, uint64_t end, size_t most,
                   unsigned char *row, dg_walk *)

cdef enum:
    ROUND = 65536               # hashes that are made before memory for more is asked for


cdef bint _bound():
    try:
        import _hashlib
        import zlib
    except ImportError:
        return False
    if _hashlib.get_fips_mode():
        return False
    cdef object hashes = getattr(_hashlib, "__file__", None)
    cdef object crcs = getattr(zlib, "__file__", None)
    cdef bytes one = os.fsencode(hashes) if hashes else b""
    cdef bytes other = os.fsencode(crcs) if crcs else b""
    return dg_bind(PyBytes_AS_STRING(one) if one else NULL,
                   PyBytes_AS_STRING(other) if other else NULL)


BOUND = _bound()


def leaf_hashes(bytes data not None, Py_ssize_t at, uint64_t index, uint64_t end):
    """Tree hashes of the whole frames from place ``at`` on, to before index ``end``: a row of 32
    bytes each, the place behind the last frame and its index plus one."""
    cdef const unsigned char *start = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef size_t size = PyBytes_GET_SIZE(data)
    cdef dg_walk walk
    cdef bytes row
    cdef unsigned char *into
    cdef list rows = []
    if at < 0 or <size_t>at > size:
        raise ValueError("no frame can begin there")
    walk.at, walk.index = at, index
    while True:
        row = PyBytes_FromStringAndSize(NULL, ROUND * DG_HASH)
        into = <unsigned char *>PyBytes_AS_STRING(row)
        walk.hashed = 0
        with nogil:
            dg_frames(start, size, end, ROUND, into, &walk)
        if walk.hashed < ROUND:
            rows.append(row[:walk.hashed * DG_HASH])
            return b"".join(rows), walk.at, walk.index
        rows.append(row)


def entry_hashes(list entries not None):
    """Tree hashes of entries, as a row."""
    cdef bytes row = PyBytes_FromStringAndSize(NULL, len(entries) * DG_HASH)
    cdef unsigned char *into = <unsigned char *>PyBytes_AS_STRING(row)
    cdef bytes entry
    for entry in entries:
        dg_hash(into, 0, PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry))
        into += DG_HASH
    return row


def root(bytes row not None):
    """The root over a row of hashes of at least one; an odd last one is handed up as it is."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(row)
    cdef bytes work = PyBytes_FromStringAndSize(PyBytes_AS_STRING(row), size)
    cdef unsigned char *into = <unsigned char *>PyBytes_AS_STRING(work)
    if not size or size % DG_HASH:
        raise ValueError("a row is made of hashes")
    with nogil:
        dg_fold(into, size // DG_HASH)
    return work[:DG_HASH]


def roots(bytes row not None, Py_ssize_t count):
    """The roots over each ``count`` hashes of a row that is a multiple of that, as a row."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(row)
    cdef Py_ssize_t each = count * DG_HASH
    cdef Py_ssize_t i, parts
    cdef bytes work, made
    cdef unsigned char *into
    cdef unsigned char *out
    if count < 1 or size % each:
        raise ValueError("the row is not made of whole parts")
    parts = size // each
    work = PyBytes_FromStringAndSize(PyBytes_AS_STRING(row), size)
    made = PyBytes_FromStringAndSize(NULL, parts * DG_HASH)
    into = <unsigned char *>PyBytes_AS_STRING(work)
    out = <unsigned char *>PyBytes_AS_STRING(made)
    with nogil:
        for i in range(parts):
            dg_fold(into + i * each, count)
            memcpy(out + i * DG_HASH, into + i * each, DG_HASH)
    return made
