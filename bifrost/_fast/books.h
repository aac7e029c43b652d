/* The books: what a request must clear before it leaves, and its account when it is back. */
#ifndef BIFROST_BOOKS_H
#define BIFROST_BOOKS_H
#include "ledger.h"
#include "meter.h"

#define LED_UNHEARD_NS 2000000000LL     /* who waits and is silent for so long has left the line */

typedef struct {
    uint64_t owner, sequence;
    int64_t amount;                 /* nano-USD, at most */
    int64_t input_tokens, output_tokens;    /* at most */
    int64_t now_ns;
    const char *note;
    size_t note_size;
    uint32_t place;                 /* 1 + its record in the line; 0: it does not wait */
} led_ask;

typedef struct {
    uint32_t record;                /* where it is held */
    int which;                      /* the slot that refuses */
    int tight;                      /* the slot that has the least money left */
    int64_t left;                   /* that much, -1 without budgets */
    int64_t settled, reserved;      /* of the refusing slot */
    int64_t retry_ns;               /* when a rate limit lets it in, -1: never as it is */
} led_answer;

static inline int led_take_record(ledger *l, uint32_t *taken) {
    led_header *h = l->head;
    uint64_t index = h->records_free ? h->records_free - 1 : h->records_used;
    if (index >= LED_RECORDS) return LED_FULL;
    int code = led_room(l, LED_AT_RECORDS, &h->records_size, (index + 1) * sizeof(led_record));
    if (code) return code;
    if (h->records_free) led_put(l, &h->records_free, l->records[index].next);
    else led_put(l, &h->records_used, index + 1);
    *taken = (uint32_t)index;
    return 0;
}

static inline void led_give_record(ledger *l, uint32_t index) {
    led_record *r = l->records + index;
    led_put(l, &r->owner, 0);
    led_put(l, &r->waits_on, 0);
    led_put(l, &r->next, l->head->records_free);
    led_put(l, &l->head->records_free, (uint64_t)index + 1);
}

/* -- the line: who waits for a budget's money under way to come back, first come first served -- */

/* Takes a request out of the line. Locked by the caller. */
static inline void led_leave(ledger *l, uint32_t index) {
    led_give_record(l, index);
    led_put(l, &l->head->waiting, l->head->waiting - 1);
    led_commit(l);
}

static inline void led_clear_line(ledger *l, int64_t now_ns) {
    for (uint64_t i = 0; i < l->head->records_used; i++) {
        led_record *r = l->records + i;
        if (r->owner && r->waits_on && now_ns - r->created_ns > LED_UNHEARD_NS)
            led_leave(l, (uint32_t)i);
    }
}

/* Whether somebody who came before `number` waits for a cell. */
static inline int led_behind(const ledger *l, uint32_t cell, uint64_t number) {
    for (uint64_t i = 0; i < l->head->records_used; i++) {
        const led_record *r = l->records + i;
        if (r->owner && r->waits_on == (uint64_t)cell + 1 && r->sequence < number) return 1;
    }
    return 0;
}

/* Puts a request into the line for a cell, or notes what it waits for now. *place is 1-based. */
static inline int led_wait(ledger *l, uint64_t owner, uint32_t cell, int64_t now_ns,
                           uint32_t *place) {
    led_header *h = l->head;
    int code = led_lock(l);
    if (code) return code;
    if (*place) {
        led_record *r = l->records + (*place - 1);
        if (r->owner == owner && r->waits_on) {
            r->created_ns = now_ns;
            __atomic_store_n(&r->waits_on, (uint64_t)cell + 1, __ATOMIC_RELEASE);
            goto out;
        }
        *place = 0;                 /* it was silent for too long: back to the end */
    }
    uint32_t index;
    code = led_take_record(l, &index);
    if (code) goto out;
    led_record *r = l->records + index;
    r->created_ns = now_ns;
    r->sequence = h->line + 1;
    r->parts = r->note_size = 0;
    led_put(l, &h->line, h->line + 1);
    led_put(l, &h->waiting, h->waiting + 1);
    led_put(l, &r->waits_on, (uint64_t)cell + 1);
    led_put(l, &r->owner, owner);
    led_commit(l);
    *place = index + 1;
out:
    led_unlock(l);
    return code;
}

static inline int led_quit(ledger *l, uint64_t owner, uint32_t place) {
    int code = led_lock(l);
    if (code) return code;
    led_record *r = l->records + (place - 1);
    if (r->owner == owner && r->waits_on) led_leave(l, place - 1);
    led_unlock(l);
    return 0;
}

/* -- one request --------------------------------------------------------------------------- */

