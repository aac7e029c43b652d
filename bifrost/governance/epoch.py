"""The page that all processes of a data directory share: its first 8 bytes are the policy epoch."""

from __future__ import annotations

import mmap
import os
from pathlib import Path


def shared_page(path: Path) -> mmap.mmap:
    """The first 8 bytes of a file, which is made if there is none, in memory."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        if os.fstat(descriptor).st_size < 8:
            os.ftruncate(descriptor, 8)
        return mmap.mmap(descriptor, 8)
    finally:
        os.close(descriptor)
