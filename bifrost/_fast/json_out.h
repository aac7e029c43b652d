/* Writes JSON members into a buffer. A value that does not fit sets `full`, nothing is overrun. */
#ifndef BIFROST_JSON_OUT_H
#define BIFROST_JSON_OUT_H
#include <stdint.h>
#include <string.h>

typedef struct { char *at, *end; int full; } out;

static inline void out_raw(out *o, const char *text, size_t size) {
    if ((size_t)(o->end - o->at) < size) { o->full = 1; return; }
    memcpy(o->at, text, size);
    o->at += size;
}

static inline void out_int(out *o, int64_t v) {
    char digits[24];
    int n = sizeof(digits);
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do { digits[--n] = (char)('0' + u % 10); } while (u /= 10);
    if (v < 0) digits[--n] = '-';
    out_raw(o, digits + n, sizeof(digits) - n);
}

/* The inside of a string: latin-1 bytes as UTF-8, or UTF-8 as it is. */
static inline void out_text(out *o, const uint8_t *p, size_t size, int latin) {
    static const char hex[] = "0123456789abcdef";
    if ((size_t)(o->end - o->at) < 6 * size) { o->full = 1; return; }
    for (const uint8_t *end = p + size; p < end; p++) {
        if (*p == '"' || *p == '\\') { *o->at++ = '\\'; *o->at++ = (char)*p; }
        else if (*p < 0x20 || *p == 0x7f) {
            memcpy(o->at, "\\u00", 4);
            o->at[4] = hex[*p >> 4];
            o->at[5] = hex[*p & 15];
            o->at += 6;
        } else if (*p >= 0x80 && latin) {
            *o->at++ = (char)(0xc0 | *p >> 6);
            *o->at++ = (char)(0x80 | (*p & 0x3f));
        } else *o->at++ = (char)*p;
    }
}

static inline void out_lit(out *o, const char *text) { out_raw(o, text, strlen(text)); }

static inline void out_name(out *o, const char *name) {
    out_lit(o, ",\"");
    out_lit(o, name);
    out_lit(o, "\":");
}

/* ,"name":number, unless it is zero */
static inline void out_count(out *o, const char *name, int64_t v) {
    if (v) { out_name(o, name); out_int(o, v); }
}

/* ,"name":"text" */
static inline void out_string(out *o, const char *name, const void *p, size_t size, int latin) {
    out_name(o, name);
    out_lit(o, "\"");
    out_text(o, (const uint8_t *)p, size, latin);
    out_lit(o, "\"");
}
#endif
