from libc.stdint cimport int64_t, uint32_t, uint64_t

# What the gate uses of ledger.h.
cdef extern from "ledger.h" nogil:
    enum:
        LED_SLOTS, LED_NOTE, LED_RING
        LED_REFUSED, LED_STALE, LED_NO_ROOM, LED_GONE, LED_FULL

    ctypedef struct led_cell:
        uint64_t budget
        int64_t start_ns, settled, reserved, requests, input_tokens, output_tokens, updated_ns

    ctypedef struct led_record:
        uint64_t owner, sequence
        int64_t amount, created_ns
        uint32_t cells, note_size
        char note[1]

    ctypedef struct led_header:
        uint64_t identity, clean, head, tail, last, cells_used, records_used
        char boot[40]

    ctypedef struct ledger:
        led_header *head
        led_cell *cells
        led_record *records
        char *base
        char *ring

    ctypedef struct led_slot:
        uint64_t budget
        int64_t limit, start_ns, end_ns
        uint32_t cell

    ctypedef struct led_entry:
        uint32_t size
        uint64_t sequence

    int led_open(ledger *, int fd, int alone, uint64_t identity)
    void led_warm(ledger *)
    void led_close(ledger *)
    int led_lock(ledger *)
    void led_unlock(ledger *)
    bint led_is(const ledger *, uint32_t cell, uint64_t budget, int64_t start_ns)
    int led_take_cell(ledger *, const led_cell *content, uint32_t *taken)
    void led_give_cell(ledger *, uint32_t cell)
    bint led_asleep(const ledger *, uint32_t cell, uint64_t budget, int64_t start_ns)
    void led_turn(ledger *, uint32_t cell)
    bint led_resting(const ledger *, uint32_t cell, int64_t since_ns)
    int led_span(ledger *, uint64_t *head, uint64_t *tail)
    const led_entry *led_next(const ledger *, uint64_t *at, uint64_t tail)
    int led_reserve(ledger *, const led_slot *, int n, uint64_t owner, uint64_t sequence,
                    int64_t amount, const char *note, size_t note_size, int64_t now_ns,
                    uint32_t *record, int *which, int64_t *left, int *tight)
    int led_settle(ledger *, uint32_t record, uint64_t owner, uint64_t sequence, int64_t cost,
                   int64_t input_tokens, int64_t output_tokens, const char *event, size_t size,
                   int64_t now_ns)
    int led_append(ledger *, const char *event, size_t size, int64_t now_ns)
