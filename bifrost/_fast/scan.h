/* Reads single JSON tokens and line ends out of raw bytes, 32, 16 or 8 bytes at a time.
 *
 * Nothing here allocates, calls Python or reads outside [base, base + size). `strict` asks for all
 * of RFC 8259 and RFC 3629; without it escapes must be right but the other bytes of a string are
 * taken as they come. Names start with bf_.
 */
#ifndef BF_SCAN_H
#define BF_SCAN_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) && !defined(BF_PORTABLE)
#include <emmintrin.h>
#define BF_SSE2 1
#if defined(__GNUC__) && !defined(__AVX2__)
#include <immintrin.h>
#define BF_AVX2 1 /* if the processor has it: looked up once */
#endif
#endif
#define BF_INLINE static inline __attribute__((always_inline))
#define BF_DEPTH 512        /* nesting that is accepted */
#define BF_NUMBER 1000      /* bytes of one number */
#define BF_SAFE 9007199254740992LL /* 2**53, the largest integer every JSON reader agrees on */

enum { BF_OK, BF_END, BF_VALUE, BF_KEY, BF_COLON, BF_COMMA, BF_DIGITS, BF_LONG, BF_LITERAL,
       BF_ESCAPE, BF_SURROGATE, BF_UTF8, BF_CONTROL, BF_DEEP, BF_TRAILING, BF_NOT_OBJECT, BF_BOM,
       BF_DUPLICATE, BF_FIELD, BF_MANY };
enum { BF_STRING = 1, BF_INTEGER = 2, BF_FLOAT = 4, BF_BOOL = 8, BF_NULL = 16, BF_ARRAY = 32,
       BF_OBJECT = 64 };

typedef struct { const uint8_t *base; size_t size, at; int error; } bf_input; /* at: of the error */
typedef struct { size_t start, end, saved; } bf_text; /* offsets; bytes that escapes take extra */

BF_INLINE int bf_fail(bf_input *s, int error, const uint8_t *p)
{
    s->error = error;
    s->at = (size_t)(p - s->base);
    return 0;
}

BF_INLINE uint64_t bf_zero(uint64_t x) /* not 0 exactly when a byte of x is 0 */
{
    return (x - 0x0101010101010101ULL) & ~x & 0x8080808080808080ULL;
}

#ifdef BF_AVX2
static int bf_wide; /* set by bf_prepare */

static void bf_prepare(void)
{
    __builtin_cpu_init();
    bf_wide = __builtin_cpu_supports("avx2") != 0;
}

/* What bf_plain does, as far as whole 32 bytes go: where it found something, or a byte after. */
__attribute__((target("avx2"), noinline)) static const uint8_t *
bf_plain_wide(const uint8_t *p, const uint8_t *end, int strict)
{
    const __m256i quote = _mm256_set1_epi8('"'), slash = _mm256_set1_epi8('\\');
    const __m256i space = _mm256_set1_epi8(strict ? 0x20 : -128); /* nothing is below -128 */
    for (; end - p >= 32; p += 32) {
        __m256i x = _mm256_loadu_si256((const __m256i *)p);
        __m256i hit = _mm256_or_si256(_mm256_cmpeq_epi8(x, quote), _mm256_cmpeq_epi8(x, slash));
        unsigned mask = (unsigned)_mm256_movemask_epi8(
            _mm256_or_si256(hit, _mm256_cmpgt_epi8(space, x)));
        if (mask)
            return p + __builtin_ctz(mask);
    }
    return p;
}
#else
static void bf_prepare(void) {}
#endif

/* First byte at or after p that is a quote or a backslash, when strict also one that is below
 * 0x20 or not ASCII; end when there is none. */
BF_INLINE const uint8_t *bf_plain(const uint8_t *p, const uint8_t *end, int strict)
{
#ifdef BF_SSE2
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\');
    const __m128i space = _mm_set1_epi8(0x20);
    for (; end - p >= 16; p += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, slash));
        if (strict) /* signed: bytes from 0x80 up are below zero */
            hit = _mm_or_si128(hit, _mm_cmplt_epi8(x, space));
        unsigned mask = (unsigned)_mm_movemask_epi8(hit);
        if (mask)
            return p + __builtin_ctz(mask);
#ifdef BF_AVX2
        if (bf_wide && end - p >= 64) /* a long string */
            p = bf_plain_wide(p + 16, end, strict) - 16;
#endif
    }
