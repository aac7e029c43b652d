"""The steward: one per data directory, it turns the outbox into what people read.

Whoever holds ``steward.lock`` is the steward: a process of its own under ``bifrost serve``, a
thread when embedded. Workers never wait for it. It also charges what dead workers left reserved.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from pathlib import Path

import msgspec

from bifrost._fast.gate import Gate, alive
from bifrost.audit import events
from bifrost.errors import BifrostError
from bifrost.governance.directory import Directory
from bifrost.usage.view import UsageView

log = logging.getLogger("bifrost.steward")
BATCH = 256
PAUSE_S = 0.05
BUSY_PAUSE_S = 0.01  # a short outbox keeps the gate's pages few, so in the processor's cache
SWEEP_S = 2.0


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


class Steward:
    """Drains one gate's outbox into the usage view; the caller holds the stewardship."""

    def __init__(
        self, data_dir: Path, gate: Gate, directory: Directory, *, access_log: bool = False
    ) -> None:
        self._state = data_dir / "state"
        self._gate = gate
        self._directory = directory
        self._view = UsageView(data_dir)
        self._after = self._view.last()
        self._access = logging.getLogger("bifrost.access") if access_log else None
        if self._access is not None:
            self._access.setLevel(logging.INFO)  # asked for, whatever else is logged
        self._named = -1
        self._swept = 0.0

    def step(self) -> int:
        """Moves one batch of events from the outbox to the view; returns how many."""
        self._names()
        batch = self._gate.outbox(self._after, BATCH)
        if not batch:
            return 0
        decoded = self._decoded(batch)
        self._view.apply(decoded, batch[-1][0])
        self._after = batch[-1][0]
        self._gate.forget(self._after)
        if self._access is not None:
            for _, event in decoded:
                self._access.info("request", extra={"event": events.encode(event).decode()})
        return len(batch)

    def _decoded(self, batch: list[tuple[int, bytes]]) -> list[tuple[int, events.ModelAccess]]:
        decoded = []
        for sequence, raw in batch:
            try:
                decoded.append((sequence, events.decode(raw)))
            except msgspec.DecodeError:
                log.error("an event cannot be read and is left out", extra={"sequence": sequence})
        return decoded

    def _names(self) -> None:
        epoch = self._directory.epoch()
        if epoch != self._named:
            self._named = epoch
            self._view.name(
                (entity.id, entity.name)
                for kind in ("customer", "team", "user", "virtual_key")
                for entity in self._directory.all(kind)
            )

    def sweep(self) -> int:
        """Charges the reservations of dead owners in full; returns how many there were."""
        living: dict[int, bool] = {}
        charged = 0
        for owner, sequence, amount, created, note in self._gate.reservations():
            if owner not in living:
                living[owner] = owner == self._gate.owner or alive(self._state, owner)
            if living[owner]:
                continue
            event = self._orphan(note, amount, created)
            charged += self._gate.reclaim(owner, sequence, events.encode(event), time.time_ns())
        for owner, lives in living.items():
            if not lives:
                (self._state / f"owner-{owner}.lock").unlink(missing_ok=True)
        if charged:
            log.warning("charged reservations of a dead worker", extra={"count": charged})
        return charged

    @staticmethod
    def _orphan(note: bytes, amount: int, created: int) -> events.ModelAccess:
        try:
            event = events.decode(note)
        except msgspec.DecodeError:
            event = events.ModelAccess(at=created, request="", key="", outcome="unsettled")
        event.at, event.cost, event.reserved = created, amount, amount
        event.outcome, event.source = "unsettled", "reserved"
        return event

    def drain(self) -> None:
        """Empties the outbox (a report wants the newest figures, or a stop)."""
        while self.step():
            pass

    def run(self, stop: threading.Event) -> None:
        """Works until ``stop``; failures are logged and tried again, nothing is dropped."""
        while not stop.is_set():
            try:
                if time.monotonic() - self._swept >= SWEEP_S:
                    self._swept = time.monotonic()
                    self.sweep()
                moved = self.step()
            except Exception as error:
                log.error("the steward failed and tries again", extra={"error": str(error)})
                stop.wait(1.0)
                continue
            if moved < BATCH:
                stop.wait(BUSY_PAUSE_S if moved else PAUSE_S)
        try:
            self.drain()
        except Exception as error:
            log.error("events are left for the next start", extra={"error": str(error)})

    def close(self) -> None:
        """Closes the view."""
        self._view.close()


def serve_steward(
    data_dir: Path, gate: Gate, directory: Directory, stop: threading.Event, *, access_log: bool
) -> None:
    """Waits for the stewardship, then works until ``stop``."""
    lock = Stewardship(data_dir)
    while not lock.take():
        if stop.wait(1.0):
            return
    try:
        while not stop.is_set():
            try:
                steward = Steward(data_dir, gate, directory, access_log=access_log)
            except BifrostError as error:
                log.error("the steward cannot begin and tries again", extra={"error": str(error)})
                stop.wait(1.0)
                continue
            try:
                steward.run(stop)
            finally:
                steward.close()
    finally:
        lock.give_up()
