/* SipHash-2-4 with a 128-bit result (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012,
 * and the authors' 128-bit variant): a keyed hash that who does not know the key cannot collide. */
#ifndef BIFROST_SIPHASH_H
#define BIFROST_SIPHASH_H
#include <stddef.h>
#include <stdint.h>

#define SIP_ROTATE(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

static inline uint64_t sip_load(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline void sip_rounds(uint64_t v[4], int n) {
    while (n--) {
        v[0] += v[1]; v[1] = SIP_ROTATE(v[1], 13) ^ v[0]; v[0] = SIP_ROTATE(v[0], 32);
        v[2] += v[3]; v[3] = SIP_ROTATE(v[3], 16) ^ v[2];
        v[0] += v[3]; v[3] = SIP_ROTATE(v[3], 21) ^ v[0];
        v[2] += v[1]; v[1] = SIP_ROTATE(v[1], 17) ^ v[2]; v[2] = SIP_ROTATE(v[2], 32);
    }
}

static inline void siphash(const uint64_t key[2], const uint8_t *data, size_t size,
                           uint64_t out[2]) {
    uint64_t v[4] = {
        key[0] ^ 0x736f6d6570736575ULL, key[1] ^ 0x646f72616e646f6dULL ^ 0xee,
        key[0] ^ 0x6c7967656e657261ULL, key[1] ^ 0x7465646279746573ULL,
    };
    size_t whole = size / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t m = sip_load(data + i, 8);
        v[3] ^= m;
        sip_rounds(v, 2);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)size << 56 | sip_load(data + whole, size - whole);
    v[3] ^= last;
    sip_rounds(v, 2);
    v[0] ^= last;
    v[2] ^= 0xee;
    sip_rounds(v, 4);
    out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    sip_rounds(v, 4);
    out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}
#endif
