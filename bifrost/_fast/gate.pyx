# cython: freethreading_compatible=True
"""The gate: reservations and settlements over LMDB, one write transaction each, without the GIL.

A compiled leaf; it knows budgets only as numbers. The state environment is one B-tree:

    0x01 budget window   -> Cell (64 bytes)     what is settled and reserved in that window
    0x02 owner sequence  -> amount, time, accounts, note     one row per reservation under way
    0xf0 sequence        -> event bytes         the outbox, oldest first

Integers in keys are big-endian, so that the tree sorts them; money is int64 nano-USD.
"""

import os
import fcntl
import secrets

import lmdb.cpython

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from .lmdb_api cimport (
    NOMEMINIT, NORDAHEAD, NOSYNC, NOTFOUND, NOTLS, RDONLY, WRITEMAP,
    OP_GET_CURRENT, OP_LAST, OP_NEXT, OP_SET, OP_SET_RANGE, PUT_APPEND, PUT_CURRENT, PUT_RESERVE,
    MDB_cursor, MDB_dbi, MDB_env, MDB_txn, MDB_val, lm, lm_bind, now_mono,
)

cdef enum:
    MAX_SLOTS = 24              # keeps a Ticket below the 512 bytes that Python allocates fast
    KEY = 17                    # bytes of an account key
    ROW_HEAD = 24               # amount, created, account count
    BUCKETS = 1024

cdef uint8_t ACCOUNT = 0x01
cdef uint8_t RESERVATION = 0x02
cdef uint8_t OUTBOX = 0xF0

cdef const char *_missing = lm_bind(os.fsencode(lmdb.cpython.__file__))
if _missing != NULL:
    raise ImportError(
        "bifrost needs the lmdb package's own LMDB 0.9 functions and did not find "
        f"{(<bytes>_missing).decode()!r} in {lmdb.cpython.__file__}; install lmdb>=3,<4"
    )


class GateError(Exception):
    """The state store cannot be read or written; ``code`` is LMDB's error number."""

    def __init__(self, what, int code):
        text = lm.strerror_(code).decode("ascii", "replace")
        super().__init__(f"{what}: {text} ({code})")
        self.code = code


class Exhausted(Exception):
    """A budget cannot hold the amount: ``slot`` of the plan, and that window's figures."""

    def __init__(self, int slot, int64_t limit, int64_t settled, int64_t reserved, int64_t end_ns):
        super().__init__("budget exhausted")
        self.slot = slot
        self.limit = limit
        self.settled = settled
        self.reserved = reserved
        self.end_ns = end_ns


cdef struct Cell:
    int64_t settled             # nano-USD
    int64_t reserved            # nano-USD
    int64_t requests
    int64_t input_tokens
    int64_t output_tokens
    int64_t updated_ns
    int64_t spare[2]


cdef struct Slot:
    uint64_t budget
    int64_t limit
    int64_t start_ns
    int64_t end_ns


cdef inline void put64(uint8_t *p, uint64_t v) noexcept nogil:
    cdef int i
    for i in range(8):
        p[i] = <uint8_t>(v >> (56 - 8 * i))


cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v = 0
    cdef int i
    for i in range(8):
        v = (v << 8) | p[i]
    return v


cdef inline void account_key(uint8_t *key, uint64_t budget, int64_t start_ns) noexcept nogil:
    key[0] = ACCOUNT
    put64(key + 1, budget)
    put64(key + 9, <uint64_t>start_ns)


