from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from .ledger cimport led_cell
from .lmdb_api cimport MDB_cursor, MDB_dbi, MDB_env, MDB_txn, MDB_val

cdef struct home_row:
    uint32_t cell               # where it is in the ledger, if it is live
    uint32_t live
    int64_t end_ns              # of its window
    led_cell content            # what is known of it when it is not live


cdef struct home_walk:
    MDB_txn *txn
    MDB_cursor *cursor          # on the row of key and data
    MDB_val key, data


cdef class Home:
    cdef MDB_env *env
    cdef MDB_dbi dbi
    cdef int inside             # transactions of this process
    cdef bytes path
    cdef const char *where      # the same, for code without the GIL

    cdef int open(self, bytes path, size_t map_size) except? -1
    cdef void close(self) noexcept
    cdef int begin(self, MDB_txn **txn) noexcept nogil
    cdef int look(self, MDB_txn **txn) noexcept nogil
    cdef int _start(self, unsigned int flags, MDB_txn **txn) noexcept nogil
    cdef void _make_room(self) noexcept nogil
    cdef void _resize(self, size_t size) noexcept nogil
    cdef int commit(self, MDB_txn *txn) noexcept nogil
    cdef void abort(self, MDB_txn *txn) noexcept nogil
    cdef int sync(self) noexcept nogil
    cdef str why(self, int code)
    cdef int identity(self, uint64_t *number) noexcept nogil
    cdef int name(self, uint64_t number) noexcept nogil
    cdef int row(self, MDB_txn *txn, uint64_t budget, int64_t start_ns, home_row *row) noexcept nogil
    cdef int keep(self, MDB_txn *txn, const led_cell *key, const home_row *row) noexcept nogil
    cdef int drop(self, MDB_txn *txn, const led_cell *key) noexcept nogil
    cdef int walk(self, bint writing, void *name, size_t size, home_walk *at) noexcept nogil
    cdef void leave(self, home_walk *at) noexcept nogil
    cdef int prune(self, int64_t before_ns, uint8_t *place, int most, int *dropped) noexcept nogil
    cdef int post(self, MDB_txn *txn, uint64_t sequence, const void *event, size_t size) noexcept nogil
    cdef int events(self, uint64_t after, int most, list found) except? -1
    cdef int forget(self, uint64_t upto) noexcept nogil
