# cython: freethreading_compatible=True
"""Requests as columns: what reports add up and search, some million rows in a few milliseconds.

A block holds n requests in two byte strings. ``keys``: at[n], cost[n] as int64, then the position
less the block's first[n] and class[n] as uint32. ``sums``: input[n], cache read[n], cache write[n],
output[n], all as uint32, or as int64 when one of them does not fit. ``cells`` are sums of classes,
CELL int64 each, in the order of classes: class, requests, the five sums of the columns, the dearest request.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy

CELL = 8

cdef enum:
    ROW = 24  # bytes of keys for each request
    WIDE = 8  # numbers of a cell: class, requests, input, cache read and write, output, cost, dearest
    COST = 6
    DEAREST = 7
    NARROW_MOST = 0xFFFFFFFF


cdef struct Keys:
    Py_ssize_t n
    int64_t* at
    int64_t* cost
    uint32_t* pos
    uint32_t* kind


cdef struct Place:  # of a row of sums in an order
    int64_t code
    int64_t cost
    int64_t* row


cdef int _by_group(const void* one, const void* other) noexcept nogil:
    cdef int64_t a = (<Place*>one).code, b = (<Place*>other).code
    return (a > b) - (a < b)


cdef int _by_cost(const void* one, const void* other) noexcept nogil:
    """By interval, then dearest first, then by group."""
    cdef Place* a = <Place*>one
    cdef Place* b = <Place*>other
    if a.code >> 32 != b.code >> 32:
        return -1 if a.code >> 32 < b.code >> 32 else 1
    if a.cost != b.cost:
        return -1 if a.cost > b.cost else 1
    return _by_group(one, other)


cdef Keys _keys(bytes keys) except *:
    cdef Keys k
    cdef char* start = PyBytes_AS_STRING(keys)
    k.n = PyBytes_GET_SIZE(keys) // ROW
    if k.n * ROW != PyBytes_GET_SIZE(keys):
        raise ValueError("a block of requests is damaged")
    k.at = <int64_t*>start
    k.cost = k.at + k.n
    k.pos = <uint32_t*>(k.cost + k.n)
    k.kind = k.pos + k.n
    return k


cdef int _width(bytes sums, Py_ssize_t n) except -1:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(sums)
    if size == n * 16:
        return 4
    if size == n * 32:
        return 8
    raise ValueError("a block of requests is damaged")


cdef inline int64_t _value(char* start, int width, Py_ssize_t i) noexcept nogil:
    if width == 4:
        return (<uint32_t*>start)[i]
    return (<int64_t*>start)[i]


def pack(int64_t first, list rows):
    """``rows`` of (position, class, at, cost, input, cache read, cache write, output) as a block.

    Returns keys, sums, the oldest and the newest time and the dearest cost.
    """
    cdef Py_ssize_t n = len(rows), i
    cdef int column
    cdef int64_t value, oldest = 0, newest = 0, dearest = 0
    cdef bint wide = False
    cdef tuple row
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, n * ROW)
    cdef bytes sums = PyBytes_FromStringAndSize(NULL, n * 32)
    cdef bytes narrow
    cdef Keys k = _keys(keys)
    cdef int64_t* long = <int64_t*>PyBytes_AS_STRING(sums)
    cdef uint32_t* short
    for i in range(n):
        row = <tuple>rows[i]
        k.pos[i] = <int64_t>row[0] - first
        k.kind[i] = row[1]
        k.at[i] = row[2]
        k.cost[i] = row[3]
        if i == 0 or k.at[i] < oldest:
            oldest = k.at[i]
        if i == 0 or k.at[i] > newest:
            newest = k.at[i]
        if i == 0 or k.cost[i] > dearest:
            dearest = k.cost[i]
        for column in range(4):
            value = row[4 + column]
            wide = wide or value < 0 or value > <int64_t>NARROW_MOST
            long[column * n + i] = value
    if not wide:
        narrow = PyBytes_FromStringAndSize(NULL, n * 16)
        short = <uint32_t*>PyBytes_AS_STRING(narrow)
        for i in range(4 * n):
            short[i] = <uint32_t>long[i]
        sums = narrow
    return keys, sums, oldest, newest, dearest


def joined(list blocks):
    """One block's keys and sums of several blocks (first, keys, sums) in their order."""
    cdef Py_ssize_t n = 0, done = 0, i
    cdef int column, width, widest = 4
    cdef int64_t shift
    cdef Keys k, to
    cdef bytes keys, sums, all_keys, all_sums
    cdef char* source
    cdef char* target
    for _, keys, sums in blocks:
        k = _keys(keys)
        n += k.n
        widest = max(widest, _width(sums, k.n))
    all_keys = PyBytes_FromStringAndSize(NULL, n * ROW)
    all_sums = PyBytes_FromStringAndSize(NULL, n * 4 * widest)
    to = _keys(all_keys)
    for first, keys, sums in blocks:
        k = _keys(keys)
        width = _width(sums, k.n)
        memcpy(to.at + done, k.at, k.n * 8)
        memcpy(to.cost + done, k.cost, k.n * 8)
        memcpy(to.kind + done, k.kind, k.n * 4)
        shift = first - blocks[0][0]
        for i in range(k.n):
            to.pos[done + i] = <uint32_t>(k.pos[i] + shift)
        for column in range(4):
            source = PyBytes_AS_STRING(sums) + column * k.n * width
            target = PyBytes_AS_STRING(all_sums) + (column * n + done) * widest
            if width == widest:
                memcpy(target, source, k.n * width)
            else:
                for i in range(k.n):
                    (<int64_t*>target)[i] = (<uint32_t*>source)[i]
        done += k.n
    return all_keys, all_sums