cdef class Plan:
    """The budgets one grant must clear, in the order in which a refusal is reported.

    ``budgets`` is a list of (64-bit id, limit nano-USD); ``window(index, now_ns)`` returns the
    (start_ns, end_ns) of that budget's current window and is asked only when the known one ended.
    """

    cdef int n
    cdef Slot slots[MAX_SLOTS]
    cdef object window
    cdef int64_t first_end

    def __cinit__(self, list budgets, window):
        if len(budgets) > MAX_SLOTS:
            raise ValueError(f"a request can be under at most {MAX_SLOTS} budgets, not {len(budgets)}")
        self.window = window
        self.n = len(budgets)
        self.first_end = 0
        for i, (number, limit) in enumerate(budgets):
            self.slots[i].budget = number
            self.slots[i].limit = limit
            self.slots[i].start_ns = 0
            self.slots[i].end_ns = 0

    def __len__(self):
        return self.n

    cdef int refresh(self, int64_t now_ns) except -1:
        cdef int i
        cdef int64_t first = 0x7FFFFFFFFFFFFFFF
        for i in range(self.n):
            if now_ns >= self.slots[i].end_ns or now_ns < self.slots[i].start_ns:
                start, end = self.window(i, now_ns)
                self.slots[i].start_ns = start
                self.slots[i].end_ns = end
            first = min(first, self.slots[i].end_ns)
        self.first_end = first
        return 0

    def account(self, int index, int64_t now_ns):
        """The (budget, window start ns, window end ns) of one slot at a time."""
        self.refresh(now_ns)
        if not 0 <= index < self.n:
            raise IndexError(index)
        return self.slots[index].budget, self.slots[index].start_ns, self.slots[index].end_ns


@cython.freelist(256)
cdef class Ticket:
    """A reservation under way. It is spent by exactly one ``settle`` or ``release``."""

    cdef int n
    cdef uint8_t keys[MAX_SLOTS * KEY]
    cdef uint64_t sequence
    cdef int64_t spent_ns       # governing so far: everything since the caller's ``since_ns``
    cdef int64_t gate_ns        # of that, the gate's own admit
    cdef readonly int64_t amount
    cdef readonly bint open
    cdef readonly int64_t remaining     # nano-USD left at the tightest level, -1 without budgets
    cdef readonly int64_t resets_ns     # when the tightest level's window ends, 0 without budgets


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


