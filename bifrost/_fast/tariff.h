/* Prices as integers: the cost of tokens, rounded up once, in 128 bits so that nothing overflows. */
#ifndef BIFROST_TARIFF_H
#define BIFROST_TARIFF_H
#include <stdint.h>

enum { BF_STEPS = 16, BF_RATES = 6 };

typedef struct { int64_t count[BF_RATES]; } bf_tokens;       /* in the order of a step's rates */
typedef struct { int64_t above; int64_t rate[BF_RATES]; } bf_step;

/* Whole-request prices by the prompt's size: the last step it exceeds holds. */
static inline const bf_step *bf_step_for(const bf_step *steps, int n, int64_t prompt) {
    const bf_step *found = steps;
    for (int i = 1; i < n; i++)
        if (prompt > steps[i].above) found = steps + i;
    return found;
}

static inline __int128 bf_pico(const bf_step *steps, int n, const bf_tokens *t) {
    const bf_step *step = bf_step_for(
        steps, n, t->count[0] + t->count[1] + t->count[2] + t->count[3]);
    __int128 sum = 0;
    for (int i = 0; i < BF_RATES; i++) sum += (__int128)t->count[i] * step->rate[i];
    return sum;
}

/* Nano-USD, rounded up, and no more than `most`. */
static inline int64_t bf_nano(__int128 pico, int64_t divisor, int64_t searches, int64_t each,
                              int64_t most) {
    __int128 nano = (pico + divisor - 1) / divisor + (__int128)searches * each;
    return nano > most ? most : (int64_t)nano;
}

static inline int64_t bf_cost(const bf_step *steps, int n, const bf_tokens *tokens, int64_t divisor,
                              int64_t searches, int64_t each, int64_t most) {
    return bf_nano(bf_pico(steps, n, tokens), divisor, searches, each, most);
}

/* The most a request can cost; a step's rates are: input, input with 1h writes, output. */
static inline int64_t bf_worst(const bf_step *steps, int n, int64_t input, int64_t output, int hour,
                               int64_t divisor, int64_t searches, int64_t each, int64_t most) {
    const bf_step *step = bf_step_for(steps, n, input);
    __int128 pico = (__int128)input * step->rate[hour ? 1 : 0] + (__int128)output * step->rate[2];
    return bf_nano(pico, divisor, searches, each, most);
}
#endif
