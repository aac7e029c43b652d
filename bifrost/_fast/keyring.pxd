from libc.stdint cimport uint32_t, uint64_t


cdef class GrantBase:
    cdef readonly long long expires_ns
    cdef public dict lanes
    cdef public long long generation
    cdef uint64_t chain[4]      # the numbers of the entities it is made of
    cdef int links


cdef struct Slot:
    uint64_t digest[2]
    uint64_t checked            # the epoch in which it was found true
    void *grant
    uint32_t round              # of the keyring; another one: forgotten
    uint32_t recent             # used since the hand came by


cdef class Keyring:
    cdef uint64_t key[2]
    cdef const uint64_t *words
    cdef uint64_t known, told
    cdef bint has_ring
    cdef object page
    cdef dict changed           # number of an entity -> the epoch in which we learned of it
    cdef uint32_t *places       # of the slots, 1-based, by digest
    cdef Slot *slots
    cdef uint32_t size, room, used, most, hand, round, live

    cdef GrantBase find(self, bytes credential)
    cdef int _learn(self, uint64_t now) except -1
    cdef bint _holds(self, Slot *slot) except -1
    cdef uint32_t _position(self, const uint64_t *digest) noexcept
    cdef int _grow(self) except -1
    cdef uint32_t _victim(self) noexcept
    cdef void _unseat(self, const uint64_t *digest) noexcept
