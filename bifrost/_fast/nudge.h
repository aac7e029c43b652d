/* Waiting for a word of a mapped file to change, between processes: a futex on its lower half.

   Whoever is killed while it waits or wakes leaves nothing behind. Elsewhere than on Linux a wait
   is a short sleep, and whoever waits looks again. */
#ifndef BIFROST_NUDGE_H
#define BIFROST_NUDGE_H

#include <limits.h>
#include <stdint.h>
#include <time.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define NUDGE_LOOK_NS 4000000 /* a sleep, where there is nothing better */

static inline uint32_t *nudge_half(uint64_t *word) {
    return (uint32_t *)word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

static inline uint32_t nudge_seen(uint64_t *word) {
    return __atomic_load_n(nudge_half(word), __ATOMIC_ACQUIRE);
}

/* Returns at once if the word is not as it was seen, else when it is waked, or at the latest after
   so many nanoseconds; also for a signal or without a reason. */
static inline void nudge_wait(uint64_t *word, uint32_t seen, int64_t ns) {
    struct timespec most = {ns / 1000000000, ns % 1000000000};
#ifdef __linux__
    syscall(SYS_futex, nudge_half(word), FUTEX_WAIT, seen, &most, NULL, 0);
#else
    (void)word, (void)seen;
    if (ns > NUDGE_LOOK_NS) most.tv_sec = 0, most.tv_nsec = NUDGE_LOOK_NS;
    nanosleep(&most, NULL);
#endif
}

static inline void nudge_wake(uint64_t *word) {
#ifdef __linux__
    syscall(SYS_futex, nudge_half(word), FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

#endif
