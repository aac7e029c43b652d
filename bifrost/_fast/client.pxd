# Attributes and internal methods of client.pyx.
cimport cython
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef enum:
    MAX_HEAD = 262144   # bytes of status line and headers, interim responses included
    STALE_S = 2         # a kept connection that dies later than this was at work, not idle
    JOIN_BELOW = 16384  # one copy of so few bytes is cheaper than a vectored write


cdef inline double monotonic() noexcept:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return moment.tv_sec + moment.tv_nsec * 1e-9


cdef inline int settle(object future) except -1:
    if future is not None and not future.done():
        future.set_result(None)
    return 0


cdef class Connection
cdef class Pool


cdef class Follower:
    """Who is told of a response as it comes, instead of a task that awaits it."""

    cdef int moved(self) except -1      # head, data, end or failure: look at the exchange
    cdef int silent(self) except -1     # ``wake`` was called


@cython.final
@cython.freelist(64)
cdef class Exchange:
    cdef Pool _pool
    cdef Connection _conn           # None once the response is complete or failed
    cdef object _waiter
    cdef Follower _follower
    cdef list _chunks
    cdef Py_ssize_t _buffered
    cdef Py_ssize_t _unwritten      # of the request, when the deadline was last looked at
    cdef double _begun              # when the request was written
    cdef double _deadline           # 0 while a slow reader holds the connection paused
    cdef bint _head_done
    cdef bint _touched              # a byte came back
    cdef bint _stale                # a kept connection died under the request
    cdef bint _woken
    cdef tuple _failure             # class of the error, its text and phase
    cdef readonly int status
    cdef readonly Py_ssize_t received   # bytes of the body so far
    cdef readonly list headers
    cdef readonly bint complete
    cdef readonly bint early

    cdef int follow(self, Follower follower) except -1
    cpdef object read_nowait(self)
    cpdef object cancel(self)
    cpdef object wake(self)
    cdef int finish(self) except -1
    cdef int fail(self, object kind, str text, str phase=*) except -1
    cdef object error(self)


@cython.final
@cython.internal
cdef class Connection:
    cdef Pool pool
    cdef object transport
    cdef object parser
    cdef Exchange exchange
    cdef list headers               # None after the head
    cdef Py_ssize_t head_size
    cdef double idle_since
    cdef bint adopted               # counted by the pool
    cdef bint dead
    cdef bint reused
    cdef bint paused
    cdef bint keep                  # reusable after the present response
    cdef bint until_eof             # the present response ends with the connection

    cdef Exchange begin(self, list request, Follower follower)
    cdef int check(self, double now) except -1
    cdef int lost(self, object error) except -1
    cdef int abort(self) except -1


@cython.final
@cython.internal
cdef class Waiter:
    cdef object future
    cdef double deadline
    cdef bint fresh                 # wants a new connection, not a kept one
    cdef bint granted               # holds a slot
    cdef Connection conn
    cdef object failure


@cython.final
cdef class Pool:
    cdef readonly str host
    cdef readonly int port
    cdef dict _tls
    cdef object _error
    cdef int _max_connections
    cdef int _max_idle
    cdef int _retries
    cdef Py_ssize_t _high_water
    cdef double _idle_close
    cdef double _connect_timeout
    cdef double _first_byte_timeout
    cdef double _idle_timeout
    cdef double _interval
    cdef object _loop
    cdef object _timer
    cdef bint _slow_timer           # the timer only waits for idle connections to grow old
    cdef bint _retired
    cdef bint _closed
    cdef object _drained
    cdef readonly int open          # connections that exist or are being made
    cdef readonly int active        # exchanges in flight
    cdef set _conns
    cdef list _idle                 # oldest first
    cdef object _waiters
    cdef readonly object opened_total
    cdef readonly object reused_total

    cdef Exchange start(self, list request, Follower follower)
    cdef int withdraw(self, Waiter waiter) except -1
    cdef int finished(self, Connection conn) except -1
    cdef int offer(self, Connection conn) except -1
    cdef int removed(self, Connection conn) except -1
    cdef int freed(self) except -1
    cdef object raised(self, object error)
    cdef int start_timer(self) except -1
