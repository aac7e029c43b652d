"""The environment: the directory's LMDB file. Grows by itself, survives a full disk, says why not.

Every commit is on the disk before it is acknowledged. Any number of processes may hold it open.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from bifrost._fast.home import settle
from bifrost.errors import StoreError

# The map is addresses, not memory or disk: the file is as large as what is in it. Where addresses
# are short (a 32-bit system, a limit on address space) it begins small and is doubled when needed.
MAP_SIZE = 1 << 38 if sys.maxsize > 1 << 32 else 1 << 29
LEAST_MAP = 1 << 26
READERS = 512
LOCK_SIZE = 64 * 1024  # bytes of lock.mdb: a header and 64 for each reader
LEAST_FREE = 1 << 20
PATIENCE_S = 10.0
FULL = "the disk is full, free some space; nothing was changed"


def make_folder(path: Path) -> None:
    """Makes a data directory if it is not there, for its owner only. Raises StoreError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot make {path}: {error.strerror}; {_remedy(error)}.") from error


class Environment:
    """One LMDB environment; open it once per process. Raises StoreError with the remedy."""

    def __init__(self, path: Path, *, map_size: int = MAP_SIZE) -> None:
        self.path = path
        self._inside = 0
        self._idle = threading.Condition()
        with self._guarded("open"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            settle(path / "lock.mdb", LOCK_SIZE)
            self._env = self._open(map_size)
            self._env.reader_check()  # slots of processes that were killed

    def _open(self, map_size: int) -> lmdb.Environment:
        while True:
            try:
                return lmdb.open(
                    str(self.path), max_dbs=16, map_size=map_size, mode=0o600, max_readers=READERS
                )
            except (lmdb.Error, MemoryError) as error:
                few = (os.strerror(errno.ENOMEM), os.strerror(errno.EINVAL))
                if map_size <= LEAST_MAP or not str(error).endswith(few):
                    raise
                map_size //= 4

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            why = str(error).removeprefix(f"{self.path}: ")
            remedy = FULL if self._is_full(why) else _remedy(error)
            raise StoreError(
                f"Cannot {what} the directory store in {self.path}: {why}; {remedy}."
            ) from error

    def _is_full(self, why: str) -> bool:
        """Whether an I/O error is a full disk: what LMDB says when it takes a part of a page."""
        if os.strerror(errno.EIO) not in why:
            return False
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize < LEAST_FREE

    def open_db(self, name: bytes) -> Any:
        """A named tree of the environment, made if it is not there."""
        with self._guarded("open"):
            return self._env.open_db(name)

    def close(self) -> None:
        """Closes the environment; its trees are not usable afterwards."""
        self._env.close()

    def revision(self) -> int:
        """The number of the last transaction that any process committed."""
        return int(self._env.info()["last_txnid"])

    @contextmanager
    def read(self) -> Iterator[lmdb.Transaction]:
        """A transaction that sees one state of the store."""
        with self._guarded("read"), self._transaction(write=False) as txn:
            yield txn

    @contextmanager
    def write(self) -> Iterator[lmdb.Transaction]:
        """A transaction that changes all or nothing, on disk when the block ends."""
        with self._guarded("write"), self._transaction(write=True) as txn:
            yield txn

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[lmdb.Transaction]:
        if write:
            self._make_room()
        txn = self._begin(write)
        try:
            try:
                yield txn
            except BaseException:
                txn.abort()
                raise
            txn.commit()
        finally:
            with self._idle:
                self._inside -= 1
                self._idle.notify_all()

    def _begin(self, write: bool) -> lmdb.Transaction:
        while True:
            with self._idle:
                self._inside += 1
            try:
                return self._env.begin(write=write)
            except BaseException as error:
                with self._idle:
                    self._inside -= 1
                    self._idle.notify_all()
                if not isinstance(error, lmdb.MapResizedError):
                    raise
            self._resize(0)  # another process made it larger

    def _make_room(self) -> None:
        """Doubles the map when less than a third of it is left."""
        info = self._env.info()
        used = (info["last_pgno"] + 1) * self._page_size()
        if used * 3 > info["map_size"] * 2:
            self._resize(info["map_size"] * 2)

    def _page_size(self) -> int:
        return int(self._env.stat()["psize"])

    def _resize(self, size: int) -> None:
        """Sets the map's size (0: what the file needs) while no transaction of ours is open."""
        with self._idle:
            if not self._idle.wait_for(lambda: self._inside == 0, PATIENCE_S):
                raise lmdb.MapResizedError("a transaction of this process is open for too long")
            self._env.set_mapsize(size)


def _remedy(error: Exception) -> str:
    """What to do about a failure of the system under the store."""
    code = getattr(error, "errno", None)
    text = str(error)
    if isinstance(error, lmdb.ReadonlyError) or code in (errno.EACCES, errno.EROFS, errno.EPERM):
        return "make it writable for the user who runs this"
    if code in (errno.ENOSPC, errno.EDQUOT) or any(
        os.strerror(full) in text for full in (errno.ENOSPC, errno.EDQUOT)
    ):
        return FULL
    if os.strerror(errno.EROFS) in text:
        return "make it writable for the user who runs this"
    if os.strerror(errno.EFBIG) in text:
        return "the file may not grow (ulimit -f), raise the limit; nothing was changed"
    if isinstance(error, lmdb.ReadersFullError):
        return f"more than {READERS} processes and threads read it, end some"
    return "see that the folder is whole and not used by another program"