cdef class Timing:
    """A log-linear histogram of nanoseconds (16 steps per power of two, error below 6.3 %)."""

    cdef uint64_t counts[BUCKETS]
    cdef readonly uint64_t count
    cdef readonly uint64_t total_ns

    cdef void add(self, int64_t ns) noexcept:
        cdef int exponent = 0
        cdef uint64_t v = <uint64_t>ns if ns > 0 else 0
        cdef uint64_t w = v >> 4
        while w:
            exponent += 1
            w >>= 1
        cdef int index = <int>v if exponent == 0 else exponent * 16 + <int>((v >> (exponent - 1)) & 15)
        if index >= BUCKETS:
            index = BUCKETS - 1
        self.counts[index] += 1
        self.count += 1
        self.total_ns += v

    def quantile(self, double q):
        """The upper edge, in ns, of the bucket that holds quantile ``q`` (0..1); 0 when empty."""
        cdef uint64_t want = <uint64_t>(q * self.count) + 1
        cdef uint64_t seen = 0
        cdef int i
        for i in range(BUCKETS):
            seen += self.counts[i]
            if self.counts[i] and seen >= min(want, self.count):
                return i if i < 16 else (16 + i % 16 + 1) << (i // 16 - 1)
        return 0

    def clear(self):
        memset(self.counts, 0, sizeof(self.counts))
        self.count = 0
        self.total_ns = 0


cdef class Gate:
    """The shared state of one data directory: open once per process, after any fork.

    ``directory`` is made if needed; ``map_size`` bounds the file (sparse). Raises GateError.
    Every process that opens it gets an owner number, held by a lock on ``owner-N.lock``: when the
    process dies, however it dies, the lock is free and its reservations can be found.
    """

    cdef MDB_env *env
    cdef MDB_dbi dbi
    cdef uint64_t sequence
    cdef int owner_fd
    cdef readonly uint32_t owner
    cdef readonly str directory
    cdef readonly Timing gating         # this gate's admit + settle of one request
    cdef readonly Timing admitting      # the same and what came before, since ``since_ns``
    cdef readonly Timing settling
    cdef readonly Timing governing      # admitting + settling of one request

    def __cinit__(self, directory, size_t map_size=1 << 30):
        self.env = NULL
        self.owner_fd = -1
        self.directory = os.fspath(directory)
        self.gating = Timing()
        self.admitting = Timing()
        self.settling = Timing()
        self.governing = Timing()
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        self._open(os.fsencode(self.directory), map_size)
        self._take_owner()

    cdef int _open(self, bytes path, size_t map_size) except -1:
        cdef MDB_txn *txn = NULL
        cdef int dead = 0
        _check("cannot create the state environment", lm.env_create(&self.env))
        lm.env_set_mapsize(self.env, map_size)
        lm.env_set_maxreaders(self.env, 512)
        _check(
            f"cannot open the state store in {self.directory}",
            lm.env_open(self.env, path, WRITEMAP | NOSYNC | NOTLS | NORDAHEAD | NOMEMINIT, 0o600),
        )
        lm.reader_check(self.env, &dead)
        _check("cannot start a transaction", lm.txn_begin(self.env, NULL, 0, &txn))
        code = lm.dbi_open(txn, NULL, 0, &self.dbi)
        if code:
            lm.txn_abort(txn)
            _check("cannot open the state tree", code)
        _check("cannot commit", lm.txn_commit(txn))
        return 0

    cdef int _take_owner(self) except -1:
        while True:
            owner = secrets.randbits(31) + 1
            path = os.path.join(self.directory, f"owner-{owner}.lock")
            try:
                fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            self.owner = owner
            self.owner_fd = fd
            self.sequence = 0
            return 0

    def close(self):
        """Flushes the state to disk and gives up the owner number; further calls raise GateError."""
        if self.env == NULL:
            return
        with nogil:
            lm.env_sync(self.env, 1)
            lm.env_close(self.env)
        self.env = NULL
        os.unlink(os.path.join(self.directory, f"owner-{self.owner}.lock"))
        os.close(self.owner_fd)

    def __dealloc__(self):
        if self.env != NULL:
            lm.env_close(self.env)
            if self.owner_fd >= 0:
                os.close(self.owner_fd)

    cdef int _require(self) except -1:
        if self.env == NULL:
            raise GateError("the state store is closed", 22)
        return 0

    def admit(self, Plan plan, int64_t amount, bytes note, int64_t now_ns, int64_t since_ns=0):
        """Reserves ``amount`` nano-USD under every budget of the plan, or nothing.

        ``note`` is kept with the reservation for whoever finds it after a crash; ``now_ns`` is wall
        time, ``since_ns`` the monotonic time from which the cost of admitting is counted.
        Returns a Ticket; raises Exhausted for the first budget that cannot hold it, GateError.
        """
        cdef int64_t entered = now_mono()
        cdef int64_t left
        cdef Ticket ticket
        cdef Cell seen
        cdef int i, code, refused = -1
        self._require()
        if amount < 0:
            raise ValueError("an amount cannot be negative")
        if now_ns >= plan.first_end or now_ns < plan.slots[0].start_ns:
            plan.refresh(now_ns)
        ticket = Ticket.__new__(Ticket)
        ticket.n = plan.n
        ticket.amount = amount
        self.sequence += 1
        ticket.sequence = self.sequence
        for i in range(plan.n):
            account_key(ticket.keys + i * KEY, plan.slots[i].budget, plan.slots[i].start_ns)
        cdef const char *note_at = PyBytes_AS_STRING(note)
        cdef size_t note_size = PyBytes_GET_SIZE(note)
        with nogil:
            code = _reserve(self, plan, ticket, note_at, note_size, now_ns, &refused, &seen)
        if refused >= 0:
            raise Exhausted(
                refused, plan.slots[refused].limit, seen.settled, seen.reserved,
                plan.slots[refused].end_ns,
            )
        if code:
            raise GateError("cannot reserve", code)
        ticket.open = True
        left = now_mono()
        ticket.gate_ns = left - entered
        ticket.spent_ns = left - (since_ns if since_ns else entered)
        self.admitting.add(ticket.spent_ns)
        return ticket

    def settle(self, Ticket ticket, int64_t cost, int64_t input_tokens, int64_t output_tokens,
               bytes event, int64_t now_ns, int64_t since_ns=0):
        """Books ``cost`` at every level, frees the reservation and appends ``event`` to the outbox.

        All in one transaction. Raises ValueError on a spent ticket, GateError (ticket stays open).
        """
        cdef int64_t entered = now_mono()
        cdef int64_t left, took
        cdef int code
        self._require()
        if not ticket.open:
            raise ValueError("this ticket is already settled or released")
        if cost < 0:
            raise ValueError("a cost cannot be negative")
        cdef const char *event_at = PyBytes_AS_STRING(event)
        cdef size_t event_size = PyBytes_GET_SIZE(event)
        with nogil:
            code = _settle(self, ticket, cost, input_tokens, output_tokens, event_at, event_size,
                           now_ns)
        if code:
            raise GateError("cannot settle", code)
        ticket.open = False
        left = now_mono()
        took = left - (since_ns if since_ns else entered)
        self.gating.add(left - entered + ticket.gate_ns)
        self.settling.add(took)
        self.governing.add(took + ticket.spent_ns)

    def append(self, bytes event, int64_t now_ns):
        """Appends an event that moves no money (a refusal, an administrative act)."""
        cdef Ticket nothing = Ticket.__new__(Ticket)
        cdef int code
        self._require()
        nothing.n = 0
        nothing.sequence = 0
        cdef const char *event_at = PyBytes_AS_STRING(event)
        cdef size_t event_size = PyBytes_GET_SIZE(event)
        with nogil:
            code = _settle(self, nothing, 0, 0, 0, event_at, event_size, now_ns)
        if code:
            raise GateError("cannot append to the outbox", code)

    def counters(self, list accounts):
        """(settled, reserved, requests, input tokens, output tokens) of each (budget, start ns)."""
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef uint8_t name[KEY]
        cdef Cell *cell
        self._require()
        _check("cannot read", lm.txn_begin(self.env, NULL, RDONLY, &txn))
        try:
            found = []
            for number, start in accounts:
                account_key(name, number, start)
                key.mv_size, key.mv_data = KEY, name
                code = lm.get(txn, self.dbi, &key, &data)
                if code == NOTFOUND:
                    found.append((0, 0, 0, 0, 0))
                    continue
                _check("cannot read a counter", code)
                cell = <Cell *>data.mv_data
                found.append((cell.settled, cell.reserved, cell.requests, cell.input_tokens,
                              cell.output_tokens))
            return found
        finally:
            lm.txn_abort(txn)

    def outbox(self, uint64_t after, int most):
        """Up to ``most`` (sequence, event) with a sequence above ``after``, oldest first."""
        return [
            (int.from_bytes(key[1:], "big"), value)
            for key, value in self._rows(bytes([OUTBOX]) + (after + 1).to_bytes(8, "big"), OUTBOX, most)
        ]

    def reservations(self, int most=1_000_000):
        """Every reservation under way: (owner, sequence, amount, created ns, note)."""
        rows = []
        for key, value in self._rows(bytes([RESERVATION]), RESERVATION, most):
            accounts = int.from_bytes(value[16:24], "little")
            rows.append((
                int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:], "big"),
                int.from_bytes(value[:8], "little", signed=True),
                int.from_bytes(value[8:16], "little", signed=True),
                value[ROW_HEAD + accounts * KEY:],
            ))
        return rows

    cdef list _rows(self, bytes start, uint8_t kind, int most):
        cdef MDB_txn *txn = NULL
        cdef MDB_cursor *cursor = NULL
        cdef MDB_val key, data
        cdef int code
        rows = []
        self._require()
        _check("cannot read", lm.txn_begin(self.env, NULL, RDONLY, &txn))
        try:
            _check("cannot read", lm.cursor_open(txn, self.dbi, &cursor))
            key.mv_size, key.mv_data = len(start), PyBytes_AS_STRING(start)
            code = lm.cursor_get(cursor, &key, &data, OP_SET_RANGE)
            while code == 0 and (<uint8_t *>key.mv_data)[0] == kind and len(rows) < most:
                rows.append((
                    PyBytes_FromStringAndSize(<char *>key.mv_data, key.mv_size),
                    PyBytes_FromStringAndSize(<char *>data.mv_data, data.mv_size),
                ))
                code = lm.cursor_get(cursor, &key, &data, OP_NEXT)
            if code and code != NOTFOUND:
                raise GateError("cannot read", code)
            return rows
        finally:
            if cursor != NULL:
                lm.cursor_close(cursor)
            lm.txn_abort(txn)

    def forget(self, uint64_t upto):
        """Removes outbox entries up to ``upto`` but the newest, which keeps the sequence rising."""
        cdef int code
        self._require()
        with nogil:
            code = _forget(self, upto)
        if code:
            raise GateError("cannot shorten the outbox", code)

    def reclaim(self, uint32_t owner, uint64_t sequence, bytes event, int64_t now_ns):
        """Charges another owner's reservation in full with ``event``; False when it is gone."""
        cdef MDB_txn *txn = NULL
        cdef MDB_val key, data
        cdef uint8_t name[13]
        cdef Ticket ticket = Ticket.__new__(Ticket)
        cdef int code
        self._require()
        _reservation_key(name, owner, sequence)
        key.mv_size, key.mv_data = 13, name
        _check("cannot read", lm.txn_begin(self.env, NULL, RDONLY, &txn))
        code = lm.get(txn, self.dbi, &key, &data)
        if code == 0:
            memcpy(&ticket.amount, data.mv_data, 8)
            ticket.n = (<uint8_t *>data.mv_data)[16]
            memcpy(ticket.keys, <uint8_t *>data.mv_data + ROW_HEAD, ticket.n * KEY)
        lm.txn_abort(txn)
        if code == NOTFOUND:
            return False
        _check("cannot read a reservation", code)
        ticket.sequence = sequence
        cdef const char *event_at = PyBytes_AS_STRING(event)
        cdef size_t event_size = PyBytes_GET_SIZE(event)
        with nogil:
            code = _settle_for(self, owner, ticket, ticket.amount, 0, 0, event_at, event_size, now_ns)
        if code == NOTFOUND:
            return False
        _check("cannot settle a reservation", code)
        return True

    def sync(self):
        """Writes the state through to the disk (a clean stop does this by itself)."""
        cdef int code
        self._require()
        with nogil:
            code = lm.env_sync(self.env, 1)
        _check("cannot flush the state", code)


