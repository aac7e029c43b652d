# cython: freethreading_compatible=True
"""The keyring: credentials met lately and what each may do, forgotten when the policy says so.

A compiled leaf. Credentials are kept as their SipHash-128 under a key that is random per process,
so a memory dump shows no virtual key and nobody outside can make two collide.

It reads the bulletin, a page shared by all processes, of 64-bit words:

    0    the policy epoch, stored last
    1    the store's revision up to which changes have been announced
    2    how many numbers were ever announced
    3 -  the latest of them in a ring; 0 stands for everything

A grant is looked at again once per epoch: it goes if an entity of its chain was announced since.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

cdef extern from "siphash.h" nogil:
    void siphash_ "siphash"(const uint64_t *key, const uint8_t *data, size_t size, uint64_t *out)

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t word_get(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void word_put(uint64_t *at, uint64_t v) { __atomic_store_n(at, v, __ATOMIC_RELEASE); }
    """
    uint64_t word_get(const uint64_t *at) nogil
    void word_put(uint64_t *at, uint64_t v) nogil

cdef enum:
    WORDS = 1024
    RING_AT = 3
    RING = WORDS - RING_AT
    CHANGES = 4096              # remembered before everything is looked up anew
    STEPS = 64                  # of the hand, at most, to find a place

BULLETIN = WORDS * 8            # bytes


def siphash(bytes key not None, bytes data not None):
    """SipHash-2-4-128 of ``data`` under 16 bytes of key, as 16 bytes."""
    cdef uint64_t words[2]
    cdef uint64_t out[2]
    if len(key) != 16:
        raise ValueError("a SipHash key has 16 bytes")
    memcpy(words, PyBytes_AS_STRING(key), 16)
    siphash_(words, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), out)
    return (<char *>out)[:16]


