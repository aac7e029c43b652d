/* What compiled readers of streams look for: JSON strings, base64, CRC-32 (ISO-HDLC, as in zlib). */
#ifndef BIFROST_PIECES_H
#define BIFROST_PIECES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t pc_crcs[8][256];
static unsigned char pc_digits[256]; /* of base64; 64: none */

static void pc_prepare(void) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    memset(pc_digits, 64, sizeof pc_digits);
    for (unsigned i = 0; i < 64; i++) pc_digits[(unsigned char)digits[i]] = (unsigned char)i;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
        pc_crcs[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            pc_crcs[t][i] = pc_crcs[t - 1][i] >> 8 ^ pc_crcs[0][pc_crcs[t - 1][i] & 255];
}

/* Eight bytes at a time ("slicing"), on machines of either byte order. */
static uint32_t pc_crc(uint32_t before, const unsigned char *p, size_t size) {
    uint32_t c = ~before;
    for (; size >= 8; p += 8, size -= 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = pc_crcs[7][c & 255] ^ pc_crcs[6][c >> 8 & 255] ^ pc_crcs[5][c >> 16 & 255] ^
            pc_crcs[4][c >> 24] ^ pc_crcs[3][p[4]] ^ pc_crcs[2][p[5]] ^ pc_crcs[1][p[6]] ^
            pc_crcs[0][p[7]];
    }
    for (; size; p++, size--) c = c >> 8 ^ pc_crcs[0][(c ^ *p) & 255];
    return ~c;
}

static uint32_t pc_number(const unsigned char *p) { /* big-endian */
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Bytes of a JSON string at p, with its quotes, if it has none but the short escapes; else 0.
   *ascii: cleared for any other byte. */
static size_t pc_string(const unsigned char *p, size_t size, int *ascii) {
    if (size < 2 || *p != '"') return 0;
    for (size_t i = 1; i < size; i++) {
        unsigned char c = p[i];
        if (c == '"') return i + 1;
        if (c < 0x20) return 0;
        if (c >= 0x80) *ascii = 0;
        if (c == '\\' && (++i >= size || !p[i] || !strchr("\"\\bfnrt", p[i]))) return 0;
    }
    return 0;
}

/* Bytes that size digits of base64 hold; -1 where they are none. */
static ptrdiff_t pc_base64_size(const unsigned char *p, size_t size) {
    if (size % 4) return -1;
    if (!size) return 0;
    return (ptrdiff_t)(size / 4 * 3) - (p[size - 1] == '=') - (p[size - 1] == '=' && p[size - 2] == '=');
}

/* Reads them; 0 where one is none. */
static int pc_base64(unsigned char *out, size_t made, const unsigned char *p) {
    unsigned bad = 0;
    for (; made >= 3; made -= 3, p += 4, out += 3) {
        unsigned a = pc_digits[p[0]], b = pc_digits[p[1]], c = pc_digits[p[2]], d = pc_digits[p[3]];
        bad |= a | b | c | d;
        out[0] = (unsigned char)(a << 2 | b >> 4);
        out[1] = (unsigned char)(b << 4 | c >> 2);
        out[2] = (unsigned char)(c << 6 | d);
    }
    if (made) {
        unsigned a = pc_digits[p[0]], b = pc_digits[p[1]], c = made == 2 ? pc_digits[p[2]] : 0;
        bad |= a | b | c;
        /* bits that no byte takes are 0, as in the one spelling that each text has */
        bad |= (made == 2 ? c & 3 : b & 15) ? 64 : 0;
        out[0] = (unsigned char)(a << 2 | b >> 4);
        if (made == 2) out[1] = (unsigned char)(b << 4 | c >> 2);
    }
    return !(bad & 64);
}

#endif
