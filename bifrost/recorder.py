"""The recorder: an act of administration is done only once its event is on the disk.

Between the audit room, whose events it waits for, and those who act: the directory, the admin API,
the commands. Where no steward can be running yet it moves the events into the log by itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bifrost import __version__
from bifrost._fast.gate import Gate, GateError
from bifrost.audit import events, policy
from bifrost.audit.log import Log
from bifrost.errors import StoreError
from bifrost.stewardship import Stewardship

log = logging.getLogger("bifrost.recorder")
PATIENCE_S = 10.0  # for an event to reach the disk; then what it tells of is refused
LIFE_S = 2.0  # the same for what is done all the same
LOOK_S = 0.001
BATCH = 2048


class Recorder:
    """Records for one process and data directory; safe to use from any thread.

    ``stands_in``: this process may move events into the log where nobody is steward; not where a
    steward is on its way, who would have to wait for it.
    """

    def __init__(self, data_dir: Path, gate: Callable[[], Gate]) -> None:
        """``gate()`` is asked for when something is recorded, so it may be opened later."""
        self._data_dir = data_dir
        self._gate = gate
        self._log: Log | None = None
        self.stands_in = True

    def change(self, action: str, kind: str, before: Any, after: Any) -> None:
        """Records a change of an entity, within a ``turn``; raises StoreError."""
        policy.record(self._gate(), action, kind, before, after)

    def put(
        self, event: events.Event, what: str = "act", *, patience_s: float | None = None
    ) -> None:
        """Records an event and waits until it is on the disk; StoreError: ``what`` is refused."""
        sequence = policy.put(self._gate(), event, f"The {what} cannot be recorded")
        self.assure(sequence, what, patience_s=patience_s)

    def access(self, action: str, first: int, count: int, filters: str = "") -> None:
        """Records a reading of the log; raises StoreError, and then nothing may be shown."""
        sequence = policy.record_access(self._gate(), action, first, count, filters)
        self.assure(sequence, "access")

    def hold(self, action: str, name: str) -> None:
        """Records that a legal hold is set or ended; StoreError: it is not, and that is told."""
        with self.turn() as durable:
            policy.record_hold(self._gate(), action, name)
            durable()

    def life(
        self, action: str, config: str, *, before: str | None = None, workers: int = 1
    ) -> None:
        """Records that the gateway began, ended or took up a configuration (its digest).

        What cannot be recorded is logged, and keeps nobody from starting or stopping.
        """
        event = events.GatewayLife(
            at=time.time_ns(), actor=policy.actor(), action=action, version=__version__,
            config=config, before=before, pid=os.getpid(), workers=workers,
        )  # fmt: skip
        try:
            self.put(event, action, patience_s=LIFE_S)
        except (StoreError, GateError) as error:
            log.error("that the gateway lives is not recorded", extra={"error": str(error)})

    @contextmanager
    def turn(self) -> Iterator[Callable[[], None]]:
        """Around a transaction: yields what makes its events durable, to be called at its end.

        When the block fails the events of its changes are withdrawn by another one.
        """
        with policy.collecting() as made:
            try:
                yield lambda: self.assure(made[-1], "change") if made else None
            except BaseException:
                self._withdraw(made)
                raise

    def _withdraw(self, made: list[int]) -> None:
        if not made:
            return
        event = events.Withdrawn(
            at=time.time_ns(), actor=policy.actor(), withdrawn=tuple(made), reason=policy.reason()
        )
        try:
            self._gate().append(events.encode(event), event.at)
        except GateError as error:
            log.error(
                "a change was recorded but not made", extra={"seq": made, "error": str(error)}
            )

    def assure(
        self, sequence: int, what: str = "change", *, patience_s: float | None = None
    ) -> None:
        """Waits until the event of this number is on the disk.

        Raises StoreError when the log does not take it in time: ``what`` must not be done then.
        """
        gate = self._gate()
        deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        while not gate.urge(sequence):
            if self.stands_in and self._flush(gate):
                continue
            if gate.barred or time.monotonic() > deadline:
                raise StoreError(
                    f"The {what} is refused and not made: the audit log did not take its record; "
                    "see that the disk has room and the gateway runs, then try again."
                )
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Lets go of the log."""
        if self._log is not None:
            self._log.close()
        self._log = None

    def _flush(self, gate: Gate) -> bool:
        """Moves what waits into the log if nobody is steward; whether that was so."""
        lock = Stewardship(self._data_dir)
        if not lock.take():
            return False
        try:
            if self._log is None or not self._log.is_current():
                self.close()
                self._log = Log(self._data_dir)
            while batch := gate.outbox(self._log.last_seq, BATCH):
                self._log.append([events.sequenced(raw, sequence) for sequence, raw in batch])
                gate.forget(batch[-1][0])
            gate.assure(self._log.last_seq)
        finally:
            lock.give_up()
        return True