def announce(page, numbers, uint64_t revision, uint64_t stamp):
    """Writes into a bulletin that the entities with these numbers changed (0: any may have).

    ``stamp`` becomes the epoch, or one more than the present one. One caller at a time.
    """
    cdef Py_buffer view
    cdef uint64_t *words
    cdef uint64_t count, number
    PyObject_GetBuffer(page, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        if view.len < WORDS * 8:
            raise ValueError(f"a bulletin has {WORDS * 8} bytes")
        words = <uint64_t *>view.buf
        count = words[2]
        for number in numbers:
            word_put(words + RING_AT + count % RING, number)
            count += 1
            word_put(words + 2, count)
        word_put(words + 1, revision)
        word_put(words, max(words[0] + 1, stamp))
    finally:
        PyBuffer_Release(&view)


def announced(page):
    """The revision up to which a bulletin tells of changes."""
    cdef const uint64_t[::1] words = memoryview(page).cast("B")[:16].cast("Q")
    return word_get(&words[1])


cdef class GrantBase:
    """The part of a grant that the desk reads: expiry (ns, 0 never) and the lanes met so far.

    ``chain`` are the numbers of up to four entities; when one changes the grant is forgotten.
    """

    def __init__(self, long long expires_ns, chain=()):
        if len(chain) > 4:
            raise ValueError("a chain has at most four levels")
        self.expires_ns = expires_ns
        self.lanes = {}
        self.generation = 0
        self.links = len(chain)
        for index, number in enumerate(chain):
            self.chain[<int>index] = number


cdef class Keyring:
    """Up to ``most`` grants by credential; ``bulletin`` tells of changes.

    A page of 8 bytes is an epoch without particulars: whenever it moves, every grant goes. At the
    limit one that was not used lately makes room. Safe to use from one thread at a time.
    """

    def __cinit__(self, bulletin, uint32_t most=1_000_000):
        cdef bytes key = os.urandom(16)
        cdef const uint64_t[::1] words
        memcpy(self.key, PyBytes_AS_STRING(key), 16)
        whole = memoryview(bulletin).cast("B")
        self.has_ring = len(whole) >= WORDS * 8
        self.page = words = whole[:WORDS * 8 if self.has_ring else 8].cast("Q")
        self.words = &words[0]
        self.known = word_get(self.words)
        self.told = word_get(self.words + 2) if self.has_ring else 0
        self.most = max(most, 1)
        self.changed = {}
        self.round = 1
        self.size, self.room = 128, 64
        self.places = <uint32_t *>calloc(self.size, sizeof(uint32_t))
        self.slots = <Slot *>calloc(self.room, sizeof(Slot))
        if self.places == NULL or self.slots == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.used):
            Py_XDECREF(<PyObject *>self.slots[i].grant)
        free(self.places)
        free(self.slots)

    def __len__(self):
        return self.live

    def clear(self):
        """Forgets every grant. What they hold is freed as their places are used again."""
        self.round += 1
        self.live = 0
        self.changed.clear()

    cdef int _learn(self, uint64_t now) except -1:
        """Notes what was announced since we last looked."""
        cdef uint64_t count, number
        self.known = now
        if not self.has_ring:
            self.clear()
            return 0
        count = word_get(self.words + 2)
        if count - self.told > RING // 2:       # part of it may be overwritten while we read
            self.told = count
            self.clear()
            return 0
        while self.told != count:
            number = word_get(self.words + RING_AT + self.told % RING)
            self.told += 1
            if number == 0:
                self.told = count
                self.clear()
                return 0
            self.changed[number] = now
        if word_get(self.words + 2) - count > RING // 2 or len(self.changed) > CHANGES:
            self.clear()
        return 0

    cdef bint _holds(self, Slot *slot) except -1:
        """Whether nothing of a grant's chain changed since it was last found true."""
        cdef GrantBase grant = <GrantBase>slot.grant
        cdef int i
        if self.changed:
            for i in range(grant.links):
                since = self.changed.get(grant.chain[i])
                if since is not None and <uint64_t>since > slot.checked:
                    slot.round = 0
                    self.live -= 1
                    return False
        slot.checked = self.known
        return True

    cdef uint32_t _position(self, const uint64_t *digest) noexcept:
        """Where the table has this digest, or the free place where it would be."""
        cdef uint32_t i = <uint32_t>(digest[0] & (self.size - 1))
        cdef Slot *slot
        while self.places[i]:
            slot = &self.slots[self.places[i] - 1]
            if slot.digest[0] == digest[0] and slot.digest[1] == digest[1]:
                break
            i = (i + 1) & (self.size - 1)
        return i

    cdef GrantBase find(self, bytes credential):
        cdef uint64_t digest[2]
        cdef uint64_t now = word_get(self.words)
        cdef uint32_t place
        cdef Slot *slot
        if now != self.known:
            self._learn(now)
        siphash_(self.key, <const uint8_t *>PyBytes_AS_STRING(credential),
                 PyBytes_GET_SIZE(credential), digest)
        place = self.places[self._position(digest)]
        if place == 0:
            return None
        slot = &self.slots[place - 1]
        if slot.round != self.round:
            return None
        if slot.checked != self.known and not self._holds(slot):
            return None
        slot.recent = 1
        return <GrantBase>slot.grant

    def get(self, bytes credential not None):
        """The grant put under this credential, if nothing it is made of changed since, or None."""
        return self.find(credential)

    def put(self, bytes credential not None, GrantBase grant not None):
        """Keeps a grant that was made after the last ``get``; another may go for it."""
        cdef uint64_t digest[2]
        cdef uint32_t at, place
        cdef Slot *slot
        cdef PyObject *old
        siphash_(self.key, <const uint8_t *>PyBytes_AS_STRING(credential),
                 PyBytes_GET_SIZE(credential), digest)
        at = self._position(digest)
        place = self.places[at]
        if place == 0:
            if self.used < self.most:
                if self.used == self.room:
                    self._grow()
                self.used += 1
                place = self.used
            else:
                place = self._victim() + 1
                self._unseat(self.slots[place - 1].digest)
            at = self._position(digest)
        slot = &self.slots[place - 1]
        old = <PyObject *>slot.grant
        if old == NULL or slot.round != self.round:
            self.live += 1
        Py_INCREF(grant)
        slot.digest[0], slot.digest[1] = digest[0], digest[1]
        slot.grant = <void *>grant
        slot.checked, slot.round, slot.recent = self.known, self.round, 1
        self.places[at] = place
        Py_XDECREF(old)

    cdef int _grow(self) except -1:
        """Twice the slots, and a table at most half full."""
        cdef uint32_t i
        cdef uint32_t *places = <uint32_t *>calloc(self.size * 2, sizeof(uint32_t))
        cdef Slot *slots = <Slot *>realloc(self.slots, self.room * 2 * sizeof(Slot))
        if slots != NULL:
            self.slots = slots
        if places == NULL or slots == NULL:
            free(places)
            raise MemoryError()
        memset(self.slots + self.room, 0, self.room * sizeof(Slot))
        free(self.places)
        self.places, self.size, self.room = places, self.size * 2, self.room * 2
        for i in range(self.used):
            self.places[self._position(self.slots[i].digest)] = i + 1
        return 0

    cdef uint32_t _victim(self) noexcept:
        """A slot to be used again: forgotten, or not used since the hand last came by."""
        cdef uint32_t step, found
        for step in range(STEPS):
            found = self.hand
            self.hand = (self.hand + 1) % self.used
            if self.slots[found].round != self.round:
                return found
            if not self.slots[found].recent:
                break
            self.slots[found].recent = 0
        self.slots[found].round = 0
        self.live -= 1
        return found

    cdef void _unseat(self, const uint64_t *digest) noexcept:
        """Takes a digest out of the table and closes the gap it leaves."""
        cdef uint32_t mask = self.size - 1
        cdef uint32_t gap = self._position(digest), i = gap, home
        while True:
            i = (i + 1) & mask
            if self.places[i] == 0:
                break
            home = <uint32_t>(self.slots[self.places[i] - 1].digest[0] & mask)
            if ((i - home) & mask) >= ((i - gap) & mask):
                self.places[gap] = self.places[i]
                gap = i
        self.places[gap] = 0