def fitting(bytes keys, int64_t first, bytes flags, int64_t since, int64_t until,
            int64_t dearest, int64_t before_at, int64_t before_pos):
    """(time, position) of requests whose class has a flag, in a window, that cost enough, and come
    before a place in the order of lists. No ``flags`` at all: every class fits."""
    cdef Keys k = _keys(keys)
    cdef Py_ssize_t i, known = PyBytes_GET_SIZE(flags)
    cdef char* flag = PyBytes_AS_STRING(flags)
    cdef list found = []
    for i in range(k.n):
        if known and (k.kind[i] >= <uint32_t>known or not flag[k.kind[i]]):
            continue
        if k.at[i] < since or k.at[i] >= until or k.cost[i] < dearest:
            continue
        if k.at[i] > before_at or (k.at[i] == before_at and first + k.pos[i] >= before_pos):
            continue
        found.append((k.at[i], first + k.pos[i]))
    return found


def grouped(list kinds, list parties, list targets, list party, list target, int64_t width):
    """For each class the number of its group as int32, -1 where none: the number of its party times
    ``width`` plus that of its target. OverflowError when that does not fit."""
    cdef Py_ssize_t i, n = max(kinds) + 1 if kinds else 1
    cdef bytes groups = PyBytes_FromStringAndSize(NULL, n * sizeof(int32_t))
    cdef int32_t* group = <int32_t*>PyBytes_AS_STRING(groups)
    cdef int64_t number, most = len(party)
    if most * width > 0x7FFFFFFF:
        raise OverflowError("too many groups")
    for i in range(n):
        group[i] = -1
    for i in range(len(kinds)):
        number = <int64_t>party[<Py_ssize_t>parties[i]] * width
        group[<Py_ssize_t>kinds[i]] = <int32_t>(number + <int64_t>target[<Py_ssize_t>targets[i]])
    return groups


def holds(bytes cells, bytes flags, int64_t dearest):
    """Whether any of the cells is of a class with a flag and has a request that costs enough."""
    cdef int64_t* cell = <int64_t*>PyBytes_AS_STRING(cells)
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(cells) // (8 * WIDE), known = PyBytes_GET_SIZE(flags)
    cdef char* flag = PyBytes_AS_STRING(flags)
    for i in range(n):
        if known and (cell[0] >= known or not flag[cell[0]]):
            cell += WIDE
            continue
        if cell[DEAREST] >= dearest:
            return True
        cell += WIDE
    return False


