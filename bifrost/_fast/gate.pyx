# cython: freethreading_compatible=True
"""The gate: reservations and settlements at every budget level at once, whole or not at all.

A compiled leaf; it knows budgets only as numbers. Money under way is held in the ledger, a mapped
file (``ledger.h``); what rests, and events the ledger has no room for, in LMDB (``home.pyx``).
The lock order is LMDB's writer first, the ledger second. Money is int64 nano-USD.
"""

import errno
import fcntl
import os
import secrets

cimport cython
from posix.unistd cimport close
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from .home cimport Home, home_row
from .ledger cimport (
    LED_BEHIND, LED_CELLS, LED_CONCURRENCY, LED_DAMAGED, LED_FULL, LED_GONE, LED_INPUT, LED_METERS,
    LED_MONEY, LED_NEW, LED_NO_ROOM, LED_NOTE, LED_OUTPUT, LED_OVERDRAFT, LED_RECORDS, LED_REFUSED,
    LED_REQUESTS, LED_RING, LED_SLOTS, LED_STALE, LED_TOKENS, LED_UNCLEAN, led_adjust, led_answer,
    led_append, led_ask, led_asleep, led_cell, led_close, led_entry, led_give_cell, led_give_meter,
    led_is, led_lock, led_look, led_meter_is, led_meter_over, led_meters_idle, led_next, led_open,
    led_quit, led_record, led_reserve, led_resting, led_settle, led_slot, led_span, led_spare,
    led_take_cell, led_take_meter, led_turn, led_turn_id, led_unlock, led_wait, led_warm, ledger,
)
from .lmdb_api cimport NOTFOUND, MDB_txn
from .timing cimport Timing, now_mono

cdef enum:
    RETIRED_AT_ONCE = 256       # cells moved out in one LMDB transaction
    METERS_AT_ONCE = 64         # meters given back in one, while the ledger is held
    METERS_LOOKED_AT = 65536
    ROWS_LOOKED_AT = 4096
    SPARE = 16384               # bytes of the ring kept free for what is under way

cdef enum:
    NO_CELL = -7                # beside LED_FULL, which stands for records
    NO_METER = -8

cdef int64_t DAY_NS = 86_400_000_000_000
cdef int errno_io = errno.EIO


class GateError(Exception):
    """The state store cannot be read or written; ``code`` is LMDB's or the system's error number."""

    def __init__(self, what, int code):
        if code == LED_FULL:
            text = f"{LED_RECORDS:,} requests are under way, which is the most there can be"
        elif code == NO_CELL:
            text = (f"{LED_CELLS:,} budgets are in use, which is the most there can be; those that "
                    "rest are moved out by and by")
        elif code == NO_METER:
            text = (f"{LED_METERS:,} rate limits count something now, which is the most there can "
                    "be; remove some, or set them on teams instead of keys")
        elif code == LED_GONE:
            text = "the reservation is not there any more"
        else:
            text = Home().why(code)
        super().__init__(f"{what}: {text} ({code})")
        self.code = code


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


MONEY = LED_MONEY
OVERDRAFT = LED_OVERDRAFT
CONCURRENCY = LED_CONCURRENCY
REQUESTS = LED_REQUESTS
INPUT_TOKENS = LED_INPUT
OUTPUT_TOKENS = LED_OUTPUT
TOKENS = LED_TOKENS

cdef int64_t EVER = 0x7FFFFFFFFFFFFFFF
cdef int64_t METER_ROW = -1     # stands for the window in the row of a meter


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


