"""The stewardship: which process of a data directory is its steward."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Stewardship:
    """The lock that makes one process of a data directory its steward."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "steward.lock"
        self._descriptor = -1

    def take(self) -> bool:
        """Tries to become the steward without waiting."""
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give_up(self) -> None:
        """Lets another process become the steward."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
