# cython: freethreading_compatible=True
"""Where counters and events live when they are not in the ledger: an LMDB environment.

One B-tree; integers in keys are big-endian, so that the tree sorts them:

    0x00                 -> the number of the ledger these rows belong to
    0x03 budget window   -> home_row: in which cell of the ledger, or what it held at last
    0xf0 sequence        -> event bytes that the ledger's ring had no room for, oldest first

A compiled leaf, used by the gate only.
"""

import errno
import os

import lmdb.cpython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .ledger cimport led_cell
from .lmdb_api cimport (
    EINVAL, ENOMEM, MAP_RESIZED, NOMEMINIT, NORDAHEAD, NOSYNC, NOTFOUND, NOTLS, RDONLY,
    OP_GET_CURRENT, OP_NEXT, OP_SET_RANGE, MDB_env, MDB_envinfo, MDB_txn, MDB_val, lm,
    lm_bind,
)

cdef enum:
    READERS = 512
    LOCK_SIZE = 65536           # bytes of lock.mdb: a header and 64 for each reader
    PAGE = 4096
    LEAST_MAP = 1 << 20
    PRUNED_AT_ONCE = 256

cdef uint8_t LEDGER = 0x00
cdef uint8_t ACCOUNT = 0x03
cdef uint8_t OUTBOX = 0xF0

cdef extern from *:
    """
    #include <errno.h>
    #include <sched.h>
    #include <stdint.h>
    #include <sys/statvfs.h>
    /* How many transactions this process has open; negative while the map is being moved. */
    static inline void home_enter(int *inside) {
        for (;;) {
            if (__atomic_add_fetch(inside, 1, __ATOMIC_SEQ_CST) > 0) return;
            __atomic_sub_fetch(inside, 1, __ATOMIC_SEQ_CST);
            sched_yield();
        }
    }
    static inline void home_leave(int *inside) { __atomic_sub_fetch(inside, 1, __ATOMIC_SEQ_CST); }
    static inline int home_close(int *inside) {     /* keeps everybody out, if nobody is in */
        int none = 0;
        return __atomic_compare_exchange_n(inside, &none, -(1 << 30), 0, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED);
    }
    /* LMDB answers EIO when the disk takes only a part of what it writes. */
    static inline int home_fault(const char *path, int code) {
        struct statvfs disk;
        if (code != EIO || statvfs(path, &disk)) return code;
        return (uint64_t)disk.f_bavail * disk.f_frsize < (1 << 20) ? ENOSPC : code;
    }
    static inline void home_open(int *inside) { __atomic_add_fetch(inside, 1 << 30, __ATOMIC_SEQ_CST); }
    """
    void home_enter(int *) noexcept nogil
    void home_leave(int *) noexcept nogil
    bint home_close(int *) noexcept nogil
    void home_open(int *) noexcept nogil
    int home_fault(const char *, int) noexcept nogil

cdef const char *_missing = lm_bind(os.fsencode(lmdb.cpython.__file__))
if _missing != NULL:
    raise ImportError(
        "bifrost needs the lmdb package's own LMDB 0.9 functions and did not find "
        f"{(<bytes>_missing).decode()!r} in {lmdb.cpython.__file__}; install lmdb>=3,<4"
    )


