"""The exporter: reads the audit log and delivers it to every configured sink.

One per data directory, whoever holds ``exports.lock``: a process of its own under ``bifrost
serve``, a thread when embedded. Nobody waits for it. A sink has a task and a position of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bifrost._fast.gate import Gate
from bifrost.audit import policy
from bifrost.audit.epochs import sources
from bifrost.audit.log import Reader
from bifrost.audit.notes import NoteError, PublicKey
from bifrost.config.exports import Sink
from bifrost.errors import StoreError
from bifrost.exports.dispatch import REST_S, Dispatch, Tell
from bifrost.exports.progress import FILE, Progress

log = logging.getLogger("bifrost.exports")
POLL_S = 0.5
GRACE_S = 3.0  # for what is under way at a stop
NAMING_S = 10.0  # the steward has to name a new log


def teller(gate: Gate, actor: str) -> Tell:
    """Says in the audit log what happens to exports."""

    def tell(action: str, sink: str, first: int, count: int, why: str) -> None:
        with policy.acting(actor):
            policy.record_export(gate, action, sink, first, count, why)

    return tell


def enlist(data_dir: Path, sinks: Sequence[Sink], tell: Tell) -> bool:
    """Notes the configured sinks, and says in the audit log which are new, changed or gone.

    False, and logged, if the store does not take it.
    """
    if not sinks and not any_noted(data_dir):
        return True
    try:
        reader, progress = Reader(data_dir), Progress(data_dir)
        try:
            for change in progress.enrol(sinks, reader.oldest(), reader.end()):
                tell(change.action, change.sink, change.position, 0, "")
        finally:
            progress.close()
    except StoreError as error:
        log.error("exports cannot be served", extra={"error": str(error)})
        return False
    return True


def any_noted(data_dir: Path) -> bool:
    """Whether an export was ever configured."""
    return (data_dir / FILE).exists()


class Exporter:
    """Serves the configured sinks of a data directory; its owner holds the lock."""

    def __init__(self, data_dir: Path, sinks: Callable[[], Sequence[Sink]], tell: Tell) -> None:
        self._data_dir = data_dir
        self._sinks = sinks
        self._tell = tell
        self._progress = Progress(data_dir)
        self._served: tuple[Sink, ...] = ()
        self._dispatches: list[Dispatch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = time.monotonic()

    async def run(self, stop: threading.Event) -> None:
        """Works until ``stop``; what is under way then gets a moment, else it comes again."""
        try:
            while not stop.is_set():
                try:
                    await self._follow()
                except (StoreError, NoteError, OSError) as error:
                    log.error("exports cannot be served", extra={"error": str(error)})
                await asyncio.sleep(POLL_S)
        finally:
            await self._end_tasks()
            self._progress.close()

    async def _follow(self) -> None:
        """Serves what is configured and noted now."""
        sinks = tuple(self._sinks())
        if sinks == self._served:
            return
        await self._end_tasks()
        known = {one.name for one in self._progress.standings()}
        if not known >= {sink.name for sink in sinks}:
            return  # they are about to be noted
        origin = self._progress.named() or self._name()
        if origin is None:
            return  # the steward is about to name the log
        origin = self._progress.origin(origin)
        # Brings in what only some of the sinks need.
        from bifrost.exports.targets import target_of

        for sink in sinks:
            target = target_of(sink)
            self._dispatches.append(
                Dispatch(sink, target, self._data_dir, self._progress, origin, self._tell)
            )
        self._tasks = [asyncio.create_task(one.run()) for one in self._dispatches]
        self._served = sinks

    def _name(self) -> str | None:
        """The log's name in ids: the one it is signed under, else, in time, one made up."""
        if keys := sources(Reader(self._data_dir).folder):
            return PublicKey.parse(keys[0]).name
        late = time.monotonic() - self._begun > NAMING_S
        return f"bifrost/audit/{secrets.token_hex(8)}" if late else None

    async def _end_tasks(self) -> None:
        for one in self._dispatches:
            one.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._dispatches, self._served = [], [], ()


def serve_exports(
    data_dir: Path, sinks: Callable[[], Sequence[Sink]], tell: Tell, stop: threading.Event
) -> None:
    """Waits for the lock, then exports until ``stop``; ``sinks`` is asked again and again."""
    descriptor = os.open(data_dir / "exports.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        while not stop.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                asyncio.run(Exporter(data_dir, sinks, tell).run(stop))
                return
            except BlockingIOError:
                stop.wait(POLL_S)
            except StoreError as error:
                log.error("exports cannot be served", extra={"error": str(error)})
                stop.wait(REST_S)
    finally:
        os.close(descriptor)
