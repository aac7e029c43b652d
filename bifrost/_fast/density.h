/* What all processes of a data directory learned about one model, in a file that each maps.
 *
 * A cell is claimed once by a name's hash and never given back. Bytes and tokens of output share one
 * word, so that nobody reads the one without the other. Nothing here is money: what is read is
 * checked by the reader and only bounds and estimates depend on it.
 */
#ifndef BF_DENSITY_H
#define BF_DENSITY_H

#include <stdint.h>

typedef struct {
    uint64_t name;      /* 0: nobody's */
    int64_t samples;    /* plain requests whose input told something */
    int64_t seen;       /* most tokens of 1,024 bytes of input */
    uint64_t output;    /* bytes of text << 32 | their tokens */
} bf_density;

static inline bf_density *bf_density_claim(bf_density *cells, uint64_t count, uint64_t name) {
    for (uint64_t i = 0; i < count; i++) {
        bf_density *cell = cells + (name + i) % count;
        uint64_t owner = __atomic_load_n(&cell->name, __ATOMIC_ACQUIRE);
        if (owner == 0 && __atomic_compare_exchange_n(&cell->name, &owner, name, 0, __ATOMIC_ACQ_REL,
                                                      __ATOMIC_ACQUIRE))
            return cell;
        if (owner == name) return cell;
    }
    return 0;
}

static inline void bf_density_learn(bf_density *cell, int64_t per_kib) {
    int64_t seen = __atomic_load_n(&cell->seen, __ATOMIC_RELAXED);
    while (seen < per_kib && !__atomic_compare_exchange_n(&cell->seen, &seen, per_kib, 0,
                                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    __atomic_fetch_add(&cell->samples, 1, __ATOMIC_RELEASE);
}

/* Adds one answer; from ``memory`` tokens on all that was before counts half. */
static inline void bf_density_hear(bf_density *cell, uint64_t bytes, uint64_t tokens,
                                   uint64_t memory) {
    uint64_t old = __atomic_load_n(&cell->output, __ATOMIC_RELAXED), fresh;
    do {
        uint64_t b = old >> 32, t = old & 0xffffffff;
        if (t >= memory) { b /= 2; t /= 2; }
        fresh = (b + bytes) << 32 | (t + tokens);
    } while (!__atomic_compare_exchange_n(&cell->output, &old, fresh, 0, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
}

static inline int64_t bf_density_samples(const bf_density *cell) {
    return __atomic_load_n(&cell->samples, __ATOMIC_ACQUIRE);
}

static inline int64_t bf_density_seen(const bf_density *cell) {
    return __atomic_load_n(&cell->seen, __ATOMIC_RELAXED);
}

static inline uint64_t bf_density_output(const bf_density *cell) {
    return __atomic_load_n(&cell->output, __ATOMIC_RELAXED);
}

#endif
