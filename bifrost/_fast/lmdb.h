/* The part of LMDB 0.9's public C interface (lmdb.h) that the gate calls, bound at run time to the
 * library inside the already loaded `lmdb` package: one copy of LMDB per process, no system package.
 * Numbers are those of lmdb.h 0.9; lmdb 3 exports the 0.9 engine with the prefix mdb09_, older ones
 * as mdb_. */
#ifndef BIFROST_LMDB_H
#define BIFROST_LMDB_H
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef struct MDB_env MDB_env;
typedef struct MDB_txn MDB_txn;
typedef struct MDB_cursor MDB_cursor;
typedef unsigned int MDB_dbi;
typedef struct { size_t mv_size; void *mv_data; } MDB_val;
typedef struct {
    void *me_mapaddr;
    size_t me_mapsize, me_last_pgno, me_last_txnid;
    unsigned int me_maxreaders, me_numreaders;
} MDB_envinfo;

static struct {
    int (*env_create)(MDB_env **);
    int (*env_set_mapsize)(MDB_env *, size_t);
    int (*env_set_maxreaders)(MDB_env *, unsigned int);
    int (*env_info)(MDB_env *, MDB_envinfo *);
    int (*env_open)(MDB_env *, const char *, unsigned int, int);
    int (*env_sync)(MDB_env *, int);
    void (*env_close)(MDB_env *);
    int (*txn_begin)(MDB_env *, MDB_txn *, unsigned int, MDB_txn **);
    int (*txn_commit)(MDB_txn *);
    void (*txn_abort)(MDB_txn *);
    int (*dbi_open)(MDB_txn *, const char *, unsigned int, MDB_dbi *);
    int (*get)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *);
    int (*put)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *, unsigned int);
    int (*del)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *);
    int (*cursor_open)(MDB_txn *, MDB_dbi, MDB_cursor **);
    int (*cursor_get)(MDB_cursor *, MDB_val *, MDB_val *, int);
    int (*cursor_put)(MDB_cursor *, MDB_val *, MDB_val *, unsigned int);
    int (*cursor_del)(MDB_cursor *, unsigned int);
    void (*cursor_close)(MDB_cursor *);
    int (*reader_check)(MDB_env *, int *);
    char *(*strerror_)(int);
} lm;

/* Returns NULL when every function was found, else the name of the first missing one. */
static inline const char *lm_bind(const char *path) {
    static const struct { const char *name; void **slot; } table[] = {
        {"env_create", (void **)&lm.env_create}, {"env_set_mapsize", (void **)&lm.env_set_mapsize},
        {"env_info", (void **)&lm.env_info}, {"env_set_maxreaders", (void **)&lm.env_set_maxreaders},
        {"env_open", (void **)&lm.env_open}, {"env_sync", (void **)&lm.env_sync},
        {"env_close", (void **)&lm.env_close}, {"txn_begin", (void **)&lm.txn_begin},
        {"txn_commit", (void **)&lm.txn_commit}, {"txn_abort", (void **)&lm.txn_abort},
        {"dbi_open", (void **)&lm.dbi_open}, {"get", (void **)&lm.get}, {"put", (void **)&lm.put},
        {"del", (void **)&lm.del}, {"cursor_open", (void **)&lm.cursor_open},
        {"cursor_get", (void **)&lm.cursor_get}, {"cursor_put", (void **)&lm.cursor_put}, {"cursor_del", (void **)&lm.cursor_del},
        {"cursor_close", (void **)&lm.cursor_close}, {"reader_check", (void **)&lm.reader_check},
        {"strerror", (void **)&lm.strerror_},
    };
    static const char *prefixes[] = {"mdb09_", "mdb_"};
    char name[64];
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (!library) return "the library itself";
    for (size_t p = 0; p < 2; p++) {
        size_t i = 0, n = sizeof(table) / sizeof(table[0]);
        for (; i < n; i++) {
            snprintf(name, sizeof(name), "%s%s", prefixes[p], table[i].name);
            if (!(*table[i].slot = dlsym(library, name))) break;
        }
        if (i == n) return NULL;
        if (p == 1) return table[i].name;
    }
    return "unreachable";
}

#endif
