/* Meters: what passed in the last window of a rate limit, in 120 steps of it.
 *
 * A step counts in full until the whole window after its end is over, so no window of that length
 * ever holds more than the limit, wherever it begins; sustained, 120/121 of the limit pass.
 */
#ifndef BIFROST_METER_H
#define BIFROST_METER_H
#include "ledger.h"

static inline int64_t led_step(int64_t span_ns) { return span_ns / (LED_BUCKETS - 1) + 1; }

static inline int led_meter_is(const ledger *l, uint32_t meter, uint64_t id, int64_t span_ns) {
    return meter < l->head->meters_used && l->meters[meter].id == id
        && l->meters[meter].span_ns == span_ns;
}

static inline void led_turn_id(ledger *l, uint32_t meter) {
    led_put(l, &l->meters[meter].id, ~l->meters[meter].id);
    led_commit(l);
}

/* A meter for a limit that has none; it sleeps until its row is written. Locked by the caller. */
static inline int led_take_meter(ledger *l, uint64_t id, int64_t span_ns, uint32_t *taken) {
    led_header *h = l->head;
    uint64_t index = h->meters_free ? h->meters_free - 1 : h->meters_used;
    if (index >= LED_METERS) return LED_FULL;
    int code = led_room(l, LED_AT_METERS, &h->meters_size, (index + 1) * sizeof(led_meter));
    if (code) return code;
    led_meter *m = l->meters + index;
    uint64_t next = m->newest;      /* of the free list */
    memset(m->count, 0, sizeof(m->count));
    if (h->meters_free) led_put(l, &h->meters_free, next);
    else led_put(l, &h->meters_used, index + 1);
    led_put(l, &m->newest, 0);
    led_put(l, (uint64_t *)&m->span_ns, (uint64_t)span_ns);
    led_put(l, &m->id, ~id);
    led_commit(l);
    *taken = (uint32_t)index;
    return 0;
}

static inline void led_give_meter(ledger *l, uint32_t index) {
    led_meter *m = l->meters + index;
    led_put(l, &m->id, 0);
    led_put(l, &m->newest, l->head->meters_free);
    led_put(l, &l->head->meters_free, (uint64_t)index + 1);
    led_commit(l);
}

/* Whether nothing in a meter counts any more. */
static inline int led_meter_over(const ledger *l, uint32_t index, int64_t now_ns) {
    const led_meter *m = l->meters + index;
    if (m->id == 0) return 0;
    int64_t step = led_step(m->span_ns);
    return (int64_t)m->newest * step + m->span_ns + step <= now_ns;
}

/* Leaves of `n` meters, in rising order, those that are over and that nobody under way wants to
 * correct; returns how many. Locked by the caller; looks at every record once. */
static inline int led_meters_idle(const ledger *l, uint32_t *sorted, int n, int64_t now_ns) {
    char held[256] = {0};
    if (n > 256) n = 256;
    for (uint64_t i = 0; i < l->head->records_used; i++) {
        const led_record *r = l->records + i;
        if (r->owner == 0 || r->waits_on) continue;
        for (uint32_t j = 0; j < r->parts; j++) {
            uint32_t meter = r->part[j] & 0xFFFFFFF;
            int low = 0, high = n;
            if (r->part[j] >> 28 < LED_REQUESTS || meter < sorted[0] || meter > sorted[n - 1]) continue;
            while (low < high) {
                int middle = (low + high) / 2;
                if (sorted[middle] < meter) low = middle + 1;
                else high = middle;
            }
            if (low < n && sorted[low] == meter) held[low] = 1;
        }
    }
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (!held[i] && led_meter_over(l, sorted[i], now_ns)) sorted[kept++] = sorted[i];
    return kept;
}

/* Lets the steps that are over go. Safe to be cut off anywhere: what it clears does not count. */
static inline void led_turn_meter(led_meter *m, int64_t now_ns) {
    uint64_t now = (uint64_t)(now_ns / led_step(m->span_ns));
    uint64_t gone = now - m->newest;
    if (now < m->newest) {
        if (m->newest - now < LED_BUCKETS) return;      /* the clock was set back a little */
        gone = LED_BUCKETS;
    }
    if (gone > LED_BUCKETS) gone = LED_BUCKETS;
    for (uint64_t i = 0; i < gone; i++) m->count[(now - i) % LED_BUCKETS] = 0;
    __atomic_store_n(&m->newest, now, __ATOMIC_RELEASE);
}

static inline int64_t led_metered(const led_meter *m) {
    int64_t sum = 0;
    for (int i = 0; i < LED_BUCKETS; i++) sum += m->count[i];
    return sum;
}

/* When, in ns from now, `excess` of what counts will be gone. */
static inline int64_t led_wait_for(const led_meter *m, int64_t excess, int64_t now_ns) {
    int64_t step = led_step(m->span_ns), gone = 0;
    for (uint64_t i = 0; i < LED_BUCKETS; i++) {
        uint64_t number = m->newest - (LED_BUCKETS - 1) + i;
        gone += m->count[number % LED_BUCKETS];
        if (gone >= excess) return (int64_t)(number + LED_BUCKETS) * step - now_ns;
    }
    return m->span_ns;
}

/* Puts `more` (or less) into the step of a time; nothing if that step no longer counts. */
static inline void led_count(ledger *l, led_meter *m, int64_t at_ns, int64_t more) {
    uint64_t number = (uint64_t)(at_ns / led_step(m->span_ns));
    if (number > m->newest) number = m->newest;
    if (m->newest - number >= LED_BUCKETS || more == 0) return;
    uint32_t place = (uint32_t)(number % LED_BUCKETS);
    int64_t value = (int64_t)m->count[place] + more;
    if (value < 0) value = 0;
    if (value > UINT32_MAX) value = UINT32_MAX;
    uint64_t word;
    uint32_t pair[2];
    memcpy(pair, m->count + (place & ~1u), 8);
    pair[place & 1] = (uint32_t)value;
    memcpy(&word, pair, 8);
    led_put(l, (uint64_t *)(m->count + (place & ~1u)), word);
}
#endif
