"""The steward: one per data directory, it turns the outbox into what people read.

Outbox -> audit log -> everything else: an event is on the disk before the outbox forgets it; the
usage view and the observers are fed from the log. Whoever holds ``steward.lock`` is the steward: a
process of its own under ``bifrost serve``, a thread when embedded. Workers never wait for it. It
also has the log signed and charges what dead workers left reserved.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from bifrost._fast.gate import Gate, alive
from bifrost.audit import events
from bifrost.audit.clock import Clock
from bifrost.audit.events import Event
from bifrost.audit.keeper import Keeper, Unsent
from bifrost.audit.log import Log, Reader
from bifrost.audit.notary import Notary
from bifrost.audit.observer import Observer
from bifrost.config.evidence import AuditLogs
from bifrost.errors import BifrostError, StoreError
from bifrost.governance.directory import Directory
from bifrost.pace import Pace
from bifrost.stewardship import Stewardship
from bifrost.usage.names import Names
from bifrost.usage.view import UsageView

log = logging.getLogger("bifrost.steward")
BATCH = 2048
COMMIT_S = 0.04  # events are gathered for so long, then flushed to the disk together
REST_S = 1.0  # after a failure
RESTS_S = {"_sign": 30.0}  # after a failure that a person has to mend
SWEEP_S = 2.0
IDLE_NS = 3_600_000_000_000  # after which a counter leaves the ledger; it comes back when asked for
MOST_AT_EASE = 1_024  # events in a batch; with more the steward is behind
SPANS = 8  # of the ledger that are looked through at a time


class Steward:
    """Moves one gate's outbox into the log and feeds what is derived; its owner is the steward."""

    def __init__(
        self,
        data_dir: Path,
        gate: Gate,
        directory: Directory,
        *,
        access_log: bool = False,
        observers: Sequence[Observer] = (),
        evidence: AuditLogs | None = None,
        unsent: Unsent = dict,
    ) -> None:
        """Opens the log; raises StoreError when it is damaged or cannot be written.

        ``unsent()``: the index of the log that each export has to send next.
        """
        self._data_dir = data_dir
        self._state = data_dir / "state"
        self._gate = gate
        self._log = Log(data_dir)
        self._reader = Reader(data_dir)
        self._forgotten = 0  # the number up to which the outbox was told to forget
        self._signs = evidence is None or evidence.signs
        self._notary = Notary(data_dir)
        self._keeper: Keeper | None = None
        if evidence is not None and evidence.keeps:
            self._keeper = Keeper(self._log, self._notary, evidence.retention, unsent=unsent)
        self._fresh: list[tuple[int, Event]] = []  # decoded, not yet in the view
        self._fresh_from = self._fresh_upto = self._log.next
        self._observers = list(observers)
        self._cursor = self._log.folder / "observed"
        self._observed = self._last_observed() if observers else 0
        self._resumed = False
        self._access = logging.getLogger("bifrost.access") if access_log else None
        if self._access is not None:
            self._access.setLevel(logging.INFO)  # asked for, whatever else is logged
        self._view: UsageView | None = None
        self._applied = 0
        self._names = Names(directory)
        self._rests: dict[str, float] = {}
        self._swept = 0.0
        self._clock = Clock()
        self._pace = Pace()
        self._cell = 0
        self._try(self._open_view)

    def step(self) -> int:
        """Moves one batch of events from the outbox to the log and on; returns how many."""
        moved = self._record()
        self._observe()
        self._report()
        return moved

    def _record(self) -> int:
        """The outbox forgets what is on the disk; what it could not forget is known by number.

        While the log takes nothing nobody is let in: no money is spent without a record. What could
        not be written is still in the outbox, so it is tried again.
        """
        batch = self._gate.outbox(self._log.last_seq, BATCH)
        if not batch:
            self._forget()  # what a steward before this one had no time to
            self._gate.bar(0)
            self._gate.assure(self._log.last_seq)
            return 0
        self._pace.hurried = len(batch) > MOST_AT_EASE
        entries: list[bytes] = []
        for piece in self._pace.pieces(batch):
            entries += [events.sequenced(raw, sequence) for sequence, raw in piece]
        try:
            first = self._log.append(entries)
        except StoreError as error:
            self._gate.bar(getattr(error.__cause__, "errno", None) or errno.EIO)
            raise
        self._gate.bar(0)
        self._gate.assure(batch[-1][0])
        self._forget()
        self._remember(first, entries)
        return len(batch)

    def _forget(self) -> None:
        """Lets the outbox forget what is in the log."""
        if self._forgotten < self._log.last_seq:
            self._gate.forget(self._log.last_seq)
            self._forgotten = self._log.last_seq

    def _remember(self, first: int, entries: Sequence[bytes]) -> None:
        """Keeps new entries at hand, decoded, for the parts that are not behind."""
        if self._signs:
            self._notary.feed(first, entries)
        decoded: list[tuple[int, Event]] = []
        for piece in self._pace.pieces(list(enumerate(entries, first))):
            decoded += self._decoded(piece)
        if self._access is not None:
            for _, event in decoded:
                if isinstance(event, events.ModelAccess):
                    self._access.info("request", extra={"event": events.encode(event).decode()})
        if len(self._fresh) > 4 * BATCH:  # the view does not keep up: it will read the log
            self._fresh, self._fresh_from = [], first
        self._fresh += decoded
        self._fresh_upto = self._log.next

    @staticmethod
    def _decoded(entries: Iterable[tuple[int, bytes]]) -> list[tuple[int, Event]]:
        decoded = []
        for index, raw in entries:
            try:
                decoded.append((index, events.decode(raw)))
            except msgspec.DecodeError:
                log.error("an event cannot be read and is left out", extra={"entry": index})
        return decoded

    def _sign(self) -> int:
        """Lets the notary do what is due."""
        return self._notary.work(self._log.next, self._add) if self._signs else 0

    def _keep(self) -> int:
        """Lets the keeper do what is due."""
        return self._keeper.work(self._add) if self._keeper is not None else 0

    def _sign_off(self) -> int:
        return self._notary.finish(self._log.next, self._add) if self._signs else 0

    def _add(self, entries: list[bytes]) -> int:
        first = self._log.append(entries)
        self._remember(first, entries)
        return first

    def _check_clock(self) -> int:
        """Records that the wall clock was set."""
        step = self._clock.step()
        if step:
            self._add([events.encode(events.ClockStep(at=time.time_ns(), step=step))])
            self._clock.accept()
            log.warning("the wall clock was set", extra={"by_s": step / 1e9})
        return 0

    def _from(self, start: int) -> tuple[list[tuple[int, Event]], int]:
        """Events from a log index on, and the index behind them."""
        if start == self._fresh_from:
            return self._fresh, self._fresh_upto
        batch = self._reader.read(start, BATCH)
        return self._decoded(batch), batch[-1][0] + 1 if batch else start

    @property
    def _behind(self) -> bool:
        """Whether the view or an observer has not yet seen the whole log."""
        waiting = bool(self._observers) and self._observed < self._log.next
        return self._applied < self._log.next or waiting

    # -- observers -----------------------------------------------------------------------------

    def _last_observed(self) -> int:
        """Where observers stopped; without a note of it, history is not news."""
        try:
            raw = self._cursor.read_bytes()
        except OSError:
            raw = b""
        if len(raw) == 8:
            return min(int.from_bytes(raw, "little"), self._log.next)
        try:
            self._note_observed(self._log.next, flush=True)
        except OSError as error:  # it is noted with the first batch
            log.error("where observers stopped cannot be noted", extra={"error": str(error)})
        return self._log.next

    def _note_observed(self, upto: int, *, flush: bool = False) -> None:
        """Written in place: a steward killed meanwhile leaves the old note or the new one."""
        fd = os.open(self._cursor, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, upto.to_bytes(8, "little"), 0)
            if flush:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _observe(self) -> int:
        news = self._observed < self._log.next
        if not news and not any(observer.waiting for observer in self._observers):
            return 0
        if not self._observers or not self._ready():
            return 0
        found, upto = self._from(self._observed) if news else ([], self._observed)
        seen = [event for _, event in found]
        told: list[Event] = []
        for observer in self._observers:
            try:
                told += observer.observe(list(seen))
            except Exception as error:
                log.error("an observer of events failed", extra={"error": repr(error)})
        kept: list[tuple[int, Event]] = []
        if told:
            first = self._add([events.encode(event) for event in told])
            kept = list(enumerate(told, first))
            upto = self._log.next if upto == first else upto
        for observer in self._observers:
            observer.keep(kept)
        if upto != self._observed:
            self._observed = upto
            self._note_observed(upto)
        return len(found)

    def _ready(self) -> bool:
        """Whether the observers know what was told before this steward."""
        if not self._resumed:
            self._resumed = all(
                [observer.resume(self._reader, self._observed) for observer in self._observers]
            )
        return self._resumed

    # -- the usage view ------------------------------------------------------------------------

    def _open_view(self) -> int:
        view = UsageView(self._data_dir, self._pace)
        if view.last() > self._log.next:  # made from another log
            view.begin_anew("the usage view knows more than the log")
        self._view, self._applied = view, view.last()
        return 0

    def _report(self) -> int:
        if self._view is None:
            self._open_view()
        assert self._view is not None
        applied = self._view.last()  # a rebuild may have put another file into use
        if applied < self._applied:
            self._names.forget()
        self._applied = applied
        if self._applied >= self._log.next:
            return 0
        found, upto = self._from(self._applied)
        names = self._names.of(found)
        if names:
            self._view.name(names.items())
        self._view.apply(found, upto)
        self._applied = upto
        if upto == self._fresh_upto:
            self._fresh, self._fresh_from = [], upto
        return len(found)

    # -- what the dead left --------------------------------------------------------------------

    def sweep(self) -> int:
        """Charges the reservations of dead owners in full; returns how many there were."""
        living: dict[int, bool] = {}
        charged = 0
        for owner, sequence, amount, created, note in self._gate.reservations():
            if owner not in living:
                living[owner] = owner == self._gate.owner or alive(self._state, owner)
            if living[owner]:
                continue
            event = events.unsettled(note, amount, created)
            charged += self._gate.reclaim(owner, sequence, events.encode(event), time.time_ns())
        for owner, lives in living.items():
            if not lives:
                (self._state / f"owner-{owner}.lock").unlink(missing_ok=True)
        if charged:
            log.warning("charged reservations of a dead worker", extra={"count": charged})
        return charged

    def tend(self) -> int:
        """Moves counters at rest out of the ledger and drops those of old windows, bit by bit."""
        now = time.time_ns()
        for _ in range(SPANS):
            self._cell = self._gate.retire(now - IDLE_NS, now, self._cell)
            if self._cell == 0:
                break
        return self._gate.prune(now)

    # -- working -------------------------------------------------------------------------------

    def drain(self) -> None:
        """Empties the outbox (a report wants the newest figures, or a stop)."""
        while self.step() or self._behind:
            pass

    def _try(self, work: Callable[[], int]) -> int:
        """Does one part of the work; a part that fails is logged, rests, and is tried again."""
        name = work.__name__
        if time.monotonic() < self._rests.get(name, 0.0):
            return 0
        try:
            return work()
        except Exception as error:
            log.error("the steward failed and tries again", extra={"error": str(error)})
            self._rests[name] = time.monotonic() + RESTS_S.get(name, REST_S)
            return 0

    def run(self, stop: threading.Event) -> None:
        """Works until ``stop``. Nothing is dropped; a part that fails keeps no other waiting."""
        while not stop.is_set():
            due = time.monotonic() + COMMIT_S
            if time.monotonic() - self._swept >= SWEEP_S:
                self._swept = time.monotonic()
                self._try(self.sweep)
                self._try(self.tend)
            self._try(self._check_clock)
            moved = self._try(self._record)
            for part in (self._observe, self._report, self._sign, self._keep):
                self._pace.rest()
                moved += self._try(part)
            if moved < BATCH:
                self._gather(stop, due)
        try:
            self.drain()
        except Exception as error:
            log.error("events are left for the next start", extra={"error": str(error)})

    def _gather(self, stop: threading.Event, due: float) -> None:
        """Waits for more events until ``due``, shorter while somebody waits for the disk."""
        while (left := due - time.monotonic()) > 0 and not stop.is_set():
            if self._gate.await_urge(left):
                return

    def close(self) -> None:
        """Has the log signed to its end; closes it, the view and what observers hold."""
        self._try(self._sign_off)
        if self._keeper is not None:
            self._keeper.close()
        for observer in self._observers:
            observer.close()
        self._log.close()
        if self._view is not None:
            self._view.close()


def serve_steward(
    data_dir: Path,
    gate: Gate,
    directory: Directory,
    stop: threading.Event,
    *,
    access_log: bool,
    observers: Sequence[Observer] = (),
    evidence: AuditLogs | None = None,
    unsent: Unsent = dict,
) -> None:
    """Waits for the stewardship, then works until ``stop``."""
    lock = Stewardship(data_dir)
    while not lock.take():
        if stop.wait(1.0):
            return
    try:
        while not stop.is_set():
            try:
                steward = Steward(
                    data_dir, gate, directory, access_log=access_log, observers=observers,
                    evidence=evidence, unsent=unsent,
                )  # fmt: skip
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
