# cython: freethreading_compatible=True
"""Where counters and events live when they are not in the ledger: an LMDB environment.

One B-tree; integers in keys are big-endian, so that the tree sorts them:

    0x00                 -> the number of the ledger these rows belong to
    0x03 budget window   -> home_row: in which cell of the ledger, or what it held at last
    0xf0 sequence        -> event bytes that the ledger's ring had no room for, oldest first

A compiled leaf, used by the gate only.
"""

import os

import lmdb.cpython

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .ledger cimport led_cell
from .lmdb_api cimport (
    NOMEMINIT, NORDAHEAD, NOSYNC, NOTFOUND, NOTLS, RDONLY, WRITEMAP,
    OP_GET_CURRENT, OP_NEXT, OP_SET_RANGE, MDB_cursor, MDB_env, MDB_txn, MDB_val, lm, lm_bind,
)

cdef uint8_t LEDGER = 0x00
cdef uint8_t ACCOUNT = 0x03
cdef uint8_t OUTBOX = 0xF0

cdef const char *_missing = lm_bind(os.fsencode(lmdb.cpython.__file__))
if _missing != NULL:
    raise ImportError(
        "bifrost needs the lmdb package's own LMDB 0.9 functions and did not find "
        f"{(<bytes>_missing).decode()!r} in {lmdb.cpython.__file__}; install lmdb>=3,<4"
    )


cdef inline void put64(uint8_t *p, uint64_t v) noexcept nogil:
    cdef int i
    for i in range(8):
        p[i] = <uint8_t>(v >> (56 - 8 * i))


cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v = 0
    cdef int i
    for i in range(8):
        v = (v << 8) | p[i]
    return v


