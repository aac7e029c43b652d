"""Recovery: a state that cannot be trusted is moved aside and rebuilt from the audit log.

The state (``state/``) survives the death of every process, not a power cut. So whoever opens it
looks first: was it in use when the machine went down, is it damaged, is it gone? Then every
budget's counter of its present window is summed anew from the log, under a lock, once.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec

from bifrost._fast.gate import Gate, GateError, condition
from bifrost.audit import events
from bifrost.audit.log import Log, Reader
from bifrost.errors import StoreError
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, Kind, id_number
from bifrost.governance.environment import make_folder
from bifrost.identify import budget_window
from bifrost.patterns import matches
from bifrost.stewardship import Stewardship

log = logging.getLogger("bifrost.recovery")
STATE = "state"
MARKER = "recovering"
BATCH = 4096
TOLD_S = 5.0
# What the gate answers for a store that is not what it was: LMDB's and our own number.
DAMAGED = {errno.EINVAL, -30793, -30794, -30796, -30797}
META = struct.Struct("<16xIIQQI92xQQ")  # a page's head and LMDB 0.9's MDB_meta
META_MAGIC = 0xBEEFC0DE


class Account:
    """What one budget has counted in its present window."""

    __slots__ = ("budget", "end", "input", "output", "requests", "settled", "start")

    def __init__(self, budget: Budget, now_ns: int) -> None:
        self.budget = budget
        self.start, self.end = budget_window(budget, now_ns)
        self.settled = self.requests = self.input = self.output = 0

    def row(self) -> tuple[int, int, int, int, int, int, int]:
        """The counter as the gate takes it."""
        return (
            id_number(self.budget.id), self.start, self.end,
            self.settled, self.requests, self.input, self.output,
        )  # fmt: skip


def counts(budget: Budget, provider: str | None, at_ns: int) -> bool:
    """Whether a budget counted a request that went to ``provider`` at that time."""
    if at_ns < budget.created_at:
        return False
    return budget.provider is None or matches(provider or "", budget.provider)


def opened(data_dir: Path, directory: Directory | None = None) -> Gate:
    """The gate of a data directory, its counters rebuilt first where they cannot be trusted.

    ``directory`` is the process's open directory, if it has one. Raises GateError, OSError, and
    StoreError when the counters cannot be rebuilt.
    """
    make_folder(data_dir)
    with _alone(data_dir):
        why = _doubt(data_dir)
        if why is None:
            try:
                return Gate(data_dir / STATE)
            except GateError as error:
                if error.code not in DAMAGED:
                    raise
                why = str(error)
        return _rebuilt(data_dir, why, directory)


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """One process at a time looks at the state and mends it."""
    fd = os.open(data_dir / "recovery.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _doubt(data_dir: Path) -> str | None:
    """Why the state cannot be trusted, or None."""
    state = data_dir / STATE
    if (data_dir / MARKER).exists():
        return "its recovery was interrupted"
    found = condition(state)
    if found == "unclean":
        return "the machine went down while it was in use"
    if found == "damaged":
        return "its ledger is damaged"
    if found == "new" and not (state / "data.mdb").exists():
        return "it is gone" if Reader(data_dir).end() else None
    return None if _is_whole(state / "data.mdb") else "its data.mdb is damaged"


def _is_whole(path: Path) -> bool:
    """Whether an LMDB file is as long as its newest meta page says (a shorter one can kill)."""
    try:
        with path.open("rb") as file:
            head = file.read(META.size)
            if len(head) < META.size:
                return not head
            magic, _, _, _, page, _, _ = META.unpack(head)
            if magic != META_MAGIC or page not in (1 << n for n in range(9, 17)):
                return False
            file.seek(page)
            other = file.read(META.size)
            if len(other) < META.size or META.unpack(other)[0] != META_MAGIC:
                return False
            newest = max(META.unpack(head), META.unpack(other), key=lambda meta: meta[6])
            return bool((newest[5] + 1) * page <= os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        return True  # the gate makes it, or misses it


# -- rebuilding ------------------------------------------------------------------------------


def _rebuilt(data_dir: Path, why: str, directory: Directory | None) -> Gate:
    """A fresh gate with the counters of the log; may be killed at any point and begun again."""
    stewardship = Stewardship(data_dir)
    if _in_use(data_dir / STATE) or not stewardship.take():
        raise StoreError(
            f"The state in {data_dir / STATE} cannot be trusted ({why}), but another process uses "
            "it; stop that first, it is rebuilt at the next start."
        )
    own = Directory(data_dir) if directory is None else None
    try:
        aside = _set_aside(data_dir)
        log.warning("the state is rebuilt from the audit log: %s", why, extra={"aside": aside})
        writer = Log(data_dir)  # cuts what the crash tore off
        writer.close()
        gate = Gate(data_dir / STATE)
        try:
            accounts = _summed(data_dir, directory or own)  # type: ignore[arg-type]
            gate.restore([account.row() for account in accounts], writer.last_seq)
            gate.sync()
        except BaseException:
            gate.close()
            raise
        (data_dir / MARKER).unlink()
        _sync(data_dir)
        log.warning("the state is rebuilt", extra={"budgets": len(accounts)})
        return gate
    finally:
        stewardship.give_up()
        if own is not None:
            own.close()


def _in_use(state: Path) -> bool:
    """Whether a living process has the state open."""
    try:
        fd = os.open(state / "ledger.using", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _set_aside(data_dir: Path) -> str:
    """Moves the doubtful state away, or removes what an interrupted recovery made; its new name."""
    marker, state = data_dir / MARKER, data_dir / STATE
    if not marker.exists():
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        fresh = data_dir / f"{MARKER}.new"
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode({"aside": f"state.lost-{moment}"}))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(marker)
        _sync(data_dir)
    aside = str(msgspec.json.decode(marker.read_bytes())["aside"])
    if (data_dir / aside).exists():
        shutil.rmtree(state, ignore_errors=True)
    elif state.exists():
        state.rename(data_dir / aside)
    _sync(data_dir)
    return aside


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _summed(data_dir: Path, directory: Directory) -> list[Account]:
    """Every budget's counter of its present window, from one pass over the log."""
    now = time.time_ns()
    owners: dict[str, list[Account]] = {}
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        for entity in directory.each(kind):
            if entity.budgets:
                owners[entity.id] = [Account(budget, now) for budget in entity.budgets]
    accounts = [account for owned in owners.values() for account in owned]
    if accounts:
        reader = Reader(data_dir)
        at = _first_of_interest(reader, min(account.start for account in accounts))
        progress = _Progress(at, reader.end())
        while batch := reader.read(at, BATCH):
            _count(owners, batch)
            at = batch[-1][0] + 1
            progress.tell(at)
        progress.done()
    return [account for account in accounts if account.requests or account.settled]


