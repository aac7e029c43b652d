"""Records: entries of the audit log on their way out, and the checkpoint that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bifrost.audit.extracts import document
from bifrost.audit.merkle import leaf
from bifrost.audit.notary import Signed

CHECKPOINT = "checkpoint"
PRODUCT = version("bifrost-gateway")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Record(msgspec.Struct, frozen=True):
    """One entry: where it stands, its exact bytes and what they say.

    ``at`` is ns since the epoch. A record of kind ``checkpoint`` is no entry: it is the newest
    checkpoint, and ``index`` how many entries it covers.
    """

    origin: str
    index: int
    kind: str
    at: int
    raw: bytes
    event: dict[str, Any]

    @property
    def id(self) -> str:
        """What receivers know it by; the same however often it is sent."""
        if self.kind == CHECKPOINT:
            return f"{self.origin}/checkpoint/{self.index}"
        return f"{self.origin}/{self.index}"

    @property
    def hash(self) -> str:
        """The entry's hash in the tree, in hex."""
        return leaf(self.raw).hex()

    @property
    def time(self) -> str:
        """When it happened, RFC 3339 in UTC to the microsecond."""
        return moment(self.at)


class Item(NamedTuple):
    """A record and how it is written for one receiver."""

    record: Record
    body: bytes


Document = Callable[[Record], dict[str, Any]]  # a format: what is told of a record


def entry(origin: str, index: int, raw: bytes) -> Record:
    """The record of an entry; one that is no JSON object is told by its bytes alone."""
    event = document(raw) or {}
    at = event.get("done_at") or event.get("at")
    kind = event.get("type")
    return Record(
        origin, index, kind if isinstance(kind, str) else "unknown",
        at if isinstance(at, int) and 0 <= at < 1 << 63 else 0, raw, event,
    )  # fmt: skip


def checkpoint(folder: Path, now_ns: int) -> Record | None:
    """The newest checkpoint of a log as a record; None if nothing is signed.

    Raises NoteError or OSError.
    """
    found = Signed.load(folder)
    return None if found is None else of_checkpoint(found, now_ns)


def of_checkpoint(signed: Signed, now_ns: int) -> Record:
    """A checkpoint as a record."""
    event = {"type": CHECKPOINT, "checkpoint": signed.note, "keys": list(signed.keys)}
    raw = msgspec.json.encode(event)
    said = signed.checkpoint
    return Record(said.origin, said.size, CHECKPOINT, now_ns, raw, event)


def span(items: Sequence[Item]) -> tuple[int, int]:
    """The indexes of the first and the last entry among these."""
    indexes = [item.record.index for item in items if item.record.kind != CHECKPOINT]
    return indexes[0], indexes[-1]


def moment(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, to the microsecond."""
    at = (_EPOCH + timedelta(microseconds=ns // 1000)).isoformat(timespec="microseconds")
    return at.replace("+00:00", "Z")
