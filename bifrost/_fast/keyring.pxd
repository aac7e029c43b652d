from libc.stdint cimport uint64_t


cdef class GrantBase:
    cdef readonly long long expires_ns
    cdef public dict lanes
    cdef public long long generation


cdef struct Entry:
    uint64_t digest[2]
    int place                   # of the grant, 1-based; 0: free


cdef class Keyring:
    cdef uint64_t key[2]
    cdef const uint64_t *epoch
    cdef uint64_t known
    cdef object page
    cdef Entry *entries
    cdef int size, most
    cdef list grants

    cdef GrantBase find(self, bytes credential)
    cdef int _spread(self, int size) except -1
    cdef void _seat(self, const Entry *fresh) noexcept
