/* Writes header lines, and the values only a gateway writes into them, into a buffer. */
#ifndef BIFROST_HEAD_OUT_H
#define BIFROST_HEAD_OUT_H
#include "json_out.h"
#include <time.h>

/* Exactly `width` digits. */
static inline void out_digits(out *o, int64_t v, int width) {
    char digits[20];
    int n = sizeof(digits), first = n - width;
    for (; n > first && n; v /= 10) digits[--n] = (char)('0' + v % 10);
    out_raw(o, digits + n, sizeof(digits) - (size_t)n);
}

/* Nano-USD, not below zero, as an exact decimal with at least two places. */
static inline void out_usd(out *o, int64_t nano) {
    int64_t fraction = nano % 1000000000;
    int places = 9;
    for (; places > 2 && fraction % 10 == 0; places--) fraction /= 10;
    out_int(o, nano / 1000000000);
    out_raw(o, ".", 1);
    out_digits(o, fraction, places);
}

/* A time in ns as RFC 3339 in UTC, to the second. */
static inline void out_instant(out *o, int64_t ns) {
    time_t seconds = (time_t)(ns / 1000000000);
    struct tm t;
    if (!gmtime_r(&seconds, &t)) { o->full = 1; return; }
    out_digits(o, t.tm_year + 1900, 4);
    out_raw(o, "-", 1);
    out_digits(o, t.tm_mon + 1, 2);
    out_raw(o, "-", 1);
    out_digits(o, t.tm_mday, 2);
    out_raw(o, "T", 1);
    out_digits(o, t.tm_hour, 2);
    out_raw(o, ":", 1);
    out_digits(o, t.tm_min, 2);
    out_raw(o, ":", 1);
    out_digits(o, t.tm_sec, 2);
    out_raw(o, "Z", 1);
}

/* Lower-case hexadecimal digits, as many as are needed. */
static inline void out_hex(out *o, uint64_t v) {
    char digits[16];
    int n = sizeof(digits);
    do digits[--n] = "0123456789abcdef"[v & 15]; while (v >>= 4);
    out_raw(o, digits + n, sizeof(digits) - (size_t)n);
}

/* name: value CR LF */
static inline void out_line(out *o, const void *name, size_t size, const void *value, size_t length) {
    out_raw(o, (const char *)name, size);
    out_raw(o, ": ", 2);
    out_raw(o, (const char *)value, length);
    out_raw(o, "\r\n", 2);
}
#endif
