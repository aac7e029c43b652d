/* Reads the account a provider gives of an answer, its `usage` object, where it is plain.
 *
 * Plain: every member is of the kind that is documented, written without escapes, given once, and
 * whatever else is there is a number, a short text or nothing. Anything else is 0: to be looked at
 * with care. So a yes here never differs from what the metering room would read.
 */
#ifndef BF_ACCOUNT_H
#define BF_ACCOUNT_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define AC_MOST ((int64_t)1 << 40) /* a count above it is noise */

enum { AC_INPUT, AC_OUTPUT, AC_READ, AC_WRITTEN, AC_FIVE, AC_HOUR, AC_THINK, AC_SEARCHES,
       AC_COUNTS, AC_TIER = AC_COUNTS, AC_SPEED, AC_GEO, AC_NAMES, AC_SPLIT = AC_NAMES, AC_DETAILS,
       AC_TOOLS, AC_SAMPLINGS, AC_OTHER };
typedef struct { const char *at; size_t size; } ac_text;
typedef struct {
    int64_t count[AC_COUNTS];   /* 0 where it is missing */
    uint32_t given;             /* which members have a value, by bit */
    ac_text text[3];            /* tier, speed, geo; size 0 where it is missing */
} ac_account;

typedef struct { uint8_t inside, size, means; const char *name; } ac_key;
static const ac_key ac_keys[] = {
    {0, 12, AC_INPUT, "input_tokens"}, {0, 13, AC_OUTPUT, "output_tokens"},
    {0, 23, AC_READ, "cache_read_input_tokens"}, {0, 27, AC_WRITTEN, "cache_creation_input_tokens"},
    {0, 12, AC_TIER, "service_tier"}, {0, 5, AC_SPEED, "speed"}, {0, 13, AC_GEO, "inference_geo"},
    {0, 14, AC_SPLIT, "cache_creation"}, {0, 21, AC_DETAILS, "output_tokens_details"},
    {0, 15, AC_TOOLS, "server_tool_use"}, {0, 10, AC_SAMPLINGS, "iterations"},
    {AC_SPLIT, 25, AC_FIVE, "ephemeral_5m_input_tokens"},
    {AC_SPLIT, 25, AC_HOUR, "ephemeral_1h_input_tokens"},
    {AC_DETAILS, 15, AC_THINK, "thinking_tokens"},
    {AC_TOOLS, 19, AC_SEARCHES, "web_search_requests"},
};

static inline const char *ac_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
    return p;
}

/* Printable ASCII up to the closing quote; NULL for anything else. */
static inline const char *ac_string(const char *p, const char *end, ac_text *text) {
    text->at = p;
    while (p < end && *p != '"') {
        if (*p < 0x20 || *p > 0x7e || *p == '\\') return NULL;
        p++;
    }
    text->size = (size_t)(p - text->at);
    return p < end ? p + 1 : NULL;
}

static inline const char *ac_count(const char *p, const char *end, int64_t *count) {
    const char *start = p;
    int64_t sum = 0;
    for (; p < end && (uint8_t)(*p - '0') <= 9; p++)
        if ((sum = sum * 10 + (*p - '0')) > AC_MOST) return NULL;
    if (p == start || (*start == '0' && p - start > 1)) return NULL;
    if (p < end && (*p == '.' || *p == 'e' || *p == 'E')) return NULL;
    *count = sum;
    return p;
}

static inline const char *ac_word(const char *p, const char *end, const char *word, size_t size) {
    return (size_t)(end - p) >= size && !memcmp(p, word, size) ? p + size : NULL;
}

static const char *ac_object(ac_account *a, const char *p, const char *end, int inside);

/* The value of a member; NULL when it is not plain. */
static const char *ac_value(ac_account *a, const char *p, const char *end, int means, int inside) {
    ac_text text;
    int64_t count;
    if (p == end || (means != AC_OTHER && a->given >> means & 1)) return NULL;
    if (*p == 'n') {
        if (means != AC_OTHER) a->given |= 1u << (means + 16); /* not again with a value */
        return ac_word(p, end, "null", 4);
    }
    if (means != AC_OTHER && a->given >> (means + 16) & 1) return NULL;
    if (means != AC_OTHER) a->given |= 1u << means;
    if (means < AC_COUNTS) return ac_count(p, end, &a->count[means]);
    if (means < AC_NAMES) {
        p = *p == '"' ? ac_string(p + 1, end, &a->text[means - AC_TIER]) : NULL;
        return a->text[means - AC_TIER].size ? p : NULL;
    }
    if (means < AC_SAMPLINGS) return *p == '{' && !inside ? ac_object(a, p, end, means) : NULL;
    if (means == AC_SAMPLINGS) return ac_word(p, end, "[]", 2);
    if (*p == '"') return ac_string(p + 1, end, &text);
    if (*p == 't') return ac_word(p, end, "true", 4);
    if (*p == 'f') return ac_word(p, end, "false", 5);
    return ac_count(p, end, &count);
}

static const char *ac_object(ac_account *a, const char *p, const char *end, int inside) {
    p = ac_space(p + 1, end);
    if (p < end && *p == '}') return p + 1;
    for (;;) {
        ac_text name;
        int means = AC_OTHER;
        if (p == end || *p != '"' || !(p = ac_string(p + 1, end, &name))) return NULL;
        for (size_t i = 0; i < sizeof ac_keys / sizeof *ac_keys; i++)
            if (ac_keys[i].inside == inside && ac_keys[i].size == name.size &&
                !memcmp(ac_keys[i].name, name.at, name.size)) {
                means = ac_keys[i].means;
                break;
            }
        p = ac_space(p, end);
        if (p == end || *p != ':') return NULL;
        if (!(p = ac_value(a, ac_space(p + 1, end), end, means, inside))) return NULL;
        p = ac_space(p, end);
        if (p == end) return NULL;
        if (*p == '}') return p + 1;
        if (*p != ',') return NULL;
        p = ac_space(p + 1, end);
    }
}

/* Reads a whole object; input and output must be counted. */
static int ac_read(ac_account *a, const char *p, size_t size) {
    const char *end = p + size;
    memset(a, 0, sizeof *a);
    return size && *p == '{' && ac_object(a, p, end, 0) == end &&
           (a->given & (1u << AC_INPUT | 1u << AC_OUTPUT)) == (1u << AC_INPUT | 1u << AC_OUTPUT);
}
#endif
