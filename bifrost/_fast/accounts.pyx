# cython: freethreading_compatible=True
"""Accounts: where the counter of a budget's window, or of a rate limit, is at any time.

One in use is a cell or a meter of the ledger, found by its row in LMDB and made when first asked
for. One at rest is moved out into its row, and dropped when its window is long over.
"""

import errno
import fcntl
import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from .home cimport home_row
from .ledger cimport (
    LED_FULL, LED_METERS, LED_REQUESTS, led_asleep, led_cell, led_give_cell, led_give_meter, led_is,
    led_lock, led_meter_is, led_meter_over, led_meters_idle, led_resting, led_slot, led_take_cell,
    led_take_meter, led_turn, led_turn_id, led_unlock, ledger,
)
from .lmdb_api cimport NOTFOUND, MDB_txn
from .state cimport NO_CELL, NO_METER, State, check, own_file

from .state import GateError

cdef enum:
    RETIRED_AT_ONCE = 256       # cells moved out in one LMDB transaction
    METERS_AT_ONCE = 64         # meters given back in one, while the ledger is held
    METERS_LOOKED_AT = 65536
    ROWS_LOOKED_AT = 4096

cdef int64_t DAY_NS = 86_400_000_000_000
cdef int64_t METER_ROW = -1     # stands for the window in the row of a meter
cdef int errno_io = errno.EIO


cdef class Accounts(State):
    """The state, and in it the counters of budgets and rate limits."""

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
        check("cannot write the state store", self.home.begin(&txn))
        found = self.home.row(txn, slot.budget, start_ns, &row)
        if found == NOTFOUND:
            memset(&row, 0, sizeof(row))
            row.content = key
        elif found:
            self.home.abort(txn)
            check("cannot read the state store", found)
        if row.live:            # made meanwhile, or its mover died half-way: no mover can begin now
            code = _wake(&self.books, slot, row.cell)
            if code == 0 or not meter:
                self.home.abort(txn)
                return check("the counters of a budget are damaged", code)
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
        mover = own_file(os.path.join(self.directory, "retire.lock"))
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
        check("cannot write the state store", self.home.begin(&txn))
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
        check("cannot move counters out of the ledger", led_lock(&self.books))
        for i in range(n):
            if code == 0:
                led_give_cell(&self.books, moved[i])
            else:
                led_turn(&self.books, moved[i])
        led_unlock(&self.books)
        check("cannot move counters out of the ledger", code)
        if cell < used:
            return cell
        self._retire_meters(now_ns)
        return 0

    cdef int _retire_meters(self, int64_t now_ns) except -1:
        """Gives back some meters in which nothing counts any more; goes on where it stopped."""
        cdef MDB_txn *txn = NULL
        cdef uint32_t over[METERS_AT_ONCE]
        cdef uint32_t used = self.books.head.meters_used, looked = 0
        cdef uint32_t most = min(used, <uint32_t>METERS_LOOKED_AT)
        cdef int n = 0, code
        while looked < most and n < METERS_AT_ONCE:
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
        check("cannot write the state store", self.home.begin(&txn))
        code = led_lock(&self.books)
        if code == 0:
            n = led_meters_idle(&self.books, over, n, now_ns)
            code = self._give_meters(txn, over, n)
            led_unlock(&self.books)
        if code:
            self.home.abort(txn)
            check("cannot give back a meter", code)
        check("cannot give back a meter", self.home.commit(txn))
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
        check("cannot drop counters of old windows", code)
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
            check("cannot read a counter", code)
            cell = &row.content
            if row.live:
                check("cannot read a counter", led_lock(&self.books))
                row.content = self.books.cells[row.cell]
                led_unlock(&self.books)
            found.append((cell.settled, cell.reserved, cell.requests, cell.input_tokens,
                          cell.output_tokens))
        return found


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