def _first_of_interest(reader: Reader, since_ns: int) -> int:
    """The first segment with anything of ``since_ns`` or later.

    Outbox numbers are times and rise: what is logged before one that is older is older too. The
    newest are asked first: the others may be in an archive.
    """
    for start in reversed(reader.starts()[1:]):
        entry = reader.read(start, 1)
        if entry and 0 < events.sequence(entry[0][1]) < since_ns:
            return start
    return reader.oldest()


def _count(owners: dict[str, list[Account]], batch: list[tuple[int, bytes]]) -> None:
    for index, raw in batch:
        try:
            event = events.decode(raw)
        except msgspec.DecodeError:
            log.error("an event cannot be read and is left out", extra={"entry": index})
            continue
        requests = tokens_in = tokens_out = 0
        if isinstance(event, events.ModelAccess):
            if event.outcome == "refused":
                continue
            requests = 1
            tokens_in = event.in_fresh + event.in_tool + event.in_cache_read
            tokens_in += event.in_cache_w5m + event.in_cache_w1h
            tokens_out = event.out_text + event.out_think
        elif not isinstance(event, events.Reconciled):
            continue
        for identifier in (event.key, event.user, event.team, event.customer):
            for account in owners.get(identifier or "", ()):
                inside = account.start <= event.at < account.end
                if inside and counts(account.budget, event.provider, event.at):
                    account.settled += event.cost
                    account.requests += requests
                    account.input += tokens_in
                    account.output += tokens_out


class _Progress:
    """Tells how far a long pass is: on a terminal as it goes, else in the log now and then."""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, max(end, start + 1)
        self._terminal = sys.stderr.isatty()
        self._told = time.monotonic()
        self._shown = False

    def tell(self, at: int) -> None:
        """``at`` entries are done."""
        if time.monotonic() - self._told < (0.2 if self._terminal else TOLD_S):
            return
        self._told = time.monotonic()
        percent = 100 * (at - self._start) // (self._end - self._start)
        if self._terminal:
            self._shown = True
            text = f"\rRebuilding the counters from the audit log: {percent} % of {self._end:,}"
            print(text, end="", file=sys.stderr, flush=True)
        else:
            log.info("rebuilding the counters", extra={"percent": percent, "entries": at})

    def done(self) -> None:
        """The pass is over."""
        if self._shown:
            print(file=sys.stderr)