def usd(int64_t nano):
    """Nano-USD as an exact decimal with at least two places, as ``money.usd`` writes it."""
    cdef char text[32]
    cdef int64_t size = -nano if nano < 0 else nano
    cdef int n = snprintf(text, sizeof(text), b"%s%lld.%09lld", b"-" if nano < 0 else b"",
                          <long long>(size // 1000000000), <long long>(size % 1000000000))
    cdef int least = n - 7
    while n > least and text[n - 1] == c"0":
        n -= 1
    return PyBytes_FromStringAndSize(text, n)


cdef size_t MAP_SIZE = <size_t>1 << (38 if sizeof(size_t) > 4 else 28)


def _boot():
    """What tells this run of the machine from the last; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(36)
    except OSError:
        return b""


cdef class Gate:
    """The shared state of one data directory: open once per process, after any fork.

    ``directory`` is made if needed; ``map_size`` are the addresses LMDB's file begins with (more
    are taken as it grows; it is no larger than what is in it). Raises GateError.
    Every process that opens it gets an owner number, held by a lock on ``owner-N.lock``: when the
    process dies, however it dies, the lock is free and its reservations can be found.
    ``unclean``: the machine went down while the state was open, so what it holds may be old.
    ``gating`` times the gate's own part of a request; ``admitting`` and ``settling`` all since
    their ``since_ns``; ``governing`` both together.
    """

    def __cinit__(self, directory, size_t map_size=MAP_SIZE):
        self.owner_fd = self.ledger_fd = self.using_fd = -1
        self.directory = os.fspath(directory)
        self.gating = Timing()
        self.admitting = Timing()
        self.settling = Timing()
        self.governing = Timing()
        self.home = Home()
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        self.owed = []
        _check(f"cannot open the state store in {self.directory}",
               self.home.open(os.fsencode(self.directory), map_size))
        self._open_ledger()
        self._take_owner()

    cdef int _open_ledger(self) except -1:
        """Opens the ledger; the first process of a data directory puts it in order for the rest."""
        cdef uint64_t fresh = secrets.randbits(63) + 1
        cdef bint alone = True
        path = os.path.join(self.directory, "ledger")
        opening = _file(path + ".opening")
        try:
            fcntl.flock(opening, fcntl.LOCK_EX)
            self.ledger_fd = _file(path)
            self.using_fd = _file(path + ".using")
            try:
                fcntl.flock(self.using_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            _check(f"cannot open the ledger {path}",
                   led_open(&self.books, self.ledger_fd, alone, fresh))
            if alone:
                self._recognise(fresh)
            fcntl.flock(self.using_fd, fcntl.LOCK_SH)
            led_warm(&self.books)
        finally:
            os.close(opening)
        return 0

    cdef int _recognise(self, uint64_t fresh) except -1:
        """Makes sure that ledger and rows belong together, and notes how they were left."""
        cdef uint64_t known = 0
        cdef bytes boot = _boot()
        cdef int code = self.home.identity(&known)
        if code == NOTFOUND and self.books.head.identity == fresh:
            known = fresh
            code = self.home.name(fresh)
        if code == NOTFOUND or (code == 0 and known != self.books.head.identity):
            raise GateError(f"{self.directory}: ledger and data.mdb do not belong together, "
                            "restore both from one backup", errno.EINVAL)
        _check("cannot read the state store", code)
        self.unclean = not self.books.head.clean and self.books.head.boot[:len(boot)] != boot
        memcpy(self.books.head.boot, PyBytes_AS_STRING(boot), len(boot))
        self.books.head.clean = 0
        return 0

    cdef int _take_owner(self) except -1:
        while True:
            owner = secrets.randbits(31) + 1
            try:
                fd = _file(os.path.join(self.directory, f"owner-{owner}.lock"), os.O_EXCL)
            except FileExistsError:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            self.owner = owner
            self.owner_fd = fd
            self.sequence = 0
            return 0

    def close(self):
        """Flushes the state to disk and gives up the owner number; further calls raise GateError."""
        if self.home.env == NULL:
            return
        try:
            self.pay()
        except GateError:
            pass                # the steward charges in full what stays
        self._flush()
        try:
            fcntl.flock(self.using_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.books.head.clean = 1       # nobody else has it open
            self._flush()
        except BlockingIOError:
            pass
        led_close(&self.books)
        self.home.close()
        os.unlink(os.path.join(self.directory, f"owner-{self.owner}.lock"))
        for fd in (self.using_fd, self.ledger_fd, self.owner_fd):
            os.close(fd)
        self.owner_fd = self.ledger_fd = self.using_fd = -1

    def __dealloc__(self):
        led_close(&self.books)
        for fd in (self.using_fd, self.ledger_fd, self.owner_fd):
            if fd >= 0:
                close(fd)

    def _flush(self):
        with nogil:
            code = self.home.sync()
        _check("cannot flush the state", code)
        os.fsync(self.ledger_fd)

    def sync(self):
        """Writes the state through to the disk (a clean stop does this by itself)."""
        self._require()
        self._flush()

    cdef int _require(self) except -1:
        if self.books.base == NULL:
            raise GateError("the state store is closed", errno.EINVAL)
        return 0

    cdef int _require_open(self) except -1:
        if self.books.head.barred:
            raise GateError("the audit log cannot be written", <int>self.books.head.barred)
        return 0

    # -- money -----------------------------------------------------------------------------------

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
        _check("cannot wait in line", code)
        return place

    def quit(self, uint32_t place):
        """Leaves the line."""
        self._require()
        if place:
            _check("cannot leave the line", led_quit(&self.books, self.owner, place))

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

    @property
    def unpaid(self):
        """How many requests could not be settled yet for want of room."""
        return len(self.owed)

    def append(self, bytes event, int64_t now_ns, *, bint admitting=False):
        """Appends an event that moves no money (a refusal, an administrative act).

        ``admitting``: of what is only done if it can be recorded; not while nobody is let in.
        """
        cdef int code
        self._require()
        if admitting:
            self._require_open()
        while True:
            code = led_append(&self.books, PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event), now_ns)
            if code != LED_NO_ROOM:
                break
            self._spill()
        if code:
            raise GateError("cannot append to the outbox", code)

    # -- accounts --------------------------------------------------------------------------------

    cdef int _locate(self, led_slot *slot, int64_t now_ns) except -1:
        """Finds the cell of a slot's window, or its meter; makes one if it has none."""
        cdef home_row row
        cdef led_cell key
        cdef MDB_txn *txn = NULL
        cdef bint meter = slot.kind >= LED_REQUESTS
        cdef int64_t start_ns = METER_ROW if meter else slot.start_ns
        cdef int found = self.home.row(NULL, slot.budget, start_ns, &row)
        cdef int code
        if found == 0 and row.live and (
                led_meter_is(&self.books, row.cell, slot.budget, slot.end_ns) if meter
                else led_is(&self.books, row.cell, slot.budget, slot.start_ns)):
            slot.cell = row.cell
            return 0
        memset(&key, 0, sizeof(key))
        key.budget, key.start_ns = slot.budget, start_ns
        _check("cannot write the state store", self.home.begin(&txn))
        found = self.home.row(txn, slot.budget, start_ns, &row)
        if found == NOTFOUND:
            memset(&row, 0, sizeof(row))
            row.content = key
        elif found:
            self.home.abort(txn)
            _check("cannot read the state store", found)
        if row.live:            # made meanwhile, or its mover died half-way: no mover can begin now
            code = _wake(&self.books, slot, row.cell)
            if code == 0 or not meter:
                self.home.abort(txn)
                return _check("the counters of a budget are damaged", code)
        code = self._place(slot, &row, now_ns)
        if code:
            self.home.abort(txn)
            if code == LED_FULL and meter and self._free_a_meter(now_ns):
                return self._locate(slot, now_ns)
            if code == LED_FULL:
                code = NO_METER if meter else NO_CELL
            raise GateError(f"cannot make room for another {'rate limit' if meter else 'budget'}",
                            code)
        code = self.home.keep(txn, &key, &row)
        if code:
            self.home.abort(txn)
        else:
            code = self.home.commit(txn)
        if code:
            led_lock(&self.books)
            if meter:
                led_give_meter(&self.books, row.cell)
            else:
                led_give_cell(&self.books, row.cell)
            led_unlock(&self.books)
            raise GateError("cannot make room for another budget", code)
        _wake(&self.books, slot, row.cell)      # if it was moved out again, it will be looked for
        return 0

    cdef int _place(self, led_slot *slot, home_row *row, int64_t now_ns) except? -1:
        """Takes a cell with the row's content, or an empty meter, and notes it in the row."""
        cdef int code = led_lock(&self.books)
        if code:
            return code
        row.content.updated_ns = now_ns
        if slot.kind >= LED_REQUESTS:
            code = led_take_meter(&self.books, slot.budget, slot.end_ns, &row.cell)
        else:
            code = led_take_cell(&self.books, &row.content, &row.cell)
        led_unlock(&self.books)
        row.live, row.end_ns = 1, slot.end_ns
        return code

    def retire(self, int64_t idle_since_ns, int64_t now_ns, uint32_t start=0, uint32_t span=65536):
        """Moves counters that rested since ``idle_since_ns`` out of the ledger.

        Looks at ``span`` cells from number ``start`` on, moves up to 256 of them and returns the
        number to go on from, 0 at the end. Windows that ended a day ago are dropped. Does nothing
        while another process does it.
        """
        self._require()
        mover = _file(os.path.join(self.directory, "retire.lock"))
        try:
            fcntl.flock(mover, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._retire(idle_since_ns, now_ns, start, span)
        except BlockingIOError:
            return 0
        finally:
            os.close(mover)

    cdef uint32_t _retire(self, int64_t idle_since_ns, int64_t now_ns, uint32_t start,
                          uint32_t span) except? 0xFFFFFFFF:
        cdef MDB_txn *txn = NULL
        cdef uint32_t moved[RETIRED_AT_ONCE]
        cdef uint32_t cell = start
        cdef int n = 0, i, code
        cdef uint64_t used = self.books.head.cells_used
        while cell < used and cell - start < span and not led_resting(&self.books, cell,
                                                                      idle_since_ns):
            cell += 1
        if cell >= used:
            self._retire_meters(now_ns)
            return 0
        if cell - start >= span:
            return cell
        _check("cannot write the state store", self.home.begin(&txn))
        code = 0
        while code == 0 and cell < used and cell - start < span and n < RETIRED_AT_ONCE:
            if led_resting(&self.books, cell, idle_since_ns):
                moved[n] = 0xFFFFFFFF
                code = self._move_out(txn, cell, idle_since_ns, now_ns, &moved[n])
                n += moved[n] == cell
            cell += 1
        if code == 0:
            code = self.home.commit(txn)
        else:
            self.home.abort(txn)
        _check("cannot move counters out of the ledger", led_lock(&self.books))
        for i in range(n):
            if code == 0:
                led_give_cell(&self.books, moved[i])
            else:
                led_turn(&self.books, moved[i])
        led_unlock(&self.books)
        _check("cannot move counters out of the ledger", code)
        if cell < used:
            return cell
        self._retire_meters(now_ns)
        return 0

    cdef int _retire_meters(self, int64_t now_ns) except -1:
        """Gives back some meters in which nothing counts any more; goes on where it stopped."""
        cdef MDB_txn *txn = NULL
        cdef uint32_t over[METERS_AT_ONCE]
        cdef uint32_t used = self.books.head.meters_used, looked = 0
        cdef int n = 0, code
        while looked < min(used, METERS_LOOKED_AT) and n < METERS_AT_ONCE:
            if self.meter >= used:
                if n:           # they are in order
                    break
                self.meter = 0
            if led_meter_over(&self.books, self.meter, now_ns):
                over[n] = self.meter
                n += 1
            self.meter += 1
            looked += 1
        if n == 0:
            return 0
        _check("cannot write the state store", self.home.begin(&txn))
        code = led_lock(&self.books)
        if code == 0:
            n = led_meters_idle(&self.books, over, n, now_ns)
            code = self._give_meters(txn, over, n)
            led_unlock(&self.books)
        if code:
            self.home.abort(txn)
            _check("cannot give back a meter", code)
        _check("cannot give back a meter", self.home.commit(txn))
        return 0

    cdef bint _free_a_meter(self, int64_t now_ns) except -1:
        """Looks through all meters for one that is idle."""
        cdef uint32_t looked = 0
        while looked <= LED_METERS and not self.books.head.meters_free:
            self._retire_meters(now_ns)
            looked += METERS_LOOKED_AT
        return self.books.head.meters_free != 0

    cdef int _give_meters(self, MDB_txn *txn, const uint32_t *idle, int n) noexcept:
        """Drops the rows of meters, then the meters; a meter without a row is nobody's."""
        cdef home_row row
        cdef led_cell key
        cdef int i, code
        for i in range(n):
            memset(&key, 0, sizeof(key))
            key.budget, key.start_ns = self.books.meters[idle[i]].id, METER_ROW
            code = self.home.row(txn, key.budget, METER_ROW, &row)
            if code == NOTFOUND:            # its maker died half-way
                key.budget = ~key.budget
                code = self.home.row(txn, key.budget, METER_ROW, &row)
            if code == 0 and row.cell == idle[i]:
                code = self.home.drop(txn, &key)
            if code and code != NOTFOUND:
                return code
            led_give_meter(&self.books, idle[i])
        return 0

    def prune(self, int64_t now_ns):
        """Drops some counters at rest whose windows ended a day ago; returns how many.

        Goes on where it stopped, so that all are looked at in time.
        """
        cdef int dropped = 0
        cdef int code
        self._require()
        code = self.home.prune(now_ns - DAY_NS, self.pruned, ROWS_LOOKED_AT, &dropped)
        _check("cannot drop counters of old windows", code)
        return dropped

    cdef int _move_out(self, MDB_txn *txn, uint32_t cell, int64_t idle_since_ns, int64_t now_ns,
                       uint32_t *moved) noexcept:
        """Puts a cell to sleep and its content into its row; ``moved`` names it if it was done."""
        cdef led_cell content
        cdef home_row row
        cdef bint slept
        cdef int code = led_lock(&self.books)
        if code:
            return code
        content = self.books.cells[cell]
        led_unlock(&self.books)
        code = self.home.row(txn, content.budget, content.start_ns, &row)
        slept = code == NOTFOUND or (code == 0 and (not row.live or row.cell != cell))
        if slept:               # its mover died, or its maker before anybody could know it
            content.budget = ~content.budget
            code = self.home.row(txn, content.budget, content.start_ns, &row)
            if code == NOTFOUND or (code == 0 and (not row.live or row.cell != cell)):
                moved[0] = cell
                return 0
        if code:
            return code
        code = led_lock(&self.books)
        if code:
            return code
        if slept or led_resting(&self.books, cell, idle_since_ns):
            if not slept:
                led_turn(&self.books, cell)
            content = self.books.cells[cell]
            content.budget = ~content.budget
            moved[0] = cell
        led_unlock(&self.books)
        if moved[0] != cell:
            return 0            # somebody uses it again
        if row.end_ns < now_ns - DAY_NS:
            return self.home.drop(txn, &content)
        row.live, row.content = 0, content
        return self.home.keep(txn, &content, &row)

    def counters(self, list accounts):
        """(settled, reserved, requests, input tokens, output tokens) of each (budget, start ns)."""
        cdef home_row row
        cdef led_cell *cell
        cdef int code
        self._require()
        found = []
        for number, start in accounts:
            code = self.home.row(NULL, number, start, &row)
            if code == NOTFOUND:
                found.append((0, 0, 0, 0, 0))
                continue
            _check("cannot read a counter", code)
            cell = &row.content
            if row.live:
                _check("cannot read a counter", led_lock(&self.books))
                row.content = self.books.cells[row.cell]
                led_unlock(&self.books)
            found.append((cell.settled, cell.reserved, cell.requests, cell.input_tokens,
                          cell.output_tokens))
        return found

    def restore(self, list counters, uint64_t last):
        """Gives a fresh state what is known from elsewhere; outbox numbers go on above ``last``.

        ``counters`` are (budget, window start ns, window end ns, settled, requests, input tokens,
        output tokens). Raises ValueError for a counter that is in use already.
        """
        cdef home_row row
        cdef MDB_txn *txn = NULL
        cdef int code
        self._require()
        _check("cannot write the state store", self.home.begin(&txn))
        try:
            for number, start, end, settled, requests, input_tokens, output_tokens in counters:
                code = self.home.row(txn, number, start, &row)
                if code == 0 and row.live:
                    raise ValueError(f"the counter of budget {number:016x} is in use")
                if code != NOTFOUND:
                    _check("cannot restore the counters", code)
                memset(&row, 0, sizeof(row))
                row.end_ns = end
                row.content.budget, row.content.start_ns = number, start
                row.content.settled, row.content.requests = settled, requests
                row.content.input_tokens, row.content.output_tokens = input_tokens, output_tokens
                _check("cannot restore the counters", self.home.keep(txn, &row.content, &row))
        except BaseException:
            self.home.abort(txn)
            raise
        _check("cannot restore the counters", self.home.commit(txn))
        _check("cannot restore the counters", led_lock(&self.books))
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
        _check("cannot correct what was spent", code)

    # -- the outbox ------------------------------------------------------------------------------

    cdef int _spill(self) except -1:
        """The ring is full, so nobody drains it: moves what is in it to LMDB."""
        cdef MDB_txn *txn = NULL
        cdef const led_entry *entry
        cdef uint64_t at = 0, head = 0, tail = 0
        cdef int code
        _check("cannot write the outbox", self.home.begin(&txn))
        code = led_span(&self.books, &head, &tail)
        at = head
        while code == 0:
            entry = led_next(&self.books, &at, tail)
            if entry == NULL:
                break
            code = self.home.post(txn, entry.sequence, entry + 1, entry.size)
        if code or self.books.head.head != head:    # somebody drained it meanwhile
            self.home.abort(txn)
            _check("cannot write the outbox", code)
            return 0
        _check("cannot write the outbox", self.home.commit(txn))
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
            _check("cannot read the outbox", self.home.events(after, most, found))
            if len(found) < most:
                self._ring(found[len(found) - 1][0] if found else after, most, found)
            if self.books.head.head == head:        # else events moved on while we read
                return found

    cdef int _ring(self, uint64_t after, int most, list found) except -1:
        cdef const led_entry *entry
        cdef uint64_t at = 0, tail = 0
        _check("cannot read the outbox", led_span(&self.books, &at, &tail))
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
        _check("cannot shorten the outbox", code)
        _check("cannot shorten the outbox", led_lock(&self.books))
        at = self.books.head.head
        tail = self.books.head.tail
        while True:
            before = at
            entry = led_next(&self.books, &at, tail)
            if entry == NULL or entry.sequence > upto:
                break
        self.books.head.head = before
        led_unlock(&self.books)

    # -- what the dead left ----------------------------------------------------------------------

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
            _check("cannot read a reservation", led_lock(&self.books))
            if record.owner and not record.waits_on:
                rows.append((
                    record.owner, record.sequence, record.amount, record.created_ns,
                    PyBytes_FromStringAndSize(record.note, record.note_size),
                ))
            led_unlock(&self.books)
        return rows

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


cdef inline bint _waits(led_slot *slot, led_ask *ask, led_answer *answer) noexcept:
    """Whether a refusing slot would hold the request if all under way came back."""
    if slot.kind == LED_MONEY:
        return answer.settled + ask.amount <= slot.limit
    return slot.kind == LED_OVERDRAFT and answer.settled < slot.limit


cdef int _wake(ledger *books, led_slot *slot, uint32_t cell) noexcept:
    """Takes the cell or meter that a row names for a slot, and wakes it; EIO if it is not that."""
    cdef int code = led_lock(books)
    if code:
        return code
    if slot.kind >= LED_REQUESTS:
        if led_meter_is(books, cell, ~slot.budget, slot.end_ns):
            led_turn_id(books, cell)
        if not led_meter_is(books, cell, slot.budget, slot.end_ns):
            code = errno_io
    else:
        if led_asleep(books, cell, slot.budget, slot.start_ns):
            led_turn(books, cell)
        if not led_is(books, cell, slot.budget, slot.start_ns):
            code = errno_io
    slot.cell = cell
    led_unlock(books)
    return code


cdef int _check(str what, int code) except -1:
    if code:
        raise GateError(what, code)
    return 0


def condition(directory):
    """How the ledger in ``directory`` was left, by its header alone; nothing is opened or changed.

    ``new`` (none yet), ``sound``, ``unclean`` (the machine went down while it was in use, so what
    it holds may be old) or ``damaged``. Raises OSError.
    """
    cdef bytes boot = _boot()
    try:
        fd = os.open(os.path.join(os.fspath(directory), "ledger"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return "new"
    try:
        code = led_look(fd, PyBytes_AS_STRING(boot), PyBytes_GET_SIZE(boot))
    finally:
        os.close(fd)
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return {LED_NEW: "new", LED_UNCLEAN: "unclean", LED_DAMAGED: "damaged"}.get(code, "sound")


def _file(path, int flags=0):
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | flags, 0o600)


def alive(directory, uint32_t owner):
    """Whether the process that holds this owner number in ``directory`` still lives.

    A missing lock file means dead too; whoever has reclaimed a dead owner's reservations removes it.
    """
    path = os.path.join(os.fspath(directory), f"owner-{owner}.lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