#endif
    for (; end - p >= 8; p += 8) {
        uint64_t x, low;
        memcpy(&x, p, 8);
        low = bf_zero(x ^ 0x2222222222222222ULL) | bf_zero(x ^ 0x5c5c5c5c5c5c5c5cULL);
        if (strict)
            low |= (x | (x - 0x2020202020202020ULL)) & 0x8080808080808080ULL;
        if (low)
            break;
    }
    for (; p < end; p++)
        if (*p == '"' || *p == '\\' || (strict && (*p < 0x20 || *p >= 0x80)))
            break;
    return p;
}

/* First line feed or carriage return at or after p, or end. */
BF_INLINE const uint8_t *bf_line(const uint8_t *p, const uint8_t *end)
{
#ifdef BF_SSE2
    const __m128i feed = _mm_set1_epi8('\n'), back = _mm_set1_epi8('\r');
    for (; end - p >= 16; p += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        unsigned mask = (unsigned)_mm_movemask_epi8(
            _mm_or_si128(_mm_cmpeq_epi8(x, feed), _mm_cmpeq_epi8(x, back)));
        if (mask)
            return p + __builtin_ctz(mask);
    }
#endif
    while (p < end && *p != '\n' && *p != '\r')
        p++;
    return p;
}

/* Length of the well-formed UTF-8 sequence at p, 0 if there is none (RFC 3629, section 4). */
static inline int bf_sequence(const uint8_t *p, const uint8_t *end)
{
    size_t left = (size_t)(end - p);
    uint8_t a = p[0], low = 0x80, high = 0xBF;
    if (a >= 0xC2 && a <= 0xDF)
        return left > 1 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (a < 0xE0 || a > 0xF4 || left < 3)
        return 0;
    if (a == 0xE0 || a == 0xF0)
        low = a == 0xE0 ? 0xA0 : 0x90;
    if (a == 0xED || a == 0xF4)
        high = a == 0xED ? 0x9F : 0x8F;
    if (p[1] < low || p[1] > high || (p[2] & 0xC0) != 0x80)
        return 0;
    if (a < 0xF0)
        return 3;
    return left > 3 && (p[3] & 0xC0) == 0x80 ? 4 : 0;
}

/* The four hex digits at p as a number, -1 if they are not. */
static inline int bf_hex(const uint8_t *p, const uint8_t *end)
{
    int value = 0, i;
    if (end - p < 4)
        return -1;
    for (i = 0; i < 4; i++) {
        uint8_t c = p[i], d = (uint8_t)((c | 0x20) - 'a');
        if ((uint8_t)(c - '0') > 9 && d > 5)
            return -1;
        value = value << 4 | ((uint8_t)(c - '0') <= 9 ? c - '0' : d + 10);
    }
    return value;
}

/* Length of the escape at p (a backslash), 0 after an error; a strict surrogate pair is one. */
static inline int bf_escape(bf_input *s, const uint8_t *p, const uint8_t *end, int strict)
{
    int unit, other;
    if (end - p < 2)
        return bf_fail(s, BF_END, end);
    if (p[1] != 'u')
        return p[1] && strchr("\"\\/bfnrt", p[1]) ? 2 : bf_fail(s, BF_ESCAPE, p);
    if ((unit = bf_hex(p + 2, end)) < 0)
        return bf_fail(s, BF_ESCAPE, p);
    if (!strict || (unit & 0xF800) != 0xD800)
        return 6;
    other = unit < 0xDC00 && end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? bf_hex(p + 8, end) : 0;
    return (other & 0xFC00) == 0xDC00 && other > 0 ? 12 : bf_fail(s, BF_SURROGATE, p);
}

/* Reads a string whose content starts at p; returns its closing quote, or NULL after an error. */
BF_INLINE const uint8_t *bf_string(bf_input *s, const uint8_t *p, const uint8_t *end, int strict,
                                   bf_text *text)
{
    int n;
    text->start = (size_t)(p - s->base);
    text->saved = 0;
    for (;;) {
        p = bf_plain(p, end, strict);
        if (p == end)
            break;
        if (*p == '"') {
            text->end = (size_t)(p - s->base);
            return p;
        }
        if (*p == '\\') {
            if (!(n = bf_escape(s, p, end, strict)))
                return NULL;
            text->saved += (size_t)n - 1;
            p += n;
        } else if (*p < 0x20) {
            bf_fail(s, BF_CONTROL, p);
            return NULL;
        } else {
            for (; p < end && *p >= 0x80; p += n)
                if (end - p > 2 && (uint8_t)(*p - 0xE1) < 12 && (p[1] & p[2] & 0x80) &&
                    !((p[1] | p[2]) & 0x40))
                    n = 3; /* most of the world's scripts */
                else if (!(n = bf_sequence(p, end))) {
                    bf_fail(s, BF_UTF8, p);
                    return NULL;
                }
        }
    }
    bf_fail(s, BF_END, end);
    return NULL;
}