cdef int _check(str what, int code) except -1:
    if code:
        raise GateError(what, code)
    return 0


cdef inline void _reservation_key(uint8_t *key, uint32_t owner, uint64_t sequence) noexcept nogil:
    key[0] = RESERVATION
    key[1] = <uint8_t>(owner >> 24)
    key[2] = <uint8_t>(owner >> 16)
    key[3] = <uint8_t>(owner >> 8)
    key[4] = <uint8_t>owner
    put64(key + 5, sequence)


cdef int _reserve(Gate gate, Plan plan, Ticket ticket, const char *note, size_t note_size,
                  int64_t now_ns, int *refused, Cell *seen) noexcept nogil:
    cdef MDB_txn *txn = NULL
    cdef MDB_cursor *cursor = NULL
    cdef int code
    code = lm.txn_begin(gate.env, NULL, 0, &txn)
    if code:
        return code
    code = lm.cursor_open(txn, gate.dbi, &cursor)
    if code == 0:
        code = _hold(cursor, plan, ticket, refused, seen)
        lm.cursor_close(cursor)
    if code == 0 and refused[0] < 0:
        code = _note(gate, txn, ticket, note, note_size, now_ns)
    if code or refused[0] >= 0:
        lm.txn_abort(txn)
        return code
    return lm.txn_commit(txn)


