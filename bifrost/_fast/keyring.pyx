# cython: freethreading_compatible=True
"""The keyring: credentials met lately and what each may do, dropped when the policy moves.

A compiled leaf. Credentials are kept as their SipHash-128 under a key that is random per process,
so a memory dump shows no virtual key and nobody outside can make two collide.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

cdef extern from "siphash.h" nogil:
    void siphash_ "siphash"(const uint64_t *key, const uint8_t *data, size_t size, uint64_t *out)


def siphash(bytes key not None, bytes data not None):
    """SipHash-2-4-128 of ``data`` under 16 bytes of key, as 16 bytes."""
    cdef uint64_t words[2]
    cdef uint64_t out[2]
    if len(key) != 16:
        raise ValueError("a SipHash key has 16 bytes")
    memcpy(words, PyBytes_AS_STRING(key), 16)
    siphash_(words, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), out)
    return (<char *>out)[:16]


cdef class GrantBase:
    """The part of a grant that the desk reads: expiry (ns, 0 never) and the lanes met so far."""

    def __init__(self, long long expires_ns):
        self.expires_ns = expires_ns
        self.lanes = {}
        self.generation = 0


cdef class Keyring:
    """Up to ``most`` grants by credential; ``epoch`` is a page whose first 8 bytes tell of changes.

    Safe to use from one thread at a time.
    """

    def __cinit__(self, epoch, int most=100_000):
        cdef bytes key = os.urandom(16)
        memcpy(self.key, PyBytes_AS_STRING(key), 16)
        self.page = memoryview(epoch).cast("B")[:8]
        cdef const uint8_t[::1] words = self.page
        self.epoch = <const uint64_t *>&words[0]
        self.known = self.epoch[0]
        self.most = most
        self.grants = []
        self._spread(64)

    def __dealloc__(self):
        free(self.entries)

    def __len__(self):
        return len(self.grants)

    def clear(self):
        """Forgets every grant."""
        self.grants = []
        self._spread(64)

    cdef int _spread(self, int size) except -1:
        """Makes an empty table of ``size`` places, a power of two."""
        cdef Entry *entries = <Entry *>calloc(size, sizeof(Entry))
        if entries == NULL:
            raise MemoryError()
        free(self.entries)
        self.entries, self.size = entries, size
        return 0

    cdef GrantBase find(self, bytes credential):
        cdef uint64_t digest[2]
        cdef uint64_t now = self.epoch[0]
        cdef Entry *entry
        cdef int i
        if now != self.known:
            self.known = now
            self.clear()
            return None
        siphash_(self.key, <const uint8_t *>PyBytes_AS_STRING(credential),
                 PyBytes_GET_SIZE(credential), digest)
        i = <int>(digest[0] & <uint64_t>(self.size - 1))
        while True:
            entry = &self.entries[i]
            if entry.place == 0:
                return None
            if entry.digest[0] == digest[0] and entry.digest[1] == digest[1]:
                return <GrantBase>self.grants[entry.place - 1]
            i = (i + 1) & (self.size - 1)

    def get(self, bytes credential not None):
        """The grant put under this credential since the policy last moved, or None."""
        return self.find(credential)

    def put(self, bytes credential not None, GrantBase grant not None):
        """Keeps a grant; at the limit all others are forgotten first."""
        cdef Entry *old = self.entries
        cdef Entry *entry
        cdef Entry fresh
        cdef int i, size = self.size
        if len(self.grants) >= self.most:
            self.clear()
        elif 2 * len(self.grants) >= size:
            self.entries = NULL
            try:
                self._spread(2 * size)
                for i in range(size):
                    if old[i].place:
                        self._seat(&old[i])
            finally:
                if self.entries == NULL:
                    self.entries = old
                else:
                    free(old)
        siphash_(self.key, <const uint8_t *>PyBytes_AS_STRING(credential),
                 PyBytes_GET_SIZE(credential), fresh.digest)
        self.grants.append(grant)
        fresh.place = <int>len(self.grants)
        self._seat(&fresh)

    cdef void _seat(self, const Entry *fresh) noexcept:
        cdef Entry *entry
        cdef int i = <int>(fresh.digest[0] & <uint64_t>(self.size - 1))
        while True:
            entry = &self.entries[i]
            if entry.place == 0 or (entry.digest[0] == fresh.digest[0]
                                    and entry.digest[1] == fresh.digest[1]):
                entry[0] = fresh[0]
                return
            i = (i + 1) & (self.size - 1)
