# The part of LMDB 0.9 that the gate calls (lmdb.h of this folder); numbers are those of its lmdb.h.
cdef extern from "lmdb.h" nogil:
    ctypedef struct MDB_env:
        pass
    ctypedef struct MDB_txn:
        pass
    ctypedef struct MDB_cursor:
        pass
    ctypedef unsigned int MDB_dbi
    ctypedef struct MDB_val:
        size_t mv_size
        void *mv_data
    ctypedef struct MDB_envinfo:
        size_t me_mapsize, me_last_pgno
    ctypedef struct Api:
        int (*env_create)(MDB_env **) noexcept nogil
        int (*env_set_mapsize)(MDB_env *, size_t) noexcept nogil
        int (*env_set_maxreaders)(MDB_env *, unsigned int) noexcept nogil
        int (*env_info)(MDB_env *, MDB_envinfo *) noexcept nogil
        int (*env_open)(MDB_env *, const char *, unsigned int, int) noexcept nogil
        int (*env_sync)(MDB_env *, int) noexcept nogil
        void (*env_close)(MDB_env *) noexcept nogil
        int (*txn_begin)(MDB_env *, MDB_txn *, unsigned int, MDB_txn **) noexcept nogil
        int (*txn_commit)(MDB_txn *) noexcept nogil
        void (*txn_abort)(MDB_txn *) noexcept nogil
        int (*dbi_open)(MDB_txn *, const char *, unsigned int, MDB_dbi *) noexcept nogil
        int (*get)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *) noexcept nogil
        int (*put)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *, unsigned int) noexcept nogil
        int (*del_ "del")(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *) noexcept nogil
        int (*cursor_open)(MDB_txn *, MDB_dbi, MDB_cursor **) noexcept nogil
        int (*cursor_get)(MDB_cursor *, MDB_val *, MDB_val *, int) noexcept nogil
        int (*cursor_put)(MDB_cursor *, MDB_val *, MDB_val *, unsigned int) noexcept nogil
        int (*cursor_del)(MDB_cursor *, unsigned int) noexcept nogil
        void (*cursor_close)(MDB_cursor *) noexcept nogil
        int (*reader_check)(MDB_env *, int *) noexcept nogil
        char *(*strerror_)(int) noexcept nogil
    Api lm
    const char *lm_bind(const char *)

cdef extern from "errno.h" nogil:
    int EINVAL, ENOMEM

cdef enum:
    NOSYNC = 0x10000
    RDONLY = 0x20000
    NOTLS = 0x200000
    NORDAHEAD = 0x800000
    NOMEMINIT = 0x1000000
    PUT_RESERVE = 0x10000
    PUT_APPEND = 0x20000
    PUT_CURRENT = 0x40
    OP_GET_CURRENT = 4
    OP_LAST = 6
    OP_SET = 15
    OP_NEXT = 8
    OP_SET_RANGE = 17
    NOTFOUND = -30798
    MAP_RESIZED = -30785