cdef int _hold(MDB_cursor *cursor, Plan plan, Ticket ticket, int *refused,
               Cell *seen) noexcept nogil:
    """Adds the amount to each account in turn; the caller aborts all if one cannot hold it."""
    cdef MDB_val key, data
    cdef Cell cell
    cdef int i, code, known
    cdef int64_t left
    ticket.remaining = -1
    ticket.resets_ns = 0
    for i in range(ticket.n):
        key.mv_size, key.mv_data = KEY, ticket.keys + i * KEY
        known = lm.cursor_get(cursor, &key, &data, OP_SET)
        if known == 0:
            memcpy(&cell, data.mv_data, sizeof(Cell))
        elif known == NOTFOUND:
            memset(&cell, 0, sizeof(Cell))
        else:
            return known
        left = plan.slots[i].limit - cell.settled - cell.reserved - ticket.amount
        if left < 0:
            refused[0] = i
            seen[0] = cell
            return 0
        if ticket.remaining < 0 or left < ticket.remaining:
            ticket.remaining = left
            ticket.resets_ns = plan.slots[i].end_ns
        cell.reserved += ticket.amount
        key.mv_size, key.mv_data = KEY, ticket.keys + i * KEY
        data.mv_size, data.mv_data = sizeof(Cell), &cell
        code = lm.cursor_put(cursor, &key, &data, PUT_CURRENT if known == 0 else 0)
        if code:
            return code
    return 0