/* Decodes the next character of checked string content into out (room for 4 bytes) as UTF-8;
 * returns where the one after it starts. A lone surrogate becomes three bytes no name equals. */
static const uint8_t *bf_character(const uint8_t *p, const uint8_t *end, uint8_t *out, int *size)
{
    uint32_t c = *p++, low;
    const char *from = "bfnrt", *found;
    *size = 1;
    out[0] = (uint8_t)c;
    if (c != '\\')
        return p;
    c = *p++;
    if (c != 'u') {
        found = strchr(from, (int)c);
        out[0] = (uint8_t)(found ? "\b\f\n\r\t"[found - from] : (int)c);
        return p;
    }
    c = (uint32_t)bf_hex(p, end);
    p += 4;
    if ((c & 0xFC00) == 0xD800 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
        low = (uint32_t)bf_hex(p + 2, end);
        if ((low & 0xFC00) == 0xDC00) {
            c = 0x10000 + ((c & 0x3FF) << 10) + (low & 0x3FF);
            p += 6;
        }
    }
    *size = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    out[0] = (uint8_t)c;
    if (*size > 1) {
        int i;
        for (i = *size - 1; i > 0; i--, c >>= 6)
            out[i] = (uint8_t)(0x80 | (c & 0x3F));
        out[0] = (uint8_t)((0xF00 >> *size) | c);
    }
    return p;
}

/* Decodes checked string content; out must have room for text->end - text->start bytes. */
static size_t bf_decode(const bf_input *s, const bf_text *text, uint8_t *out)
{
    const uint8_t *p = s->base + text->start, *end = s->base + text->end;
    uint8_t *at = out;
    int size;
    for (; p < end; at += size)
        p = bf_character(p, end, at, &size);
    return (size_t)(at - out);
}

/* Whether string content, escapes decoded, is exactly these bytes. */
BF_INLINE int bf_same(const bf_input *s, const bf_text *text, const void *name, size_t size)
{
    const uint8_t *p = s->base + text->start, *end = s->base + text->end, *want = name;
    uint8_t out[4];
    int n;
    if (!text->saved)
        return (size_t)(end - p) == size && !memcmp(p, want, size);
    for (; p < end; want += n, size -= (size_t)n) {
        p = bf_character(p, end, out, &n);
        if ((size_t)n > size || memcmp(out, want, (size_t)n))
            return 0;
    }
    return !size;
}
#define BF_IS(s, text, literal) bf_same(s, text, literal, sizeof(literal) - 1)

/* Reads a number from p; returns the byte after it, or NULL after an error. */
static const uint8_t *bf_number(bf_input *s, const uint8_t *p, const uint8_t *end, int *kind)
{
#define BF_DIGIT (p < end && (uint8_t)(*p - '0') <= 9)
    const uint8_t *start = p;
    *kind = BF_INTEGER;
    p += *p == '-';
    if (!BF_DIGIT)
        goto bad;
    if (*p == '0')
        p++;
    else
        while (BF_DIGIT)
            p++;
    if (p < end && *p == '.') {
        *kind = BF_FLOAT;
        p++;
        if (!BF_DIGIT)
            goto bad;
        while (BF_DIGIT)
            p++;
    }
    if (p < end && (*p | 0x20) == 'e') {
        *kind = BF_FLOAT;
        p++;
        p += p < end && (*p == '+' || *p == '-');
        if (!BF_DIGIT)
            goto bad;
        while (BF_DIGIT)
            p++;
    }
    if (p - start <= BF_NUMBER)
        return p;
    bf_fail(s, BF_LONG, start);
    return NULL;
bad:
    bf_fail(s, p == end ? BF_END : BF_DIGITS, p);
    return NULL;
#undef BF_DIGIT
}

/* The value of a checked integer; 0 when it lies outside -2**53..2**53. */
static int bf_integer(const uint8_t *p, const uint8_t *end, int64_t *value)
{
    int minus = *p == '-';
    int64_t sum = 0;
    for (p += minus; p < end; p++)
        if ((sum = sum * 10 + (*p - '0')) > BF_SAFE)
            return 0;
    *value = minus ? -sum : sum;
    return 1;
}

#endif