/* What a request takes of a slot besides money. */
static inline int64_t led_share(uint32_t kind, const led_ask *ask) {
    switch (kind) {
    case LED_INPUT: return ask->input_tokens;
    case LED_OUTPUT: return ask->output_tokens;
    case LED_TOKENS: return ask->input_tokens + ask->output_tokens;
    default: return 1;
    }
}

static inline int led_hold_money(ledger *l, const led_slot *s, int i, const led_ask *ask,
                                 uint64_t number, led_answer *answer) {
    if (!led_is(l, s->cell, s->budget, s->start_ns)) return LED_STALE;
    led_cell *c = l->cells + s->cell;
    int64_t rest = s->limit - c->settled - c->reserved - ask->amount;
    answer->settled = c->settled;
    answer->reserved = c->reserved;
    if (s->kind == LED_OVERDRAFT ? c->settled + c->reserved >= s->limit : rest < 0) return LED_REFUSED;
    if (l->head->waiting && led_behind(l, s->cell, number)) return LED_BEHIND;
    if (rest < 0) rest = 0;
    if (answer->left < 0 || rest < answer->left) { answer->left = rest; answer->tight = i; }
    led_put(l, (uint64_t *)&c->reserved, (uint64_t)(c->reserved + ask->amount));
    return 0;
}

static inline int led_hold_place(ledger *l, const led_slot *s, led_answer *answer) {
    if (!led_is(l, s->cell, s->budget, s->start_ns)) return LED_STALE;
    led_cell *c = l->cells + s->cell;
    answer->settled = 0;
    answer->reserved = c->reserved;
    if (c->reserved >= s->limit) return LED_REFUSED;
    led_put(l, (uint64_t *)&c->reserved, (uint64_t)(c->reserved + 1));
    return 0;
}

static inline int led_hold_rate(ledger *l, const led_slot *s, const led_ask *ask,
                                led_answer *answer) {
    if (!led_meter_is(l, s->cell, s->budget, s->end_ns)) return LED_STALE;
    led_meter *m = l->meters + s->cell;
    led_turn_meter(m, ask->now_ns);
    int64_t share = led_share(s->kind, ask), sum = led_metered(m);
    answer->settled = sum;
    answer->reserved = share;
    if (sum + share > s->limit) {
        int fits = share <= s->limit;
        answer->retry_ns = fits ? led_wait_for(m, sum + share - s->limit, ask->now_ns) : -1;
        return LED_REFUSED;
    }
    led_count(l, m, ask->now_ns, share);
    return 0;
}

/* A rate limit refuses: until all of them let the request in, not only the first. One that never
 * can is the one to be told of. */
static inline int led_wait_out(ledger *l, const led_slot *slots, int n, const led_ask *ask,
                               led_answer *answer) {
    led_answer other;
    for (int i = answer->which + 1; i < n && answer->retry_ns >= 0; i++) {
        if (slots[i].kind < LED_REQUESTS) continue;
        int code = led_hold_rate(l, slots + i, ask, &other);
        if (code == 0) continue;
        if (code == LED_STALE) answer->which = i;
        if (code != LED_REFUSED) return code;
        if (other.retry_ns < 0) {
            answer->which = i;
            answer->settled = other.settled;
            answer->reserved = other.reserved;
            answer->retry_ns = -1;
        } else if (other.retry_ns > answer->retry_ns) {
            answer->retry_ns = other.retry_ns;
        }
    }
    return LED_REFUSED;
}

/* Clears every slot or none; LED_REFUSED, LED_BEHIND and LED_STALE name it in answer->which. */
static inline int led_reserve(ledger *l, const led_slot *slots, int n, const led_ask *ask,
                              led_answer *answer) {
    led_header *h = l->head;
    uint64_t number = UINT64_MAX;
    answer->left = -1;
    answer->retry_ns = 0;
    int code = led_lock(l);
    if (code) return code;
    if (h->waiting) {
        if (ask->place && l->records[ask->place - 1].owner == ask->owner
            && l->records[ask->place - 1].waits_on) {
            number = l->records[ask->place - 1].sequence;
            l->records[ask->place - 1].created_ns = ask->now_ns;
        }
        led_clear_line(l, ask->now_ns);
    }
    for (int i = 0; i < n; i++) {
        const led_slot *s = slots + i;
        answer->which = i;
        if (s->kind <= LED_OVERDRAFT) code = led_hold_money(l, s, i, ask, number, answer);
        else if (s->kind == LED_CONCURRENCY) code = led_hold_place(l, s, answer);
        else if ((code = led_hold_rate(l, s, ask, answer)) == LED_REFUSED)
            code = led_wait_out(l, slots, n, ask, answer);
        if (code) goto out;
    }
    code = led_take_record(l, &answer->record);
    if (code) goto out;
    led_record *r = l->records + answer->record;
    r->sequence = ask->sequence;
    r->amount = ask->amount;
    r->created_ns = ask->now_ns;
    r->input_tokens = ask->input_tokens;
    r->output_tokens = ask->output_tokens;
    r->parts = (uint32_t)n;
    for (int i = 0; i < n; i++) r->part[i] = slots[i].kind << 28 | slots[i].cell;
    r->note_size = (uint32_t)ask->note_size;
    memcpy(r->note, ask->note, ask->note_size);
    led_put(l, &r->waits_on, 0);
    led_put(l, &r->owner, ask->owner);
    led_commit(l);
    if (number != UINT64_MAX) led_leave(l, ask->place - 1);
out:
    led_unlock(l);
    return code;
}

