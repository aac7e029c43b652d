"""Condition: how much of a log is where, and what keeps it from being archived or removed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bifrost.audit import holds
from bifrost.audit.keeper import TROUBLE
from bifrost.audit.log import Reader
from bifrost.audit.parts import Parts
from bifrost.audit.segments import path_of, segments
from bifrost.config.evidence import Retention


class Condition(msgspec.Struct, kw_only=True):
    """Entries ``oldest`` to ``end`` - 1 are there; those before ``minimum`` were removed.

    ``local`` and ``archived`` are numbers of segments, with their bytes as they are stored;
    ``doomed`` of the archived ones are still to be removed there (a lock holds them, or a hold).
    ``sealed_at``: when the oldest segment beside us was sealed (ns), 0 if none is.
    """

    end: int
    oldest: int
    minimum: int
    local: int
    local_bytes: int
    archived: int
    archived_bytes: int
    doomed: int
    depots: list[str]
    sealed_at: int
    holds: list[holds.Hold]
    trouble: str


def condition(folder: Path) -> Condition:
    """How the log in a folder is; raises StoreError or OSError."""
    parts, reader = Parts(folder), Reader(folder, folder=folder)
    least, local = parts.minimum(), segments(folder)
    found = parts.manifests()
    trouble = folder / TROUBLE
    return Condition(
        end=reader.end(), oldest=reader.oldest(), minimum=least, local=len(local),
        local_bytes=local_bytes(folder),
        archived=len(found), archived_bytes=sum(one.packed for one in found),
        doomed=sum(one.end <= least for one in found), depots=sorted({one.depot for one in found}),
        sealed_at=_sealed_at(folder, local), holds=holds.holds(folder),
        trouble=trouble.read_text("utf-8") if trouble.exists() else "",
    )  # fmt: skip


def local_bytes(folder: Path) -> int:
    """The size of the segments beside us."""
    return sum(_size(path_of(folder, first)) for first in segments(folder))


def lags_ns(folder: Path, retention: Retention, now_ns: int) -> tuple[int, int]:
    """For how long the oldest segment beside us should have been archived, and removed (ns)."""
    sealed = _sealed_at(folder, segments(folder))
    spans = retention.archive_after_ns, retention.duration_ns
    late = [0 if span is None or not sealed else max(0, now_ns - sealed - span) for span in spans]
    return late[0], late[1]


def _sealed_at(folder: Path, local: list[int]) -> int:
    try:
        return path_of(folder, local[0]).stat().st_mtime_ns if len(local) > 1 else 0
    except FileNotFoundError:  # archived at this moment
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
