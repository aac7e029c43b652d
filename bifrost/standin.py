"""Stand-ins: whoever needs the newest figures does the steward's work where nobody is steward."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bifrost._fast.gate import Gate
from bifrost.audit.log import Reader
from bifrost.governance.directory import Directory
from bifrost.steward import Steward
from bifrost.stewardship import Stewardship
from bifrost.usage.view import UsageView


@contextmanager
def standing_in(data_dir: Path, gate: Gate, directory: Directory) -> Iterator[Steward | None]:
    """A steward for the block, or None while another process is it. Raises StoreError."""
    lock = Stewardship(data_dir)
    if not lock.take():
        yield None
        return
    try:
        steward = Steward(data_dir, gate, directory)
        try:
            yield steward
        finally:
            steward.close()
    finally:
        lock.give_up()


def catch_up(data_dir: Path, gate: Gate, directory: Directory, patience_s: float) -> bool:
    """Brings log and view up to date: by ourselves if nobody is steward, else by waiting for it.

    False if the steward did not get there in time. Raises StoreError.
    """
    with standing_in(data_dir, gate, directory) as steward:
        if steward is not None:
            steward.sweep()
            steward.drain()
            return True
    now = time.time_ns()
    deadline = time.monotonic() + patience_s
    end = -1
    while time.monotonic() < deadline:
        waiting = gate.outbox(0, 1)
        if end < 0 and (not waiting or waiting[0][0] > now):
            end = Reader(data_dir).end()
        if end == 0:
            return True
        if end > 0:
            view = UsageView(data_dir, read_only=True)
            applied = view.last()
            view.close()
            if applied >= end:
                return True
        time.sleep(0.02)
    return False