/* Frees what a record holds and books what it cost; tokens below 0 are not known: what was counted
 * for them stays. */
static inline void led_close_parts(ledger *l, const led_record *r, int64_t cost, int64_t input,
                                   int64_t output, int64_t now_ns) {
    for (uint32_t i = 0; i < r->parts; i++) {
        uint32_t kind = r->part[i] >> 28, index = r->part[i] & 0xFFFFFFF;
        if (kind >= LED_REQUESTS) {
            led_meter *m = l->meters + index;
            int64_t more = 0;
            if (input < 0 || kind == LED_REQUESTS) continue;
            if (kind != LED_OUTPUT) more += input - r->input_tokens;
            if (kind != LED_INPUT) more += output - r->output_tokens;
            led_turn_meter(m, now_ns);
            led_count(l, m, r->created_ns, more);
            continue;
        }
        led_cell *c = l->cells + index;
        int64_t held = kind == LED_CONCURRENCY ? 1 : r->amount;
        led_put(l, (uint64_t *)&c->reserved, (uint64_t)(c->reserved - held));
        led_put(l, (uint64_t *)&c->requests, (uint64_t)(c->requests + 1));
        led_put(l, (uint64_t *)&c->updated_ns, (uint64_t)now_ns);
        if (kind == LED_CONCURRENCY) continue;
        led_put(l, (uint64_t *)&c->settled, (uint64_t)(c->settled + cost));
        if (input < 0) continue;
        led_put(l, (uint64_t *)&c->input_tokens, (uint64_t)(c->input_tokens + input));
        led_put(l, (uint64_t *)&c->output_tokens, (uint64_t)(c->output_tokens + output));
    }
}

/* Books `cost` for a record, frees what it held, appends the event. LED_GONE: no such record. */
static inline int led_settle(ledger *l, uint32_t record, uint64_t owner, uint64_t sequence,
                             int64_t cost, int64_t input, int64_t output, const char *event,
                             size_t size, int64_t now_ns) {
    int code = led_lock(l);
    if (code) return code;
    led_record *r = l->records + record;
    if (record >= l->head->records_used || r->owner != owner || r->sequence != sequence
        || r->waits_on) {
        code = LED_GONE;
        goto out;
    }
    code = led_event(l, event, size, now_ns);
    if (code) goto out;
    led_close_parts(l, r, cost, input, output, now_ns);
    led_give_record(l, record);
    led_put(l, &l->head->freed, l->head->freed + 1);
    led_commit(l);
out:
    led_unlock(l);
    return code;
}

/* Corrects what money slots have settled by `delta`, with the event that tells it: all or nothing.
 * LED_STALE names the slot whose cell is not known in *which. */
static inline int led_adjust(ledger *l, const led_slot *slots, int n, int64_t delta,
                             const char *event, size_t size, int64_t now_ns, int *which) {
    int code = led_lock(l);
    if (code) return code;
    for (int i = 0; i < n; i++) {
        *which = i;
        if (!led_is(l, slots[i].cell, slots[i].budget, slots[i].start_ns)) {
            code = LED_STALE;
            goto out;
        }
        led_cell *c = l->cells + slots[i].cell;
        led_put(l, (uint64_t *)&c->settled, (uint64_t)(c->settled + delta));
        led_put(l, (uint64_t *)&c->updated_ns, (uint64_t)now_ns);
    }
    code = led_event(l, event, size, now_ns);
    if (code) goto out;
    led_put(l, &l->head->freed, l->head->freed + 1);
    led_commit(l);
out:
    led_unlock(l);
    return code;
}

/* Appends an event that moves no money. */
static inline int led_append(ledger *l, const char *event, size_t size, int64_t now_ns,
                             uint64_t *sequence) {
    int code = led_lock(l);
    if (code) return code;
    code = led_event(l, event, size, now_ns);
    if (code == 0) {
        led_commit(l);
        *sequence = l->head->last;
    }
    led_unlock(l);
    return code;
}
#endif
