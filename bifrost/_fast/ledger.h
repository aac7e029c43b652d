/* The ledger: one file mapped by every process of a data directory, in which money is held.
 *
 *   header   the lock, the redo list, where everything starts
 *   ring     events that are settled and not yet drained, oldest first
 *   records  one per request under way or waiting: whose, how much, under what (books.h)
 *   meters   512 bytes per rate limit: what passed lately (meter.h)
 *   cells    64 bytes per budget and window: what is settled and what is reserved
 *
 * A change is a list of (word, value) pairs. It is written into the redo list first, then made
 * valid by one store, then applied; whoever finds the lock of a dead process applies a valid list
 * again. So a process may be killed between any two instructions and every change is whole or
 * absent. The pages belong to the kernel, not to a process: only a power cut can lose them.
 *
 * The lock is a robust process-shared mutex (POSIX.1-2008): the kernel tells its next owner that
 * the last one died. Systems without it (macOS) use flock, which the kernel drops with its owner.
 */
#ifndef BIFROST_LEDGER_H
#define BIFROST_LEDGER_H
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__linux__) || defined(__FreeBSD__)
#define LED_ROBUST 1
#endif

enum {
    LED_SLOTS = 24,                 /* budgets and limits one request can be under */
    LED_NOTE = 1536,                /* bytes kept with a reservation for whoever must charge it */
    LED_REDO = 256,
    LED_RECORDS = 1 << 15,          /* reservations under way at the same time */
    LED_RING = 1 << 21,
    LED_SOFT = 1 << 18,             /* of the ring are used while somebody drains it: stays cached */
    LED_CHUNK = 1 << 18,            /* the file grows by this many bytes */
};
#define LED_MAGIC 0x0274736F72666942ULL   /* "Bifrost", layout 2 */
#define LED_AT_RING ((size_t)1 << 16)
#define LED_AT_RECORDS (LED_AT_RING + LED_RING)
#define LED_AT_METERS ((size_t)1 << 26)
#define LED_AT_CELLS ((size_t)1 << 28)
#define LED_METERS ((LED_AT_CELLS - LED_AT_METERS) / sizeof(led_meter))
#define LED_CELLS ((size_t)1 << 24)
#define LED_SIZE (LED_AT_CELLS + LED_CELLS * sizeof(led_cell))
#define LED_SKIP 0xFFFFFFFFu        /* the rest of the ring up to its end is unused */

/* What led_* functions answer besides 0 and errno: */
enum { LED_REFUSED = -1, LED_STALE = -2, LED_NO_ROOM = -3, LED_GONE = -4, LED_FULL = -5,
       LED_BEHIND = -6 };

/* What a slot of a plan counts: */
enum { LED_MONEY, LED_OVERDRAFT, LED_CONCURRENCY, LED_REQUESTS, LED_INPUT, LED_OUTPUT, LED_TOKENS };

typedef struct {
    uint64_t budget;
    int64_t start_ns;
    int64_t settled, reserved;      /* nano-USD */
    int64_t requests, input_tokens, output_tokens;
    int64_t updated_ns;
} led_cell;

enum { LED_BUCKETS = 121 };

typedef struct {
    uint64_t id;                    /* of the limit; 0: free */
    int64_t span_ns;                /* its window */
    uint64_t newest;                /* number of the newest bucket, counted from the epoch */
    uint32_t count[LED_BUCKETS + 1];        /* by number % LED_BUCKETS; the last is not used */
} led_meter;

typedef struct {
    uint64_t owner;                 /* 0: free */
    uint64_t next;                  /* of the free list, 1-based */
    uint64_t sequence;              /* of its owner; of the line while it waits */
    int64_t amount, created_ns;     /* of one that waits: when it was last heard of */
    int64_t input_tokens, output_tokens;
    uint64_t waits_on;              /* 1 + the cell it waits for; 0: it holds what follows */
    uint32_t parts, note_size;
    uint32_t part[LED_SLOTS];       /* kind << 28 | number of the cell or meter */
    char note[LED_NOTE];
} led_record;

typedef struct { uint64_t *at; uint64_t value; } led_word;