cdef int _note(Gate gate, MDB_txn *txn, Ticket ticket, const char *note, size_t note_size,
               int64_t now_ns) noexcept nogil:
    """Writes the reservation's own row: what a finder needs to charge it."""
    cdef uint8_t name[13]
    cdef uint8_t *row
    cdef MDB_val key, data
    cdef uint64_t accounts = ticket.n
    cdef int code
    _reservation_key(name, gate.owner, ticket.sequence)
    key.mv_size, key.mv_data = 13, name
    data.mv_size = ROW_HEAD + ticket.n * KEY + note_size
    data.mv_data = NULL
    code = lm.put(txn, gate.dbi, &key, &data, PUT_RESERVE)
    if code:
        return code
    row = <uint8_t *>data.mv_data
    memcpy(row, &ticket.amount, 8)
    memcpy(row + 8, &now_ns, 8)
    memcpy(row + 16, &accounts, 8)
    memcpy(row + ROW_HEAD, ticket.keys, ticket.n * KEY)
    memcpy(row + ROW_HEAD + ticket.n * KEY, note, note_size)
    return 0


cdef int _settle(Gate gate, Ticket ticket, int64_t cost, int64_t input_tokens,
                 int64_t output_tokens, const char *event, size_t event_size,
                 int64_t now_ns) noexcept nogil:
    return _settle_for(gate, gate.owner, ticket, cost, input_tokens, output_tokens, event,
                       event_size, now_ns)


cdef int _settle_for(Gate gate, uint32_t owner, Ticket ticket, int64_t cost, int64_t input_tokens,
                     int64_t output_tokens, const char *event, size_t event_size,
                     int64_t now_ns) noexcept nogil:
    cdef MDB_txn *txn = NULL
    cdef MDB_val key, data
    cdef uint8_t name[13]
    cdef int code
    code = lm.txn_begin(gate.env, NULL, 0, &txn)
    if code:
        return code
    if ticket.sequence:
        _reservation_key(name, owner, ticket.sequence)
        key.mv_size, key.mv_data = 13, name
        code = lm.del_(txn, gate.dbi, &key, NULL)
        if code == 0:
            code = _book(gate, txn, ticket, cost, input_tokens, output_tokens, now_ns)
    if code == 0:
        code = _post(gate, txn, event, event_size, now_ns)
    if code:
        lm.txn_abort(txn)
        return code
    return lm.txn_commit(txn)


