/* SHA-256 and CRC-32 of the libraries that Python itself uses, found at run time.

   OpenSSL's low-level calls are used because its one-shot ones look the algorithm up each time,
   which costs more than hashing an entry does. */
#ifndef BIFROST_DIGEST_H
#define BIFROST_DIGEST_H

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#define DG_HASH 32
#define DG_CONTEXT 256 /* bytes; OpenSSL's SHA256_CTX has 112 */

typedef struct { _Alignas(16) unsigned char room[DG_CONTEXT]; } dg_context;

static int (*dg_init)(void *);
static int (*dg_update)(void *, const void *, size_t);
static int (*dg_final)(unsigned char *, void *);
static unsigned long (*dg_crc)(unsigned long, const unsigned char *, unsigned);

static void *dg_symbol(const char *path, const char *name) {
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD); /* NULL: the program itself */
    void *found = library ? dlsym(library, name) : NULL;
    if (library) dlclose(library);
    return found;
}

/* Whether all is there. A path is that of a loaded extension, or NULL. */
static int dg_bind(const char *hashes, const char *crcs) {
    *(void **)&dg_init = dg_symbol(hashes, "SHA256_Init");
    *(void **)&dg_update = dg_symbol(hashes, "SHA256_Update");
    *(void **)&dg_final = dg_symbol(hashes, "SHA256_Final");
    *(void **)&dg_crc = dg_symbol(crcs, "crc32");
    return dg_init && dg_update && dg_final && dg_crc;
}

static inline void dg_hash(unsigned char *out, unsigned char prefix, const void *data, size_t size) {
    dg_context context;
    dg_init(&context);
    dg_update(&context, &prefix, 1);
    dg_update(&context, data, size);
    dg_final(out, &context);
}

/* The root over `count` hashes in `row`, which is overwritten; an odd last one is handed up. */
static void dg_fold(unsigned char *row, size_t count) {
    while (count > 1) {
        size_t pairs = count / 2;
        for (size_t i = 0; i < pairs; i++)
            dg_hash(row + i * DG_HASH, 1, row + 2 * i * DG_HASH, 2 * DG_HASH);
        if (count & 1) memmove(row + pairs * DG_HASH, row + 2 * pairs * DG_HASH, DG_HASH);
        count = pairs + (count & 1);
    }
}

static inline uint32_t dg_u32(const unsigned char *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t dg_u64(const unsigned char *at) {
    return dg_u32(at) | (uint64_t)dg_u32(at + 4) << 32;
}

typedef struct { size_t at; uint64_t index; size_t hashed; } dg_walk;

#define DG_HEAD 16
#define DG_LENGTH 0x7fffffffu

/* Hashes the whole frames from `w->at` on whose indexes follow `w->index`, to before `end`, at most
   `most` of them. */
static void dg_frames(const unsigned char *data, size_t size, uint64_t end, size_t most,
                      unsigned char *row, dg_walk *w) {
    while (w->hashed < most && w->index < end && size - w->at >= DG_HEAD) {
        const unsigned char *head = data + w->at;
        size_t length = dg_u32(head) & DG_LENGTH;
        unsigned char mark[12];
        unsigned long crc;
        if (dg_u64(head + 8) != w->index || length > size - w->at - DG_HEAD) return;
        memcpy(mark, head, 4);
        memcpy(mark + 4, head + 8, 8);
        crc = dg_crc(dg_crc(0, mark, 12), head + DG_HEAD, (unsigned)length);
        if (crc != dg_u32(head + 4)) return;
        dg_hash(row + w->hashed * DG_HASH, 0, head + DG_HEAD, length);
        w->at += DG_HEAD + length;
        w->index++;
        w->hashed++;
    }
}

#endif
