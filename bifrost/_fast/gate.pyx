# cython: freethreading_compatible=True
"""The gate: reservations and settlements at every budget level at once, whole or not at all.

A compiled leaf; it knows budgets only as numbers. Money is int64 nano-USD. What a gate is made of
is in ``state`` (opened and closed), ``accounts`` (cells and meters) and ``outbox`` (events).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free

from .ledger cimport (
    LED_BEHIND, LED_CONCURRENCY, LED_INPUT, LED_MONEY, LED_NO_ROOM, LED_NOTE, LED_OUTPUT,
    LED_OVERDRAFT, LED_REFUSED, LED_REQUESTS, LED_SLOTS, LED_STALE, LED_TOKENS, led_answer, led_ask,
    led_quit, led_reserve, led_settle, led_slot, led_spare, led_wait,
)
from .outbox cimport Outbox
from .state cimport check
from .timing cimport Timing, now_mono

from .state import GateError, alive, condition

cdef enum:
    SPARE = 16384               # bytes of the ring kept free for what is under way

MONEY = LED_MONEY
OVERDRAFT = LED_OVERDRAFT
CONCURRENCY = LED_CONCURRENCY
REQUESTS = LED_REQUESTS
INPUT_TOKENS = LED_INPUT
OUTPUT_TOKENS = LED_OUTPUT
TOKENS = LED_TOKENS

cdef int64_t EVER = 0x7FFFFFFFFFFFFFFF


class Exhausted(Exception):
    """A budget or limit cannot hold a request: ``slot`` of the plan, its ``kind`` and figures.

    ``settled`` is what its window has counted, ``reserved`` what is held of it by requests under
    way (of a rate limit: what this request would add), ``end_ns`` when its window ends.
    ``waits``: it would fit if those under way were back. ``retry_ns``: when a rate limit lets it
    in, counted from now; -1 when it never can as it is.
    """

    def __init__(self, int slot, int kind, int64_t limit, int64_t settled, int64_t reserved,
                 int64_t end_ns, bint waits, int64_t retry_ns):
        super().__init__("a budget or limit is exhausted")
        self.slot = slot
        self.kind = kind
        self.limit = limit
        self.settled = settled
        self.reserved = reserved
        self.end_ns = end_ns
        self.waits = waits
        self.retry_ns = retry_ns


cdef class Plan:
    """The budgets and limits a request must clear, in the order in which a refusal is reported.

    ``slots`` is a list of (64-bit id, limit[, kind[, window ns]]): MONEY (nano-USD; OVERDRAFT lets
    the last request pass the limit), CONCURRENCY, or REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS, TOKENS
    in any window of that length. ``window(index, now_ns)`` returns the (start_ns, end_ns) of a
    budget's current window, with (limit, until_ns) behind if another limit holds until then; it is
    asked only when what it said is over. ``labels`` run parallel to the slots and are kept for
    whoever words a refusal.
    """

    def __cinit__(self, list slots, window, labels=()):
        if len(slots) > LED_SLOTS:
            raise ValueError(f"a request can be under at most {LED_SLOTS} budgets and limits, "
                             f"not {len(slots)}")
        self.window = window
        self.labels = tuple(labels)
        self.slots = <led_slot *>calloc(len(slots) or 1, sizeof(led_slot))
        if self.slots == NULL:
            raise MemoryError()
        self.n = len(slots)
        self.first_end = 0
        self.last_start = 0
        for i, (number, limit, *more) in enumerate(slots):
            self.slots[i].budget = number
            self.slots[i].limit = limit
            self.slots[i].kind = more[0] if more else LED_MONEY
            self.slots[i].start_ns = 0
            self.slots[i].end_ns = self.slots[i].until_ns = 0
            self.slots[i].cell = 0xFFFFFFF
            if self.slots[i].kind == LED_CONCURRENCY:
                self.slots[i].end_ns = EVER
            elif self.slots[i].kind >= LED_REQUESTS:
                if not 0 <= limit < 2**32:
                    raise ValueError(f"a rate limit is from 0 to {2**32 - 1}, not {limit}")
                self.slots[i].end_ns = more[1]

    def __dealloc__(self):
        free(self.slots)

    def __len__(self):
        return self.n

    cdef int refresh(self, int64_t now_ns) except -1:
        cdef int i
        cdef int64_t first = 0x7FFFFFFFFFFFFFFF, last = -0x7FFFFFFFFFFFFFFF
        for i in range(self.n):
            if self.slots[i].kind > LED_OVERDRAFT:
                continue
            if now_ns >= self.slots[i].until_ns or now_ns < self.slots[i].start_ns:
                start, end, *more = self.window(i, now_ns)
                self.slots[i].start_ns = start
                self.slots[i].end_ns = self.slots[i].until_ns = end
                if more:
                    self.slots[i].limit, self.slots[i].until_ns = more
            first = min(first, self.slots[i].until_ns)
            last = max(last, self.slots[i].start_ns)
        self.first_end = first
        self.last_start = last
        return 0

    def account(self, int index, int64_t now_ns):
        """The (budget, window start ns, window end ns) of one slot at a time."""
        self.refresh(now_ns)
        if not 0 <= index < self.n:
            raise IndexError(index)
        return self.slots[index].budget, self.slots[index].start_ns, self.slots[index].end_ns


@cython.freelist(256)
cdef class Ticket:
    """A reservation under way, spent by exactly one ``settle``.

    ``amount`` and ``remaining`` (what the tightest level has left, -1 without budgets) are
    nano-USD; ``resets_ns`` is when that level's window ends, 0 without budgets.
    """


cdef class Gate(Outbox):
    """The gate of one data directory; see ``State`` for opening it and its owner number.

    ``gating`` times the gate's own part of a request; ``admitting`` and ``settling`` all since
    their ``since_ns``; ``governing`` both together.
    """

    def __cinit__(self):
        self.gating = Timing()
        self.admitting = Timing()
        self.settling = Timing()
        self.governing = Timing()
        self.owed = []

    def close(self):
        """Flushes the state to disk and gives up the owner number; further calls raise GateError."""
        if self.home.env != NULL:
            try:
                self.pay()
            except GateError:
                pass            # the steward charges in full what stays
        super().close()

    def admit(self, Plan plan, int64_t amount, bytes note, int64_t now_ns, int64_t since_ns=0, *,
              int64_t input_tokens=0, int64_t output_tokens=0, uint32_t place=0):
        """Clears every slot of the plan with a request of at most these figures, or none.

        ``amount`` is nano-USD; ``note``, up to 1,536 bytes, is kept with the reservation for
        whoever finds it after a crash; ``now_ns`` is wall time, ``since_ns`` the monotonic time
        from which the cost of admitting is counted; ``place`` is what ``wait`` gave. Returns a
        Ticket; raises Exhausted for the first slot that cannot hold it, GateError.
        """
        cdef led_ask ask
        ask.amount, ask.input_tokens, ask.output_tokens = amount, input_tokens, output_tokens
        ask.note, ask.note_size = PyBytes_AS_STRING(note), PyBytes_GET_SIZE(note)
        ask.now_ns, ask.place = now_ns, place
        return self.hold(plan, &ask, since_ns)

    cdef Ticket hold(self, Plan plan, led_ask *ask, int64_t since_ns):
        cdef int64_t entered = now_mono()
        cdef led_answer answer = led_answer(0, 0, 0, 0, 0, 0, 0)
        cdef led_slot *slot
        cdef int code
        cdef Ticket ticket
        self._require()
        self._require_open()
        if self.owed:
            self.pay()
        elif led_spare(&self.books) < SPARE:
            self._spill()       # what comes in must find room when it goes out
        if ask.amount < 0 or ask.input_tokens < 0 or ask.output_tokens < 0:
            raise ValueError("an amount cannot be negative")
        if ask.note_size > LED_NOTE:
            raise ValueError(f"a note has at most {LED_NOTE} bytes, not {ask.note_size}")
        if ask.now_ns >= plan.first_end or ask.now_ns < plan.last_start:
            plan.refresh(ask.now_ns)
        ticket = Ticket.__new__(Ticket)
        self.sequence += 1
        ask.owner, ask.sequence = self.owner, self.sequence
        ticket.sequence = self.sequence
        ticket.amount = ask.amount
        while True:
            code = led_reserve(&self.books, plan.slots, plan.n, ask, &answer)
            if code != LED_STALE:
                break
            self._locate(&plan.slots[answer.which], ask.now_ns)
        slot = &plan.slots[answer.which]
        if code == LED_REFUSED or code == LED_BEHIND:
            raise Exhausted(answer.which, slot.kind, slot.limit, answer.settled, answer.reserved,
                            slot.end_ns, _waits(slot, ask, &answer), answer.retry_ns)
        if code:
            raise GateError("cannot reserve", code)
        ticket.record = answer.record
        ticket.remaining = answer.left
        ticket.resets_ns = plan.slots[answer.tight].end_ns if answer.left >= 0 else 0
        ticket.open = True
        cdef int64_t left = now_mono()
        ticket.gate_ns = left - entered
        ticket.spent_ns = left - (since_ns if since_ns else entered)
        self.admitting.add(ticket.spent_ns)
        return ticket

    def remaining(self, Plan plan, int64_t now_ns):
        """(nano-USD left at the tightest level, when its window ends in ns); (-1, 0) without."""
        cdef int64_t left = -1, ends = 0, rest
        cdef int i
        plan.refresh(now_ns)
        for i in range(plan.n):
            if plan.slots[i].kind > LED_OVERDRAFT:
                continue
            settled, reserved, *_ = self.counters([(plan.slots[i].budget, plan.slots[i].start_ns)])[0]
            rest = max(plan.slots[i].limit - settled - reserved, 0)
            if left < 0 or rest < left:
                left, ends = rest, plan.slots[i].end_ns
        return left, ends

    def wait(self, Plan plan, int slot, int64_t now_ns, uint32_t place=0):
        """Joins the line for a budget of the plan, or says that one waits for this one now.

        Returns the place to give to ``admit`` and ``quit``; who is silent for 2 s loses it.
        Raises GateError.
        """
        cdef int code
        self._require()
        if not 0 <= slot < plan.n or plan.slots[slot].kind > LED_OVERDRAFT:
            raise IndexError(slot)
        code = led_wait(&self.books, self.owner, plan.slots[slot].cell, now_ns, &place)
        check("cannot wait in line", code)
        return place

    def quit(self, uint32_t place):
        """Leaves the line."""
        self._require()
        if place:
            check("cannot leave the line", led_quit(&self.books, self.owner, place))

    @property
    def freed(self):
        """A number that changes whenever any process gives something back."""
        self._require()
        return self.books.head.freed

    def settle(self, Ticket ticket, int64_t cost, int64_t input_tokens, int64_t output_tokens,
               bytes event, int64_t now_ns, int64_t since_ns=0):
        """Books ``cost`` at every level, frees the reservation and appends ``event`` to the outbox.

        All or nothing. Raises ValueError on a spent ticket, GateError (the ticket stays open).
        """
        self.book(ticket, cost, input_tokens, output_tokens, PyBytes_AS_STRING(event),
                  PyBytes_GET_SIZE(event), now_ns, since_ns)

    cdef int book(self, Ticket ticket, int64_t cost, int64_t input_tokens, int64_t output_tokens,
                  const char *event, size_t size, int64_t now_ns, int64_t since_ns) except -1:
        cdef int64_t entered = now_mono()
        cdef int64_t left, took
        cdef int code
        self._require()
        if not ticket.open:
            raise ValueError("this ticket is already settled or released")
        if cost < 0:
            raise ValueError("a cost cannot be negative")
        while True:
            code = led_settle(&self.books, ticket.record, self.owner, ticket.sequence, cost,
                              input_tokens, output_tokens, event, size, now_ns)
            if code != LED_NO_ROOM:
                break
            try:
                self._spill()
            except GateError:   # the reservation stays until there is room, and nobody is let in
                self.owed.append((ticket.record, ticket.sequence, cost, input_tokens,
                                  output_tokens, event[:size], now_ns))
                code = 0
                break
        if code:
            raise GateError("cannot settle", code)
        ticket.open = False
        left = now_mono()
        took = left - (since_ns if since_ns else entered)
        self.gating.add(left - entered + ticket.gate_ns)
        self.settling.add(took)
        self.governing.add(took + ticket.spent_ns)
        return 0

    def pay(self):
        """Settles what could not be settled while there was no room, as at its own time.

        To be called now and then; admitting does it too. Raises GateError while there is none.
        """
        cdef int code
        self._require()
        while self.owed:
            record, sequence, cost, input_tokens, output_tokens, event, now_ns = self.owed[0]
            code = led_settle(&self.books, record, self.owner, sequence, cost, input_tokens,
                              output_tokens, PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event),
                              now_ns)
            if code == LED_NO_ROOM:
                self._spill()
                continue
            del self.owed[0]
            if code:
                raise GateError("cannot settle", code)

    @property
    def unpaid(self):
        """How many requests could not be settled yet for want of room."""
        return len(self.owed)


cdef inline bint _waits(led_slot *slot, led_ask *ask, led_answer *answer) noexcept:
    """Whether a refusing slot would hold the request if all under way came back."""
    if slot.kind == LED_MONEY:
        return answer.settled + ask.amount <= slot.limit
    return slot.kind == LED_OVERDRAFT and answer.settled < slot.limit