typedef struct {
    uint64_t magic, identity;
    uint64_t clean;                 /* closed by its last process, everything on disk */
    char boot[40];                  /* the boot in which it was opened */
    union { pthread_mutex_t lock; char room[64]; };
    uint64_t records_size, meters_size, cells_size; /* bytes of the file that are there */
    /* words that change only through the redo list */
    uint64_t cells_used, cells_free, meters_used, meters_free, records_used, records_free;
    uint64_t tail, last;
    uint64_t waiting, line;         /* records that wait; the number of the next to come */
    uint64_t freed;                 /* changes when anything is given back */
    uint64_t head;                  /* of the ring; a single store, needs no redo */
    uint64_t redo_count;
    struct { uint64_t at, value; } redo[LED_REDO];
    uint64_t barred;                /* errno for which nobody is let in, 0: open; a single store */
    uint64_t assured;               /* events up to this number are in the log, on the disk */
    uint64_t urged;                 /* up to this number somebody waits for that */
} led_header;

typedef struct {
    char *base;
    led_header *head;
    led_cell *cells;
    led_record *records;
    led_meter *meters;
    char *ring;
    int fd;
    uint32_t pending;               /* words of the change being made */
} ledger;

typedef struct {
    uint64_t budget;                /* number of the budget or limit */
    int64_t limit, start_ns, end_ns;        /* of a rate limit end_ns is its window's length */
    int64_t until_ns;               /* limit and window hold until then */
    uint32_t cell;                  /* or meter */
    uint32_t kind;
} led_slot;

/* -- changes: all or nothing, also for a process that is killed ------------------------------ */

static inline void led_put(ledger *l, uint64_t *at, uint64_t value) {
    l->head->redo[l->pending].at = (uint64_t)((char *)at - l->base);
    l->head->redo[l->pending++].value = value;
}

static inline void led_apply(ledger *l, uint64_t count) {
    for (uint64_t i = 0; i < count && i < LED_REDO; i++)
        *(uint64_t *)(l->base + l->head->redo[i].at) = l->head->redo[i].value;
}

static inline void led_commit(ledger *l) {
    /* The fences order the compiler; a killed process's own stores are seen in program order. */
    __atomic_store_n(&l->head->redo_count, l->pending, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    led_apply(l, l->pending);
    __atomic_store_n(&l->head->redo_count, 0, __ATOMIC_RELEASE);
    l->pending = 0;
}

static inline void led_redo(ledger *l) {
    led_apply(l, l->head->redo_count);
    __atomic_store_n(&l->head->redo_count, 0, __ATOMIC_RELEASE);
}

static inline int led_lock(ledger *l) {
    l->pending = 0;
#ifdef LED_ROBUST
    int code = pthread_mutex_lock(&l->head->lock);
    if (code == EOWNERDEAD) {
        led_redo(l);
        code = pthread_mutex_consistent(&l->head->lock);
    }
    return code;
#else
    while (flock(l->fd, LOCK_EX))
        if (errno != EINTR) return errno;
    led_redo(l);
    return 0;
#endif
}

static inline void led_unlock(ledger *l) {
#ifdef LED_ROBUST
    pthread_mutex_unlock(&l->head->lock);
#else
    flock(l->fd, LOCK_UN);
#endif
}

/* -- looking at a ledger without mapping it: may what it holds be trusted? --------------------- */

enum { LED_NEW, LED_SOUND, LED_UNCLEAN, LED_DAMAGED };

/* LED_UNCLEAN: another boot than `boot` had it open when the machine went down. `boot` may be empty
 * (then nobody can tell). A negative answer is -errno. */
static inline int led_look(int fd, const char *boot, size_t boot_size) {
    led_header h;
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0) return -errno;
    if (size == 0) return LED_NEW;
    ssize_t got = pread(fd, &h, sizeof(h), 0);
    if (got < 0) return -errno;
    if (got != (ssize_t)sizeof(h) || (h.magic && h.magic != LED_MAGIC)) return LED_DAMAGED;
    if (h.magic == 0) return h.identity || h.tail || h.cells_used ? LED_DAMAGED : LED_NEW;
    if (!h.clean && memcmp(h.boot, boot, boot_size)) return LED_UNCLEAN;
    uint64_t most = (uint64_t)size;
    if (most < LED_AT_CELLS || LED_AT_RECORDS + h.records_size > most
        || LED_AT_METERS + h.meters_size > most || LED_AT_CELLS + h.cells_size > most
        || h.records_used * sizeof(led_record) > h.records_size
        || h.cells_used * sizeof(led_cell) > h.cells_size
        || h.meters_used * sizeof(led_meter) > h.meters_size
        || h.head > h.tail || h.tail - h.head > LED_RING || h.redo_count > LED_REDO)
        return LED_DAMAGED;
    return LED_SOUND;
}

