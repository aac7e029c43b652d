"""A log whose segments are old, its keeper, and what must hold of both."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from bifrost.audit import events, keeper
from bifrost.audit.extracts import Wanted, between
from bifrost.audit.keeper import Keeper
from bifrost.audit.log import Reader
from bifrost.audit.parts import Parts
from bifrost.audit.segments import path_of, segments
from bifrost.audit.verdict import Verdict
from bifrost.audit.verify import Verification
from bifrost.config.evidence import AuditLogs, Retention
from bifrost.core import open_gate
from bifrost.governance.directory import Directory
from bifrost.steward import Steward
from tests.evidence import Scribe, entry, examined

OLD = -400 * 86_400  # seconds from now
BATCHES = 60


class Keeping(Scribe):
    """A log whose segments are old, and its keeper."""

    def __init__(self, data_dir: Path, segment_bytes: int = 4_000, **retention: Any) -> None:
        super().__init__(data_dir, segment_bytes=segment_bytes)
        self.folder = data_dir / "audit"
        self.keep(**retention)

    def keep(self, **retention: Any) -> None:
        self.unsent: dict[str, int] = {}
        self.keeper = Keeper(
            self.log, self.notary, Retention(**retention), unsent=lambda: self.unsent, every_s=0.0
        )

    def fill(self, batches: int = BATCHES) -> None:
        """Entries in several segments."""
        for _ in range(batches):
            first = self.log.next
            self.add([entry(number, "x" * 50) for number in range(first, first + 10)])
        self.sign()

    def age(self, seconds: int = OLD) -> None:
        """Makes every segment look old."""
        then = time.time() + seconds
        for first in segments(self.folder):
            os.utime(path_of(self.folder, first), (then, then))

    def step(self) -> None:
        """One step, and what it began in a thread."""
        self.sign()
        self.keeper._due = 0.0
        self.keeper.work(self.add)
        if self.keeper._task is not None:
            self.keeper._task.join(60)
        self.sign()

    def settle(self, steps: int = 60) -> None:
        """Steps until nothing is under way any more."""
        for _ in range(steps):
            self.step()
            if self.keeper._task is None and self.keeper._removing is None:
                return
        raise AssertionError("the keeper does not come to rest")

    def steps(self) -> list[events.RetentionStep]:
        """What the log says of retention."""
        found = []
        reader = Reader(self.folder.parent)
        for _, raw in reader.read(0, 1 << 30):
            if b'"retention"' in raw:
                event = events.decode(raw)
                assert isinstance(event, events.RetentionStep)
                found.append(event)
        return found

    @property
    def trouble(self) -> str:
        path = self.folder / keeper.TROUBLE
        return path.read_text() if path.exists() else ""


class Stewarding:
    """A steward that keeps its log, without the pauses it makes."""

    def __init__(self, data_dir: Path, retention: Retention) -> None:
        self.directory = Directory(data_dir)
        self.gate = open_gate(data_dir)
        evidence = AuditLogs(retention=retention)
        self.steward = Steward(data_dir, self.gate, self.directory, evidence=evidence)

    def settle(self) -> None:
        """Works until nothing is left to be done."""
        for _ in range(4):  # seal and sign, archive, note, and what follows from that
            self.steward.drain()
            self.steward._sign_off()
            if (kept := self.steward._keeper) is not None:
                kept._due = 0.0
                kept.work(self.steward._add)
                if kept._task is not None:
                    kept._task.join(60)

    def seal(self) -> None:
        """Begins a new segment."""
        self.steward._log.seal()

    @property
    def last(self) -> int:
        """The newest number of the outbox that it knows to be in the log."""
        return self.steward._log.last_seq

    def close(self) -> None:
        self.steward.close()
        self.gate.close()
        self.directory.close()


def judged(folder: Path, **more: Any) -> Verdict:
    """Whole, quick and with a key: all agree."""
    verdict = examined(folder, **more)
    quick = Verification(folder, **more).quick()
    assert quick.intact == verdict.intact or not verdict.intact
    return verdict


def entries(folder: Path) -> list[tuple[int, bytes]]:
    reader = Reader(folder, folder=folder)
    return list(between(reader, reader.oldest(), reader.end(), Wanted()))


def expire(folder: Path, before: int) -> None:
    """Makes archived parts that end before an index older than a year."""
    import msgspec

    for first, end in Parts(folder).archived():
        manifest = Parts(folder).manifest(first)
        assert manifest is not None
        if end <= before:
            aged = msgspec.structs.replace(manifest, newest=time.time_ns() + OLD * 10**9)
            Parts(folder).path(first, end).write_bytes(msgspec.json.encode(aged))


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def check_kept(data_dir: Path, before: list[tuple[int, bytes]]) -> None:
    """Whatever was not removed by right is there, and the log verifies, archived parts too."""
    folder = data_dir / "audit"
    least = Parts(folder).minimum()
    assert entries(folder)[: len(before) - least] == before[least:]
    verdict = examined(folder)
    assert verdict.intact and not verdict.unread, verdict.findings