cdef class Home:
    """The environment of one data directory; every method answers LMDB's error number, 0 is good."""

    cdef int open(self, bytes path, size_t map_size) noexcept:
        cdef MDB_txn *txn = NULL
        cdef int dead = 0
        cdef int code = lm.env_create(&self.env)
        if code:
            return code
        lm.env_set_mapsize(self.env, map_size)
        lm.env_set_maxreaders(self.env, 512)
        code = lm.env_open(self.env, path, WRITEMAP | NOSYNC | NOTLS | NORDAHEAD | NOMEMINIT, 0o600)
        if code:
            return code
        lm.reader_check(self.env, &dead)
        code = lm.txn_begin(self.env, NULL, 0, &txn)
        if code:
            return code
        code = lm.dbi_open(txn, NULL, 0, &self.dbi)
        if code:
            lm.txn_abort(txn)
            return code
        return lm.txn_commit(txn)

    cdef void close(self) noexcept:
        if self.env != NULL:
            lm.env_close(self.env)
            self.env = NULL

    def __dealloc__(self):
        self.close()

    cdef int begin(self, MDB_txn **txn) noexcept nogil:
        """Begins a write transaction: there is one at a time, over all processes."""
        return lm.txn_begin(self.env, NULL, 0, txn)

    cdef int commit(self, MDB_txn *txn) noexcept nogil:
        return lm.txn_commit(txn)

    cdef void abort(self, MDB_txn *txn) noexcept nogil:
        lm.txn_abort(txn)

    cdef int sync(self) noexcept nogil:
        return lm.env_sync(self.env, 1)

    cdef str why(self, int code):
        """What an error number means."""
        return lm.strerror_(code).decode("ascii", "replace")

    # -- which ledger these rows belong to ---------------------------------------------------

    cdef int identity(self, uint64_t *number) noexcept nogil:
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef int code = lm.txn_begin(self.env, NULL, RDONLY, &txn)
        if code:
            return code
        key.mv_size, key.mv_data = 1, &LEDGER
        code = lm.get(txn, self.dbi, &key, &data)
        if code == 0:
            memcpy(number, data.mv_data, 8)
        lm.txn_abort(txn)
        return code

    cdef int name(self, uint64_t number) noexcept nogil:
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef int code = lm.txn_begin(self.env, NULL, 0, &txn)
        if code:
            return code
        key.mv_size, key.mv_data = 1, &LEDGER
        data.mv_size, data.mv_data = 8, &number
        code = lm.put(txn, self.dbi, &key, &data, 0)
        if code:
            lm.txn_abort(txn)
            return code
        return lm.txn_commit(txn)

    # -- accounts ------------------------------------------------------------------------------

    cdef int row(self, MDB_txn *txn, uint64_t budget, int64_t start_ns,
                 home_row *row) noexcept nogil:
        """Reads a row, inside ``txn`` or, if that is NULL, in a transaction of its own."""
        cdef MDB_txn *own = txn
        cdef MDB_val key, data
        cdef uint8_t name[17]
        cdef int code = 0
        if txn == NULL:
            code = lm.txn_begin(self.env, NULL, RDONLY, &own)
            if code:
                return code
        _account(name, budget, start_ns)
        key.mv_size, key.mv_data = 17, name
        code = lm.get(own, self.dbi, &key, &data)
        if code == 0:
            memcpy(row, data.mv_data, sizeof(home_row))
        if txn == NULL:
            lm.txn_abort(own)
        return code

    cdef int keep(self, MDB_txn *txn, const led_cell *key_of, const home_row *row) noexcept nogil:
        cdef MDB_val key, data
        cdef uint8_t name[17]
        _account(name, key_of.budget, key_of.start_ns)
        key.mv_size, key.mv_data = 17, name
        data.mv_size, data.mv_data = sizeof(home_row), <void *>row
        return lm.put(txn, self.dbi, &key, &data, 0)

    cdef int drop(self, MDB_txn *txn, const led_cell *key_of) noexcept nogil:
        cdef MDB_val key
        cdef uint8_t name[17]
        _account(name, key_of.budget, key_of.start_ns)
        key.mv_size, key.mv_data = 17, name
        return lm.del_(txn, self.dbi, &key, NULL)

    # -- events --------------------------------------------------------------------------------

    cdef int post(self, MDB_txn *txn, uint64_t sequence, const void *event,
                  size_t size) noexcept nogil:
        cdef MDB_val key, data
        cdef uint8_t name[9]
        name[0] = OUTBOX
        put64(name + 1, sequence)
        key.mv_size, key.mv_data = 9, name
        data.mv_size, data.mv_data = size, <void *>event
        return lm.put(txn, self.dbi, &key, &data, 0)

    cdef int events(self, uint64_t after, int most, list found) except? -1:
        """Adds up to ``most`` (sequence, event) above ``after`` to the list, oldest first."""
        cdef MDB_txn *txn = NULL
        cdef MDB_cursor *cursor = NULL
        cdef MDB_val key, data
        cdef uint8_t name[9]
        cdef int code = lm.txn_begin(self.env, NULL, RDONLY, &txn)
        if code:
            return code
        code = lm.cursor_open(txn, self.dbi, &cursor)
        if code:
            lm.txn_abort(txn)
            return code
        try:
            name[0] = OUTBOX
            put64(name + 1, after + 1)
            key.mv_size, key.mv_data = 9, name
            code = lm.cursor_get(cursor, &key, &data, OP_SET_RANGE)
            while code == 0 and (<uint8_t *>key.mv_data)[0] == OUTBOX and len(found) < most:
                found.append((
                    get64(<uint8_t *>key.mv_data + 1),
                    PyBytes_FromStringAndSize(<char *>data.mv_data, data.mv_size),
                ))
                code = lm.cursor_get(cursor, &key, &data, OP_NEXT)
        finally:
            lm.cursor_close(cursor)
            lm.txn_abort(txn)
        return 0 if code == NOTFOUND else code

    cdef int forget(self, uint64_t upto) noexcept nogil:
        """Removes the events up to ``upto``; writes nothing when there are none."""
        cdef MDB_txn *txn = NULL
        cdef MDB_cursor *cursor = NULL
        cdef MDB_val key, data
        cdef uint8_t name[9]
        cdef int code
        cdef bint some
        cdef unsigned int flags = RDONLY    # look first: there are seldom any
        name[0] = OUTBOX
        put64(name + 1, 0)
        while True:
            code = lm.txn_begin(self.env, NULL, flags, &txn)
            if code:
                return code
            code = lm.cursor_open(txn, self.dbi, &cursor)
            if code:
                lm.txn_abort(txn)
                return code
            key.mv_size, key.mv_data = 9, name
            code = lm.cursor_get(cursor, &key, &data, OP_SET_RANGE)
            some = code == 0 and _old(&key, upto)
            if flags == RDONLY or not some:
                lm.cursor_close(cursor)
                lm.txn_abort(txn)
                if not some:
                    return 0 if code == NOTFOUND else code
                flags = 0
                continue
            break
        while code == 0 and _old(&key, upto):
            code = lm.cursor_del(cursor, 0)
            if code == 0:       # the cursor now stands on the next entry
                code = lm.cursor_get(cursor, &key, &data, OP_GET_CURRENT)
                if code:        # past the page: find the first one again
                    key.mv_size, key.mv_data = 9, name
                    code = lm.cursor_get(cursor, &key, &data, OP_SET_RANGE)
        lm.cursor_close(cursor)
        if code and code != NOTFOUND:
            lm.txn_abort(txn)
            return code
        return lm.txn_commit(txn)


cdef inline bint _old(const MDB_val *key, uint64_t upto) noexcept nogil:
    cdef const uint8_t *name = <const uint8_t *>key.mv_data
    return name[0] == OUTBOX and get64(name + 1) <= upto


cdef inline void _account(uint8_t *name, uint64_t budget, int64_t start_ns) noexcept nogil:
    name[0] = ACCOUNT
    put64(name + 1, budget)
    put64(name + 9, <uint64_t>start_ns)