@cython.final
cdef class Sums:
    """Adds up requests by interval and group; OverflowError when a sum leaves 63 bits.

    ``groups``: int32 for each class, -1 for one that does not count. ``bounds``: int64, ascending;
    interval i lasts from bounds[i] to before bounds[i + 1].
    """

    cdef bytes _groups, _bounds
    cdef int32_t* group
    cdef int64_t* bound
    cdef Py_ssize_t known, intervals, here, used, room, slots
    cdef int64_t* values
    cdef int32_t* table

    def __cinit__(self, bytes groups, bytes bounds):
        self._groups, self._bounds = groups, bounds
        self.group = <int32_t*>PyBytes_AS_STRING(groups)
        self.known = PyBytes_GET_SIZE(groups) // 4
        self.bound = <int64_t*>PyBytes_AS_STRING(bounds)
        self.intervals = PyBytes_GET_SIZE(bounds) // 8 - 1
        self.slots = 1024
        self.table = <int32_t*>calloc(self.slots, sizeof(int32_t))
        if self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.values)
        free(self.table)

    def add(self, bytes keys, bytes sums):
        """A block."""
        cdef Keys k = _keys(keys)
        cdef int width = _width(sums, k.n)
        cdef char* start = PyBytes_AS_STRING(sums)
        cdef Py_ssize_t i, interval
        cdef int32_t group
        cdef int64_t* row
        cdef int failed = 0
        with nogil:
            for i in range(k.n):
                if k.kind[i] >= <uint32_t>self.known:
                    continue
                group = self.group[k.kind[i]]
                if group < 0:
                    continue
                interval = self._interval(k.at[i])
                if interval < 0:
                    continue
                row = self._row(interval, group)
                if row == NULL:
                    failed = 2
                    break
                row[1] += 1
                failed |= _plus(row + 2, _value(start, width, i))
                failed |= _plus(row + 3, _value(start, width, k.n + i))
                failed |= _plus(row + 4, _value(start, width, 2 * k.n + i))
                failed |= _plus(row + 5, _value(start, width, 3 * k.n + i))
                failed |= _plus(row + COST, k.cost[i])
                if k.cost[i] > row[DEAREST]:
                    row[DEAREST] = k.cost[i]
        self._check(failed)

    def add_cells(self, bytes cells, int64_t at):
        """Cells of requests that all lie in the interval of ``at``."""
        cdef int64_t* cell = <int64_t*>PyBytes_AS_STRING(cells)
        cdef Py_ssize_t i, n = PyBytes_GET_SIZE(cells) // (8 * WIDE)
        cdef Py_ssize_t interval = self._interval(at)
        cdef int64_t* row
        cdef int column, failed = 0
        if interval < 0:
            return
        for i in range(n):
            if cell[0] < self.known and self.group[cell[0]] >= 0:
                row = self._row(interval, self.group[cell[0]])
                if row == NULL:
                    failed = 2
                    break
                for column in range(1, DEAREST):
                    failed |= _plus(row + column, cell[column])
                row[DEAREST] = max(row[DEAREST], cell[DEAREST])
            cell += WIDE
        self._check(failed)

    def add_cost(self, Py_ssize_t kind, int64_t at, int64_t cost):
        """A difference that belongs to no request."""
        cdef Py_ssize_t interval = self._interval(at)
        cdef int64_t* row
        if interval < 0 or kind >= self.known or self.group[kind] < 0:
            return
        row = self._row(interval, self.group[kind])
        self._check(2 if row == NULL else _plus(row + COST, cost))

    def cells(self):
        """What was added in the first interval as cells, a group of the caller's being a class."""
        cdef Py_ssize_t i
        cdef Place* places = self._sorted(_by_group)
        cdef bytes cells = PyBytes_FromStringAndSize(NULL, self.used * WIDE * 8)
        cdef int64_t* cell = <int64_t*>PyBytes_AS_STRING(cells)
        for i in range(self.used):
            memcpy(cell + i * WIDE, places[i].row, 8 * WIDE)
        free(places)
        return cells

    def rows(self, name):
        """For each interval that has any: (name(group), (requests, the five sums)), dearest first,
        then by group."""
        cdef Py_ssize_t i
        cdef int64_t interval = -1
        cdef int64_t* v
        cdef dict found = {}, names = {}
        cdef list rows = []
        cdef Place* places = self._sorted(_by_cost)
        try:
            for i in range(self.used):
                v = places[i].row
                if v[0] >> 32 != interval:
                    interval = v[0] >> 32
                    found[interval] = rows = []
                group = v[0] & 0xFFFFFFFF
                called = names.get(group)
                if called is None:
                    names[group] = called = name(group)
                rows.append((called, (v[1], v[2], v[3], v[4], v[5], v[COST])))
        finally:
            free(places)
        return found

    cdef Place* _sorted(self, int (*order)(const void*, const void*) noexcept nogil) except NULL:
        cdef Py_ssize_t i
        cdef Place* places = <Place*>malloc((self.used + 1) * sizeof(Place))
        if places == NULL:
            raise MemoryError
        for i in range(self.used):
            places[i].row = self.values + i * WIDE
            places[i].code, places[i].cost = places[i].row[0], places[i].row[COST]
        qsort(places, self.used, sizeof(Place), order)
        return places

    cdef int _check(self, int failed) except -1:
        if failed & 2:
            raise MemoryError
        if failed:
            raise OverflowError("a sum does not fit into 63 bits")
        return 0

    cdef Py_ssize_t _interval(self, int64_t at) noexcept nogil:
        cdef Py_ssize_t low, high, middle
        if self.bound[self.here] <= at < self.bound[self.here + 1]:
            return self.here
        if at < self.bound[0] or at >= self.bound[self.intervals]:
            return -1
        low, high = 0, self.intervals
        while high - low > 1:
            middle = (low + high) // 2
            if self.bound[middle] <= at:
                low = middle
            else:
                high = middle
        self.here = low
        return low

    cdef int64_t* _row(self, int64_t interval, int64_t group) noexcept nogil:
        """The cell of an interval and a group, with both in the place of a class; NULL without
        memory."""
        cdef int64_t code = interval << 32 | group
        cdef Py_ssize_t slot = _slot(code, self.slots)
        cdef int64_t* row
        cdef int column
        while self.table[slot]:
            row = self.values + (self.table[slot] - 1) * WIDE
            if row[0] == code:
                return row
            slot = (slot + 1) & (self.slots - 1)
        if self.used == self.room:
            if not self._grow():
                return NULL
            slot = _slot(code, self.slots)
            while self.table[slot]:
                slot = (slot + 1) & (self.slots - 1)
        row = self.values + self.used * WIDE
        self.used += 1
        self.table[slot] = <int32_t>self.used
        row[0] = code
        for column in range(1, DEAREST):
            row[column] = 0
        row[DEAREST] = -0x7FFFFFFFFFFFFFFF  # below every cost
        return row

    cdef bint _grow(self) noexcept nogil:
        """Makes room for twice as many cells; False without memory."""
        cdef Py_ssize_t room = max(512, 2 * self.room), slots, i, slot
        if room > 0x3FFFFFFF:
            return False
        slots = 4 * room
        cdef int64_t* values = <int64_t*>realloc(self.values, room * 8 * WIDE)
        if values != NULL:
            self.values = values
        cdef int32_t* table = <int32_t*>calloc(slots, sizeof(int32_t))
        if values == NULL or table == NULL:
            free(table)
            return False
        for i in range(self.used):
            slot = _slot(values[i * WIDE], slots)
            while table[slot]:
                slot = (slot + 1) & (slots - 1)
            table[slot] = <int32_t>(i + 1)
        free(self.table)
        self.table, self.slots, self.room = table, slots, room
        return True


cdef inline Py_ssize_t _slot(int64_t code, Py_ssize_t slots) noexcept nogil:
    cdef uint64_t mixed = <uint64_t>code * <uint64_t>0x9E3779B97F4A7C15
    return <Py_ssize_t>((mixed >> 32) & <uint64_t>(slots - 1))


cdef inline int _plus(int64_t* total, int64_t value) noexcept nogil:
    """Adds; 1 when the sum does not fit."""
    cdef int64_t sum = <int64_t>(<uint64_t>total[0] + <uint64_t>value)
    cdef int lost = ((total[0] ^ sum) & (value ^ sum)) < 0
    total[0] = sum
    return lost
