# cython: freethreading_compatible=True
"""The state of one data directory: its home and its ledger opened, recognised, flushed and closed.

Every process that opens it gets an owner number. What rests is in LMDB (``home.pyx``), money under
way in the ledger, a mapped file (``ledger.h``). The lock order is LMDB's writer first, the ledger
second.
"""

import errno
import fcntl
import os
import secrets

from posix.unistd cimport close
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from .home cimport Home
from .ledger cimport (
    LED_CELLS, LED_DAMAGED, LED_FULL, LED_GONE, LED_METERS, LED_NEW, LED_RECORDS, LED_UNCLEAN,
    led_close, led_look, led_open, led_warm,
)
from .lmdb_api cimport NOTFOUND

cdef size_t MAP_SIZE = <size_t>1 << (38 if sizeof(size_t) > 4 else 28)


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


cdef int check(str what, int code) except -1:
    """Raises GateError, which begins with ``what``, unless ``code`` is 0."""
    if code:
        raise GateError(what, code)
    return 0


cdef object own_file(path, int flags=0):
    """A descriptor of a file of the state, made if needed, for nobody but us."""
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | flags, 0o600)


def _boot():
    """What tells this run of the machine from the last; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(36)
    except OSError:
        return b""


cdef class State:
    """What a process shares with the others of its data directory: open once, after any fork.

    ``directory`` is made if needed; ``map_size`` are the addresses LMDB's file begins with (more
    are taken as it grows; it is no larger than what is in it). Raises GateError.
    Every process that opens it gets an owner number, held by a lock on ``owner-N.lock``: when the
    process dies, however it dies, the lock is free and its reservations can be found.
    ``unclean``: the machine went down while the state was open, so what it holds may be old.
    """

    def __cinit__(self, directory, size_t map_size=MAP_SIZE):
        self.owner_fd = self.ledger_fd = self.using_fd = -1
        self.directory = os.fspath(directory)
        self.home = Home()
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        check(f"cannot open the state store in {self.directory}",
              self.home.open(os.fsencode(self.directory), map_size))
        self._open_ledger()
        self._take_owner()

    cdef int _open_ledger(self) except -1:
        """Opens the ledger; the first process of a data directory puts it in order for the rest."""
        cdef uint64_t fresh = secrets.randbits(63) + 1
        cdef bint alone = True
        path = os.path.join(self.directory, "ledger")
        opening = own_file(path + ".opening")
        try:
            fcntl.flock(opening, fcntl.LOCK_EX)
            self.ledger_fd = own_file(path)
            self.using_fd = own_file(path + ".using")
            try:
                fcntl.flock(self.using_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            check(f"cannot open the ledger {path}",
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
        check("cannot read the state store", code)
        self.unclean = not self.books.head.clean and self.books.head.boot[:len(boot)] != boot
        memcpy(self.books.head.boot, PyBytes_AS_STRING(boot), len(boot))
        self.books.head.clean = 0
        return 0

    cdef int _take_owner(self) except -1:
        while True:
            owner = secrets.randbits(31) + 1
            try:
                fd = own_file(os.path.join(self.directory, f"owner-{owner}.lock"), os.O_EXCL)
            except FileExistsError:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            self.owner = owner
            self.owner_fd = fd
            return 0

    def close(self):
        """Flushes the state to disk and gives up the owner number; further calls raise GateError."""
        if self.home.env == NULL:
            return
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
        check("cannot flush the state", code)
        os.fsync(self.ledger_fd)

    def sync(self):
        """Writes the state through to the disk (a clean stop does this by itself)."""
        self._require()
        self._flush()

    cdef int _require(self) except -1:
        if self.books.base == NULL:
            raise GateError("the state store is closed", errno.EINVAL)
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