cdef int _book(Gate gate, MDB_txn *txn, Ticket ticket, int64_t cost, int64_t input_tokens,
               int64_t output_tokens, int64_t now_ns) noexcept nogil:
    """Moves the ticket's amount from reserved to ``cost`` settled in each of its accounts."""
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef Cell cell
    cdef int i
    cdef int code = lm.cursor_open(txn, gate.dbi, &cursor)
    if code:
        return code
    for i in range(ticket.n):
        key.mv_size, key.mv_data = KEY, ticket.keys + i * KEY
        code = lm.cursor_get(cursor, &key, &data, OP_SET)
        if code:
            break
        memcpy(&cell, data.mv_data, sizeof(Cell))
        cell.reserved -= ticket.amount
        cell.settled += cost
        cell.requests += 1
        cell.input_tokens += input_tokens
        cell.output_tokens += output_tokens
        cell.updated_ns = now_ns
        data.mv_size, data.mv_data = sizeof(Cell), &cell
        code = lm.cursor_put(cursor, &key, &data, PUT_CURRENT)
        if code:
            break
    lm.cursor_close(cursor)
    return code


cdef int _post(Gate gate, MDB_txn *txn, const char *event, size_t event_size,
               int64_t now_ns) noexcept nogil:
    """Appends to the outbox. Sequences are the time in ns, or one more than the last if that is
    not later: rising for ever, also over a lost state file."""
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef uint8_t name[9]
    cdef uint64_t sequence = <uint64_t>now_ns
    cdef uint64_t last
    cdef int code
    code = lm.cursor_open(txn, gate.dbi, &cursor)
    if code:
        return code
    code = lm.cursor_get(cursor, &key, &data, OP_LAST)
    if code == 0 and (<uint8_t *>key.mv_data)[0] == OUTBOX:
        last = get64(<uint8_t *>key.mv_data + 1)
        if last >= sequence:
            sequence = last + 1
    lm.cursor_close(cursor)
    if code and code != NOTFOUND:
        return code
    name[0] = OUTBOX
    put64(name + 1, sequence)
    key.mv_size, key.mv_data = 9, name
    data.mv_size, data.mv_data = event_size, <void *>event
    return lm.put(txn, gate.dbi, &key, &data, PUT_APPEND)


cdef int _forget(Gate gate, uint64_t upto) noexcept nogil:
    cdef MDB_txn *txn = NULL
    cdef MDB_cursor *cursor = NULL
    cdef MDB_val key, data
    cdef uint8_t name[9]
    cdef uint64_t last = 0
    cdef int code
    code = lm.txn_begin(gate.env, NULL, 0, &txn)
    if code:
        return code
    code = lm.cursor_open(txn, gate.dbi, &cursor)
    if code:
        lm.txn_abort(txn)
        return code
    if lm.cursor_get(cursor, &key, &data, OP_LAST) == 0 and (<uint8_t *>key.mv_data)[0] == OUTBOX:
        last = get64(<uint8_t *>key.mv_data + 1)
    name[0] = OUTBOX
    put64(name + 1, 0)
    key.mv_size, key.mv_data = 9, name
    code = lm.cursor_get(cursor, &key, &data, OP_SET_RANGE)
    while code == 0 and (<uint8_t *>key.mv_data)[0] == OUTBOX:
        if get64(<uint8_t *>key.mv_data + 1) > upto or get64(<uint8_t *>key.mv_data + 1) == last:
            break
        code = lm.cursor_del(cursor, 0)
        if code == 0:       # the cursor now stands on the next entry
            code = lm.cursor_get(cursor, &key, &data, OP_GET_CURRENT)
            if code:        # past the page: find the first one again
                key.mv_size, key.mv_data = 9, name
                code = lm.cursor_get(cursor, &key, &data, OP_SET_RANGE)
    lm.cursor_close(cursor)
    if code and code != NOTFOUND:
        lm.txn_abort(txn)
        return code
    return lm.txn_commit(txn)


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
