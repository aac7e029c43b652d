"""Reconciliation: requests that were charged in full because their worker died get their true cost.

The log knows which they are: ``unsettled`` events without a ``reconciled`` one. The difference is
booked at every level, in the window of the request, in one transaction with the event that tells
it; each request once.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bifrost._fast.gate import Gate
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.errors import Conflict, NotFound
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Kind, id_number
from bifrost.identify import budget_window
from bifrost.recovery import counts

BATCH = 4096
OUTBOX = 1 << 20  # entries; what is not yet in the log
DAY_NS = 86_400_000_000_000  # counters of windows that ended earlier are not kept
UNSETTLED = b'"outcome":"unsettled"'
RECONCILED = b'"type":"reconciled"'
Told = Callable[[int, int], None]


class Reconciliation:
    """The unsettled requests of a data directory; make one inside ``alone``."""

    def __init__(self, data_dir: Path, gate: Gate, directory: Directory) -> None:
        self._data_dir = data_dir
        self._gate = gate
        self._directory = directory
        self._open: dict[tuple[str, int], events.ModelAccess] = {}
        self._done: set[tuple[str, int]] = set()

    def read(self, told: Told = lambda done, whole: None) -> None:
        """Finds them; ``told(entries done, entries there are)`` is called as it goes."""
        # The outbox first: what is drained meanwhile is in the log by then, so nothing is missed.
        self._sort(raw for _, raw in self._gate.outbox(0, OUTBOX))
        reader = Reader(self._data_dir)
        at, end = reader.oldest(), reader.end()
        while batch := reader.read(at, BATCH):
            self._sort(raw for _, raw in batch)
            at = batch[-1][0] + 1
            told(at, max(at, end))
        for key in self._done:
            self._open.pop(key, None)

    def _sort(self, entries: Iterable[bytes]) -> None:
        for raw in entries:
            if UNSETTLED not in raw and RECONCILED not in raw:
                continue
            try:
                event = events.decode(raw)
            except msgspec.DecodeError:
                continue
            if isinstance(event, events.Reconciled):
                self._done.add((event.request, event.at))
            elif isinstance(event, events.ModelAccess) and event.outcome == "unsettled":
                self._open[event.request, event.at] = event

    def open(self) -> list[events.ModelAccess]:
        """Those without their true cost, oldest first."""
        return sorted(self._open.values(), key=lambda event: event.at)

    def find(self, request: str, at_ns: int | None = None) -> events.ModelAccess:
        """The one with this id; ``at_ns`` tells requests apart that a client gave the same id.

        Raises NotFound; Conflict when it is reconciled already or there are several.
        """
        found = [
            event
            for (name, at), event in self._open.items()
            if name == request and at_ns in (None, at)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            times = ", ".join(str(event.at) for event in self.open() if event.request == request)
            raise Conflict(
                f"There are {len(found)} unsettled requests {request!r}; choose one with "
                f"--at and its time in ns: {times}."
            )
        if any(name == request and at_ns in (None, at) for name, at in self._done):
            raise Conflict(f"Request {request!r} is reconciled already; nothing was booked.")
        raise NotFound(
            f"There is no unsettled request {request!r}; `bifrost reconcile` lists them."
        )

    def book(self, event: events.ModelAccess, cost: int, reason: str, actor: str) -> int:
        """Books what is missing to ``cost`` nano-USD; returns the signed difference."""
        now = time.time_ns()
        told = events.Reconciled(
            at=event.at, done_at=now, request=event.request, key=event.key, user=event.user,
            team=event.team, customer=event.customer, model=event.model, provider=event.provider,
            before=event.cost, cost=cost - event.cost, reason=reason, actor=actor,
        )  # fmt: skip
        self._gate.adjust(self._accounts(event, now), told.cost, events.encode(told), now)
        key = (event.request, event.at)
        self._open.pop(key, None)
        self._done.add(key)
        return told.cost

    def _accounts(self, event: events.ModelAccess, now_ns: int) -> list[tuple[int, int, int]]:
        """The windows that counted a request, as far as their counters are still kept."""
        owners: tuple[tuple[Kind, str | None], ...] = (
            ("virtual_key", event.key),
            ("user", event.user),
            ("team", event.team),
            ("customer", event.customer),
        )
        found = []
        for kind, identifier in owners:
            entity = self._directory.find(kind, identifier) if identifier else None
            if entity is None or entity.id != identifier:
                continue
            for budget in entity.budgets:
                start, end = budget_window(budget, event.at)
                if counts(budget, event.provider, event.at) and end > now_ns - DAY_NS:
                    found.append((id_number(budget.id), start, end))
        return found


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """One reconciliation of a data directory at a time, so that nothing is booked twice."""
    fd = os.open(data_dir / "reconcile.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