def settle(path, Py_ssize_t size):
    """Gives a file that will be mapped its place on the disk before a page of it is touched.

    A full disk is an OSError here; later it would be a signal that ends the process. A file that
    has its place is not opened: the system drops a process's locks on it when it is closed again.
    """
    try:
        found = os.stat(path)
        if found.st_size >= size and found.st_blocks * 512 >= size:
            return
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        os.close(fd)


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

    cdef int open(self, bytes path, size_t map_size) except? -1:
        """Opens the environment, made if it is not there. Raises OSError for a full disk.

        ``map_size`` are addresses, not memory or disk; where they are short it begins with fewer
        and is doubled when needed. Pages are written, not mapped for writing: a disk that is full
        is an error then, and the file is no larger than what is in it.
        """
        cdef MDB_txn *txn = NULL
        cdef int dead = 0
        cdef int code
        self.path = path
        self.where = PyBytes_AS_STRING(path)
        settle(path + b"/lock.mdb", LOCK_SIZE)
        while True:
            code = lm.env_create(&self.env)
            if code:
                return code
            lm.env_set_mapsize(self.env, map_size)
            lm.env_set_maxreaders(self.env, READERS)
            code = lm.env_open(self.env, path, NOSYNC | NOTLS | NORDAHEAD | NOMEMINIT, 0o600)
            if (code != ENOMEM and code != EINVAL) or map_size <= LEAST_MAP:
                break
            lm.env_close(self.env)      # as is due after a failure
            map_size //= 4
        if code:
            self.close()
            return code
        lm.reader_check(self.env, &dead)
        code = self.begin(&txn)
        if code:
            return code
        code = lm.dbi_open(txn, NULL, 0, &self.dbi)
        if code:
            self.abort(txn)
            return code
        return self.commit(txn)

    cdef void close(self) noexcept:
        if self.env != NULL:
            lm.env_close(self.env)
            self.env = NULL

    def __dealloc__(self):
        self.close()

    cdef int begin(self, MDB_txn **txn) noexcept nogil:
        """Begins a write transaction: there is one at a time, over all processes."""
        self._make_room()
        return self._start(0, txn)

    cdef int look(self, MDB_txn **txn) noexcept nogil:
        """Begins a transaction that only reads."""
        return self._start(RDONLY, txn)

    cdef int _start(self, unsigned int flags, MDB_txn **txn) noexcept nogil:
        cdef int code
        while True:
            home_enter(&self.inside)
            code = lm.txn_begin(self.env, NULL, flags, txn)
            if code == 0:
                return 0
            home_leave(&self.inside)
            if code != MAP_RESIZED:
                return code
            self._resize(0)     # another process made it larger

    cdef void _make_room(self) noexcept nogil:
        """Doubles the map when less than a third of it is left and nobody of ours looks at it."""
        cdef MDB_envinfo info
        lm.env_info(self.env, &info)
        if (info.me_last_pgno + 1) * PAGE * 3 > info.me_mapsize * 2:
            self._resize(info.me_mapsize * 2)

    cdef void _resize(self, size_t size) noexcept nogil:
        if home_close(&self.inside):
            lm.env_set_mapsize(self.env, size)      # addresses ran out: MAP_FULL will tell
            home_open(&self.inside)

    cdef int commit(self, MDB_txn *txn) noexcept nogil:
        cdef int code = lm.txn_commit(txn)
        home_leave(&self.inside)
        return home_fault(self.where, code) if code else 0

    cdef void abort(self, MDB_txn *txn) noexcept nogil:
        lm.txn_abort(txn)
        home_leave(&self.inside)

    cdef int sync(self) noexcept nogil:
        return lm.env_sync(self.env, 1)

    cdef str why(self, int code):
        """What an error number means."""
        return lm.strerror_(code).decode("ascii", "replace")

    # -- which ledger these rows belong to ---------------------------------------------------

    cdef int identity(self, uint64_t *number) noexcept nogil:
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef int code = self.look(&txn)
        if code:
            return code
        key.mv_size, key.mv_data = 1, &LEDGER
        code = lm.get(txn, self.dbi, &key, &data)
        if code == 0:
            memcpy(number, data.mv_data, 8)
        self.abort(txn)
        return code

    cdef int name(self, uint64_t number) noexcept nogil:
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef int code = self.begin(&txn)
        if code:
            return code
        key.mv_size, key.mv_data = 1, &LEDGER
        data.mv_size, data.mv_data = 8, &number
        code = lm.put(txn, self.dbi, &key, &data, 0)
        if code:
            self.abort(txn)
            return code
        return self.commit(txn)

    # -- accounts ------------------------------------------------------------------------------

    cdef int row(self, MDB_txn *txn, uint64_t budget, int64_t start_ns,
                 home_row *row) noexcept nogil:
        """Reads a row, inside ``txn`` or, if that is NULL, in a transaction of its own."""
        cdef MDB_txn *own = txn
        cdef MDB_val key, data
        cdef uint8_t name[17]
        cdef int code = 0
        if txn == NULL:
            code = self.look(&own)
            if code:
                return code
        _account(name, budget, start_ns)
        key.mv_size, key.mv_data = 17, name
        code = lm.get(own, self.dbi, &key, &data)
        if code == 0:
            memcpy(row, data.mv_data, sizeof(home_row))
        if txn == NULL:
            self.abort(own)
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

    cdef int walk(self, bint writing, void *name, size_t size, home_walk *at) noexcept nogil:
        """Stands at the first row that is not before a name; NOTFOUND where there is none.

        In both cases it has to be left.
        """
        cdef int code = self.begin(&at.txn) if writing else self.look(&at.txn)
        if code:
            return code
        code = lm.cursor_open(at.txn, self.dbi, &at.cursor)
        if code == 0:
            at.key.mv_size, at.key.mv_data = size, name
            code = lm.cursor_get(at.cursor, &at.key, &at.data, OP_SET_RANGE)
            if code == 0 or code == NOTFOUND:
                return code
            lm.cursor_close(at.cursor)
        self.abort(at.txn)
        return code

    cdef void leave(self, home_walk *at) noexcept nogil:
        """Ends a walk; what it wrote is forgotten."""
        lm.cursor_close(at.cursor)
        self.abort(at.txn)

    cdef int prune(self, int64_t before_ns, uint8_t *place, int most, int *dropped) noexcept nogil:
        """Looks at ``most`` rows from the 17 bytes of ``place`` on, which moves; drops those that
        rest and whose window ended before ``before_ns``. At the end ``place`` begins anew."""
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef home_walk at
        cdef home_row row
        cdef uint8_t gone[PRUNED_AT_ONCE][17]
        cdef int n = 0, i, code
        dropped[0] = 0
        if place[0] != ACCOUNT:
            _account(place, 0, 0)
        code = self.walk(False, place, 17, &at)
        if code and code != NOTFOUND:
            return code
        while code == 0 and most and n < PRUNED_AT_ONCE:
            if (<uint8_t *>at.key.mv_data)[0] != ACCOUNT:
                code = NOTFOUND
                break
            memcpy(&row, at.data.mv_data, sizeof(row))
            if not row.live and row.end_ns < before_ns:
                memcpy(gone[n], at.key.mv_data, 17)
                n += 1
            most -= 1
            code = lm.cursor_get(at.cursor, &at.key, &at.data, OP_NEXT)
        if code == 0:
            memcpy(place, at.key.mv_data, 17)
        else:
            place[0] = 0
        self.leave(&at)
        if code and code != NOTFOUND:
            return code
        if n == 0:
            return 0
        code = self.begin(&txn)
        if code:
            return code
        for i in range(n):
            key.mv_size, key.mv_data = 17, gone[i]
            if lm.get(txn, self.dbi, &key, &data) == 0:
                memcpy(&row, data.mv_data, sizeof(row))
                if not row.live:        # nobody woke it meanwhile
                    code = lm.del_(txn, self.dbi, &key, NULL)
                    if code:
                        self.abort(txn)
                        return code
                    dropped[0] += 1
        return self.commit(txn)

    # -- events --------------------------------------------------------------------------------

    cdef int post(self, MDB_txn *txn, uint64_t sequence, const void *event,
                  size_t size) noexcept nogil:
        cdef MDB_val key, data
        cdef uint8_t name[9]
        _event(name, sequence)
        key.mv_size, key.mv_data = 9, name
        data.mv_size, data.mv_data = size, <void *>event
        return lm.put(txn, self.dbi, &key, &data, 0)

    cdef int events(self, uint64_t after, int most, list found) except? -1:
        """Adds up to ``most`` (sequence, event) above ``after`` to the list, oldest first."""
        cdef home_walk at
        cdef uint8_t name[9]
        _event(name, after + 1)
        cdef int code = self.walk(False, name, 9, &at)
        if code and code != NOTFOUND:
            return code
        try:
            while code == 0 and (<uint8_t *>at.key.mv_data)[0] == OUTBOX and len(found) < most:
                found.append((
                    get64(<uint8_t *>at.key.mv_data + 1),
                    PyBytes_FromStringAndSize(<char *>at.data.mv_data, at.data.mv_size),
                ))
                code = lm.cursor_get(at.cursor, &at.key, &at.data, OP_NEXT)
        finally:
            self.leave(&at)
        return 0 if code == NOTFOUND else code

    cdef int forget(self, uint64_t upto) noexcept nogil:
        """Removes the events up to ``upto``; writes nothing when there are none."""
        cdef home_walk at
        cdef uint8_t name[9]
        cdef bint some
        _event(name, 0)
        cdef int code = self.walk(False, name, 9, &at)      # look first: there are seldom any
        if code and code != NOTFOUND:
            return code
        some = code == 0 and _old(&at.key, upto)
        self.leave(&at)
        if not some:
            return 0
        code = self.walk(True, name, 9, &at)
        if code and code != NOTFOUND:
            return code
        while code == 0 and _old(&at.key, upto):
            code = lm.cursor_del(at.cursor, 0)
            if code == 0:       # the cursor now stands on the next entry
                code = lm.cursor_get(at.cursor, &at.key, &at.data, OP_GET_CURRENT)
                if code:        # past the page: find the first one again
                    at.key.mv_size, at.key.mv_data = 9, name
                    code = lm.cursor_get(at.cursor, &at.key, &at.data, OP_SET_RANGE)
        if code and code != NOTFOUND:
            self.leave(&at)
            return code
        lm.cursor_close(at.cursor)
        return self.commit(at.txn)


cdef inline void _event(uint8_t *name, uint64_t sequence) noexcept nogil:
    name[0] = OUTBOX
    put64(name + 1, sequence)


cdef inline bint _old(const MDB_val *key, uint64_t upto) noexcept nogil:
    cdef const uint8_t *name = <const uint8_t *>key.mv_data
    return name[0] == OUTBOX and get64(name + 1) <= upto


cdef inline void _account(uint8_t *name, uint64_t budget, int64_t start_ns) noexcept nogil:
    name[0] = ACCOUNT
    put64(name + 1, budget)
    put64(name + 9, <uint64_t>start_ns)