/* -- opening: the caller holds the lock of openers ------------------------------------------ */

/* Makes room on the disk before a page is touched: a full disk is an error here, not a SIGBUS. */
static inline int led_room(ledger *l, size_t at, uint64_t *have, size_t need) {
    if (need <= *have) return 0;
    size_t size = (need + LED_CHUNK - 1) / LED_CHUNK * LED_CHUNK;
    int code = posix_fallocate(l->fd, (off_t)(at + *have), (off_t)(size - *have));
    if (code == 0) *have = size;
    return code;
}

/* Maps the file of an open descriptor; `alone`: no other process has it, so its lock is made anew
 * and a change that was cut off is completed. `identity` names a new ledger. */
static inline int led_open(ledger *l, int fd, int alone, uint64_t identity) {
    int code = 0;
    uint64_t nothing = 0;
    l->fd = fd;
    if (alone) {
        off_t size = lseek(fd, 0, SEEK_END);
        if (size < (off_t)LED_AT_CELLS && ftruncate(fd, LED_AT_CELLS)) return errno;
        code = led_room(l, 0, &nothing, LED_AT_RECORDS);
        if (code) return code;
    }
    l->base = (char *)mmap(NULL, LED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (l->base == (char *)MAP_FAILED) { l->base = NULL; return errno; }
    l->head = (led_header *)l->base;
    l->ring = l->base + LED_AT_RING;
    l->records = (led_record *)(l->base + LED_AT_RECORDS);
    l->meters = (led_meter *)(l->base + LED_AT_METERS);
    l->cells = (led_cell *)(l->base + LED_AT_CELLS);
    if (!alone) return l->head->magic == LED_MAGIC ? 0 : EINVAL;
    l->head->barred = 0;
    if (l->head->magic == 0) {
        l->head->identity = identity;
        l->head->clean = 1;
        l->head->magic = LED_MAGIC;
    } else if (l->head->magic != LED_MAGIC) {
        return EINVAL;
    }
#ifdef LED_ROBUST
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    code = pthread_mutex_init(&l->head->lock, &kind);
    pthread_mutexattr_destroy(&kind);
#endif
    led_redo(l);
    return code;
}

/* Makes this process's first requests as cheap as the rest: writable pages before they are needed. */
static inline void led_warm(ledger *l) {
    for (size_t at = 0; at < LED_AT_RING + LED_SOFT; at += 4096)
        __atomic_fetch_or(l->base + at, 0, __ATOMIC_RELAXED);
}

static inline void led_close(ledger *l) {
    if (l->base) munmap(l->base, LED_SIZE);
    l->base = NULL;
}

/* -- cells ---------------------------------------------------------------------------------- */

static inline int led_is(const ledger *l, uint32_t cell, uint64_t budget, int64_t start_ns) {
    return cell < l->head->cells_used && l->cells[cell].budget == budget
        && l->cells[cell].start_ns == start_ns;
}

/* A cell for a budget and window that has none, with what is known of it; it sleeps until its row
 * is written. Locked by the caller. */
static inline int led_take_cell(ledger *l, const led_cell *content, uint32_t *taken) {
    led_header *h = l->head;
    uint64_t index = h->cells_free ? h->cells_free - 1 : h->cells_used;
    if (index >= LED_CELLS) return LED_FULL;
    int code = led_room(l, LED_AT_CELLS, &h->cells_size, (index + 1) * sizeof(led_cell));
    if (code) return code;
    led_cell *c = l->cells + index;
    if (h->cells_free) led_put(l, &h->cells_free, (uint64_t)c->settled);
    else led_put(l, &h->cells_used, index + 1);
    led_put(l, &c->budget, ~content->budget);
    for (size_t i = 1; i < sizeof(led_cell) / 8; i++)
        led_put(l, (uint64_t *)c + i, ((const uint64_t *)content)[i]);
    led_commit(l);
    *taken = (uint32_t)index;
    return 0;
}

/* Gives a cell back; its window lives on elsewhere. The free list runs through `settled`. */
static inline void led_give_cell(ledger *l, uint32_t index) {
    led_cell *c = l->cells + index;
    led_put(l, &c->budget, 0);
    led_put(l, (uint64_t *)&c->start_ns, 0);
    led_put(l, (uint64_t *)&c->settled, l->head->cells_free);
    led_put(l, &l->head->cells_free, (uint64_t)index + 1);
    led_commit(l);
}

/* A cell that is being moved in or out sleeps: its budget's bits are turned, so that nobody who
 * remembers its number takes it for his, should its mover die half-way. */
static inline int led_asleep(const ledger *l, uint32_t cell, uint64_t budget, int64_t start_ns) {
    return led_is(l, cell, ~budget, start_ns);
}

static inline void led_turn(ledger *l, uint32_t cell) {
    led_put(l, &l->cells[cell].budget, ~l->cells[cell].budget);
    led_commit(l);
}

static inline int led_resting(const ledger *l, uint32_t cell, int64_t since_ns) {
    const led_cell *c = l->cells + cell;
    return c->budget && c->reserved == 0 && c->updated_ns < since_ns;
}

/* -- the ring ------------------------------------------------------------------------------- */

typedef struct { uint32_t size, spare; uint64_t sequence; } led_entry;

static inline uint64_t led_entry_size(uint64_t size) { return (sizeof(led_entry) + size + 7) & ~7ULL; }

/* Writes an event behind the ring's end, where nobody looks yet, and puts the new end and its
 * sequence into the change. Sequences are the time in ns, or one more than the last. */
static inline int led_event(ledger *l, const char *event, size_t size, int64_t now_ns) {
    led_header *h = l->head;
    uint64_t need = led_entry_size(size), at = h->tail, offset = at % LED_RING;
    if (need > LED_RING / 4) return EMSGSIZE;
    uint64_t drained = h->head / LED_RING == at / LED_RING ? h->head % LED_RING : 0;
    uint64_t pad = 0;
    if (offset + need > LED_RING || (offset >= LED_SOFT && drained >= LED_SOFT / 2 && drained >= need))
        pad = LED_RING - offset;
    if (at + pad + need - h->head > LED_RING) return LED_NO_ROOM;
    if (pad) {
        ((led_entry *)(l->ring + offset))->size = LED_SKIP;
        at += pad;
        offset = 0;
    }
    led_entry *entry = (led_entry *)(l->ring + offset);
    entry->size = (uint32_t)size;
    entry->sequence = (uint64_t)now_ns > h->last ? (uint64_t)now_ns : h->last + 1;
    memcpy(entry + 1, event, size);
    led_put(l, &h->last, entry->sequence);
    led_put(l, &h->tail, at + need);
    return 0;
}

/* How many bytes of events find room, about: nobody is held up to tell. */
static inline uint64_t led_spare(const ledger *l) {
    uint64_t head = l->head->head, tail = l->head->tail, used = tail - head;
    if (used >= LED_RING) return used > LED_RING ? LED_RING : 0;    /* seen while they moved */
    if (head / LED_RING != tail / LED_RING) return LED_RING - used;
    uint64_t behind = LED_RING - tail % LED_RING, before = head % LED_RING;
    return behind > before ? behind : before;
}

/* Where the ring begins and ends now. */
static inline int led_span(ledger *l, uint64_t *head, uint64_t *tail) {
    int code = led_lock(l);
    if (code) return code;
    *head = l->head->head;
    *tail = l->head->tail;
    led_unlock(l);
    return 0;
}

/* The entry at position *at, and the position behind it; NULL at the ring's end. */
static inline const led_entry *led_next(const ledger *l, uint64_t *at, uint64_t tail) {
    if (*at >= tail) return NULL;
    const led_entry *entry = (const led_entry *)(l->ring + *at % LED_RING);
    if (entry->size == LED_SKIP) {
        *at += LED_RING - *at % LED_RING;
        if (*at >= tail) return NULL;
        entry = (const led_entry *)(l->ring + *at % LED_RING);
    }
    *at += led_entry_size(entry->size);
    return entry;
}
#endif
