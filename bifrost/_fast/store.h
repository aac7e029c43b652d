/* Bytes that grow; freed by whoever holds them. */
#ifndef BF_STORE_H
#define BF_STORE_H
#include <stddef.h>
#include <stdint.h>
typedef struct { uint8_t *base; size_t size, room; } bf_store;
#endif
