from libc.stdint cimport int64_t, uint32_t, uint64_t

# What the gate uses of ledger.h.
cdef extern from "ledger.h" nogil:
    enum:
        LED_SLOTS, LED_NOTE, LED_RING, LED_RECORDS
        LED_REFUSED, LED_STALE, LED_NO_ROOM, LED_GONE, LED_FULL, LED_BEHIND
        LED_NEW, LED_SOUND, LED_UNCLEAN, LED_DAMAGED
        LED_MONEY, LED_OVERDRAFT, LED_CONCURRENCY, LED_REQUESTS, LED_INPUT, LED_OUTPUT, LED_TOKENS

    size_t LED_CELLS, LED_METERS

    ctypedef struct led_cell:
        uint64_t budget
        int64_t start_ns, settled, reserved, requests, input_tokens, output_tokens, updated_ns

    ctypedef struct led_record:
        uint64_t owner, sequence, waits_on
        int64_t amount, created_ns
        uint32_t note_size
        char note[1]

    ctypedef struct led_header:
        uint64_t identity, clean, head, tail, last, cells_used, meters_used, meters_free
        uint64_t records_used, freed, barred, assured, urged
        char boot[40]

    ctypedef struct led_meter:
        uint64_t id
        int64_t span_ns

    ctypedef struct ledger:
        led_header *head
        led_meter *meters
        led_cell *cells
        led_record *records
        char *base
        char *ring

    ctypedef struct led_slot:
        uint64_t budget
        int64_t limit, start_ns, end_ns, until_ns
        uint32_t cell, kind

    ctypedef struct led_entry:
        uint32_t size
        uint64_t sequence

    int led_look(int fd, const char *boot, size_t boot_size)
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
    uint64_t led_spare(const ledger *)
    int led_span(ledger *, uint64_t *head, uint64_t *tail)
    const led_entry *led_next(const ledger *, uint64_t *at, uint64_t tail)

cdef extern from "meter.h" nogil:
    bint led_meter_is(const ledger *, uint32_t meter, uint64_t id, int64_t span_ns)
    void led_turn_id(ledger *, uint32_t meter)
    int led_take_meter(ledger *, uint64_t id, int64_t span_ns, uint32_t *taken)
    void led_give_meter(ledger *, uint32_t meter)
    bint led_meter_over(const ledger *, uint32_t meter, int64_t now_ns)
    int led_meters_idle(const ledger *, uint32_t *sorted_, int n, int64_t now_ns)

cdef extern from "books.h" nogil:
    ctypedef struct led_ask:
        uint64_t owner, sequence
        int64_t amount, input_tokens, output_tokens, now_ns
        const char *note
        size_t note_size
        uint32_t place

    ctypedef struct led_answer:
        uint32_t record
        int which, tight
        int64_t left, settled, reserved, retry_ns

    int led_reserve(ledger *, const led_slot *, int n, const led_ask *, led_answer *)
    int led_settle(ledger *, uint32_t record, uint64_t owner, uint64_t sequence, int64_t cost,
                   int64_t input, int64_t output, const char *event, size_t size, int64_t now_ns)
    int led_adjust(ledger *, const led_slot *, int n, int64_t delta, const char *event, size_t size,
                   int64_t now_ns, int *which)
    int led_append(ledger *, const char *event, size_t size, int64_t now_ns, uint64_t *sequence)
    int led_wait(ledger *, uint64_t owner, uint32_t cell, int64_t now_ns, uint32_t *place)
    int led_quit(ledger *, uint64_t owner, uint32_t place)
