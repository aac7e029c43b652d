# cython: freethreading_compatible=True
"""The outbox: events on their way to the audit log, and the acts that need no admission.

An event is in the ring of the ledger, or in LMDB when the ring is full because nobody drains it.
Here is also what is booked without a ticket: corrections, counters known from elsewhere, and the
reservations that the dead left.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from .accounts cimport Accounts
from .home cimport home_row
from .ledger cimport (
    LED_GONE, LED_MONEY, LED_NO_ROOM, LED_RING, LED_SLOTS, LED_STALE, led_adjust, led_append,
    led_entry, led_lock, led_next, led_record, led_settle, led_slot, led_span, led_unlock,
)
from .lmdb_api cimport NOTFOUND, MDB_txn
from .state cimport check

from .state import GateError

cdef extern from "nudge.h" nogil:
    uint32_t nudge_seen(uint64_t *word)
    void nudge_wait(uint64_t *word, uint32_t seen, int64_t ns)
    void nudge_wake(uint64_t *word)


cdef class Outbox(Accounts):
    """The state with its accounts, and the events that its acts leave for the audit log."""

    # -- events ----------------------------------------------------------------------------------

    cdef int _require_open(self) except -1:
        if self.books.head.barred:
            raise GateError("the audit log cannot be written", <int>self.books.head.barred)
        return 0

    def bar(self, int code):
        """Lets nobody in, in any process, because of this error number; 0 lets them in again."""
        self._require()
        if self.books.head.barred != <uint64_t>code:
            self.books.head.barred = <uint64_t>code

    @property
    def barred(self):
        """The error number for which nobody is let in; 0 usually."""
        self._require()
        return <int>self.books.head.barred

    def append(self, bytes event, int64_t now_ns, *, bint admitting=False):
        """Appends an event that moves no money (a refusal, an administrative act); its number.

        ``admitting``: of what is only done if it can be recorded; not while nobody is let in.
        """
        cdef uint64_t sequence = 0
        cdef int code
        self._require()
        if admitting:
            self._require_open()
        while True:
            code = led_append(&self.books, PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event),
                              now_ns, &sequence)
            if code != LED_NO_ROOM:
                break
            self._spill()
        if code:
            raise GateError("cannot append to the outbox", code)
        return sequence

    def assure(self, uint64_t upto):
        """Tells all processes that events up to number ``upto`` are in the log, on the disk."""
        self._require()
        if self.books.head.assured < upto:
            self.books.head.assured = upto

    def urge(self, uint64_t upto):
        """Whether events up to ``upto`` are on the disk; if not, their writer is told to hurry."""
        self._require()
        if self.books.head.assured >= upto:
            return True
        if self.books.head.urged < upto:        # one that is lost here comes with the next look
            self.books.head.urged = upto
            nudge_wake(&self.books.head.urged)
        return False

    @property
    def urgent(self):
        """Whether somebody waits for events to be on the disk."""
        self._require()
        return self.books.head.urged > self.books.head.assured

    def await_urge(self, double seconds):
        """Waits until somebody waits for events to be on the disk; whether that is so.

        Returns after ``seconds`` at the latest, but perhaps sooner, also for a signal.
        """
        cdef uint64_t *word
        cdef uint32_t seen
        cdef int64_t ns = <int64_t>(seconds * 1e9)
        self._require()
        word = &self.books.head.urged
        seen = nudge_seen(word)
        if self.urgent or ns <= 0:
            return self.urgent
        with nogil:
            nudge_wait(word, seen, ns)
        return self.urgent

    @property
    def newest(self):
        """The number of the newest event of all."""
        self._require()
        return self.books.head.last

    cdef int _spill(self) except -1:
        """The ring is full, so nobody drains it: moves what is in it to LMDB."""
        cdef MDB_txn *txn = NULL
        cdef const led_entry *entry
        cdef uint64_t at = 0, head = 0, tail = 0
        cdef int code
        check("cannot write the outbox", self.home.begin(&txn))
        code = led_span(&self.books, &head, &tail)
        at = head
        while code == 0:
            entry = led_next(&self.books, &at, tail)
            if entry == NULL:
                break
            code = self.home.post(txn, entry.sequence, entry + 1, entry.size)
        if code or self.books.head.head != head:    # somebody drained it meanwhile
            self.home.abort(txn)
            check("cannot write the outbox", code)
            return 0
        check("cannot write the outbox", self.home.commit(txn))
        led_lock(&self.books)
        if self.books.head.head == head:
            self.books.head.head = tail
        led_unlock(&self.books)
        return 0

    def outbox(self, uint64_t after, int most):
        """Up to ``most`` (sequence, event) with a sequence above ``after``, oldest first."""
        cdef uint64_t head
        self._require()
        while True:
            head = self.books.head.head
            found = []
            check("cannot read the outbox", self.home.events(after, most, found))
            if len(found) < most:
                self._ring(found[len(found) - 1][0] if found else after, most, found)
            if self.books.head.head == head:        # else events moved on while we read
                return found

    cdef int _ring(self, uint64_t after, int most, list found) except -1:
        cdef const led_entry *entry
        cdef uint64_t at = 0, tail = 0
        check("cannot read the outbox", led_span(&self.books, &at, &tail))
        while len(found) < most:
            entry = led_next(&self.books, &at, tail)
            if entry == NULL or entry.size > LED_RING:
                break
            if entry.sequence > after:
                found.append((entry.sequence,
                              PyBytes_FromStringAndSize(<const char *>(entry + 1), entry.size)))
        return 0

    def forget(self, uint64_t upto):
        """Removes outbox entries up to ``upto``; sequences rise for ever all the same."""
        cdef const led_entry *entry
        cdef uint64_t at, before, tail
        cdef int code
        self._require()
        with nogil:
            code = self.home.forget(upto)
        check("cannot shorten the outbox", code)
        check("cannot shorten the outbox", led_lock(&self.books))
        at = self.books.head.head
        tail = self.books.head.tail
        while True:
            before = at
            entry = led_next(&self.books, &at, tail)
            if entry == NULL or entry.sequence > upto:
                break
        self.books.head.head = before
        led_unlock(&self.books)

    # -- without a ticket ------------------------------------------------------------------------

    def restore(self, list counters, uint64_t last):
        """Gives a fresh state what is known from elsewhere; outbox numbers go on above ``last``.

        ``counters`` are (budget, window start ns, window end ns, settled, requests, input tokens,
        output tokens). Raises ValueError for a counter that is in use already.
        """
        cdef home_row row
        cdef MDB_txn *txn = NULL
        cdef int code
        self._require()
        check("cannot write the state store", self.home.begin(&txn))
        try:
            for number, start, end, settled, requests, input_tokens, output_tokens in counters:
                code = self.home.row(txn, number, start, &row)
                if code == 0 and row.live:
                    raise ValueError(f"the counter of budget {number:016x} is in use")
                if code != NOTFOUND:
                    check("cannot restore the counters", code)
                memset(&row, 0, sizeof(row))
                row.end_ns = end
                row.content.budget, row.content.start_ns = number, start
                row.content.settled, row.content.requests = settled, requests
                row.content.input_tokens, row.content.output_tokens = input_tokens, output_tokens
                check("cannot restore the counters", self.home.keep(txn, &row.content, &row))
        except BaseException:
            self.home.abort(txn)
            raise
        check("cannot restore the counters", self.home.commit(txn))
        check("cannot restore the counters", led_lock(&self.books))
        if self.books.head.last < last:
            self.books.head.last = last
        led_unlock(&self.books)

    def adjust(self, list accounts, int64_t delta, bytes event, int64_t now_ns):
        """Corrects what accounts have settled by ``delta`` nano-USD and appends ``event``.

        ``accounts`` are up to 24 (budget, window start ns, window end ns); all or nothing.
        Raises ValueError for more, GateError.
        """
        cdef led_slot slots[LED_SLOTS]
        cdef int n = len(accounts), which = 0, code
        self._require()
        if n > LED_SLOTS:
            raise ValueError(f"at most {LED_SLOTS} accounts can be adjusted together, not {n}")
        for i, (number, start, end) in enumerate(accounts):
            memset(&slots[i], 0, sizeof(led_slot))
            slots[i].budget, slots[i].start_ns, slots[i].end_ns = number, start, end
            slots[i].kind, slots[i].cell = LED_MONEY, 0xFFFFFFF
        while True:
            code = led_adjust(&self.books, slots, n, delta, PyBytes_AS_STRING(event),
                              PyBytes_GET_SIZE(event), now_ns, &which)
            if code == LED_STALE:
                self._locate(&slots[which], now_ns)
            elif code == LED_NO_ROOM:
                self._spill()
            else:
                break
        check("cannot correct what was spent", code)

    def reservations(self, int most=1_000_000):
        """Every reservation under way: (owner, sequence, amount, created ns, note)."""
        cdef led_record *record
        cdef uint64_t i
        rows = []
        self._require()
        for i in range(self.books.head.records_used):
            record = &self.books.records[i]
            if record.owner == 0 or record.waits_on or len(rows) >= most:
                continue
            check("cannot read a reservation", led_lock(&self.books))
            if record.owner and not record.waits_on:
                rows.append((
                    record.owner, record.sequence, record.amount, record.created_ns,
                    PyBytes_FromStringAndSize(record.note, record.note_size),
                ))
            led_unlock(&self.books)
        return rows

    def held(self):
        """(how many reservations are under way, nano-USD they hold, how many requests wait)."""
        cdef led_record *record
        cdef uint64_t i
        cdef int64_t many = 0, amount = 0, waiting = 0
        self._require()
        for i in range(self.books.head.records_used):
            record = &self.books.records[i]
            if record.owner and record.waits_on:
                waiting += 1
            elif record.owner:
                many += 1
                amount += record.amount
        return many, amount, waiting

    def reclaim(self, uint32_t owner, uint64_t sequence, bytes event, int64_t now_ns):
        """Charges another owner's reservation in full with ``event``; False when it is gone."""
        cdef led_record *record
        cdef uint64_t i
        cdef int code
        self._require()
        for i in range(self.books.head.records_used):
            record = &self.books.records[i]
            while record.owner == owner and record.sequence == sequence and not record.waits_on:
                code = led_settle(&self.books, i, owner, sequence, record.amount, -1, -1,
                                  PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event), now_ns)
                if code == 0:
                    return True
                if code == LED_NO_ROOM:
                    self._spill()
                elif code != LED_GONE:
                    raise GateError("cannot settle a reservation", code)
        return False
