"""The bulletin: a page in a file that tells every process which entities changed lately.

Its first word, the policy epoch, moves with every change. Behind it stand the store's revision as
of then and the numbers of what changed, in a ring; who missed more than the ring holds must take
everything as changed. Read by ``_fast/keyring``, where the form is defined.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bifrost._fast.home import settle
from bifrost._fast.keyring import BULLETIN, announce, announced
from bifrost.errors import StoreError

EVERYBODY = 0  # announced instead of numbers: anything may have changed


class Bulletin:
    """The page of one data directory. Raises StoreError when it cannot be made or mapped."""

    def __init__(self, path: Path) -> None:
        try:
            settle(path, BULLETIN)
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self.page = mmap.mmap(self._file, BULLETIN)
        except OSError as error:
            raise StoreError(
                f"Cannot open {path}: {error.strerror}; make room and let this user write there."
            ) from error
        self._words = memoryview(self.page).cast("Q")
        self._turn = threading.Lock()

    def close(self) -> None:
        """Closes the file; the page itself goes with its last reader."""
        if self._file >= 0:
            self._words.release()
            os.close(self._file)
        self._file = -1

    def epoch(self) -> int:
        """A number that moves with every change made by any process (a memory read)."""
        return self._words[0]

    def revision(self) -> int:
        """The store's transaction up to which every change has been announced."""
        return announced(self.page)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One writer at a time, over all processes: changes are announced in their order."""
        with self._turn:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def announce(self, numbers: Sequence[int], before: int, revision: int) -> None:
        """Tells that transaction ``revision`` changed the entities with these numbers.

        ``before`` is the transaction it followed: if nobody told of that one, its writer died and
        everything counts as changed. To be called within a ``turn``.
        """
        if before != self.revision():
            numbers = (EVERYBODY,)  # who knows what it changed
        announce(self.page, numbers, revision, time.time_ns())
