"""Extracts: entries as people and other programs read them, chosen by filters."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import msgspec

from bifrost.audit.log import Reader
from bifrost.audit.merkle import leaf

STRIDE = 1024
MOST_LOOKED_AT = 50_000  # entries for one page of a list


class Wanted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What entries have to fit; times in ns. ``id`` is that of any party of the event."""

    type: str | None = None
    actor: str | None = None
    action: str | None = None
    request: str | None = None
    id: str | None = None
    since: int = 0
    until: int = (1 << 63) - 1

    def fits(self, event: dict[str, Any]) -> bool:
        """Whether an entry's JSON is wanted."""
        for name in ("type", "actor", "action", "request"):
            wanted = getattr(self, name)
            if wanted is not None and event.get(name) != wanted:
                return False
        if self.id is not None and self.id not in {
            event.get(name)
            for name in ("id", "key", "user", "team", "customer", "budget", "subject")
        }:
            return False
        at = event.get("done_at") or event.get("at")
        return isinstance(at, int) and self.since <= at < self.until


class Page(msgspec.Struct, frozen=True):
    """Entries, newest first, and the index to go on before; None at the begin of the log."""

    entries: list[tuple[int, bytes]]
    before: int | None


def removed(index: int, oldest: int) -> str:
    """The sentence on an entry that is not there any more."""
    return f"Entry {index} was removed when its time was over; the log begins with {oldest}."


def document(entry: bytes) -> dict[str, Any] | None:
    """The JSON of an entry, None if it is none."""
    try:
        found = msgspec.json.decode(entry)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None


def newest(reader: Reader, wanted: Wanted, limit: int, before: int | None = None) -> Page:
    """The newest entries that fit, from before an index on; looks at a bounded number of them."""
    everything = wanted == Wanted()
    at = reader.end() if before is None else min(before, reader.end())
    oldest, stop = reader.oldest(), max(reader.oldest(), at - MOST_LOOKED_AT)
    found: list[tuple[int, bytes]] = []
    while at > stop:
        start = max(stop, at - (min(STRIDE, limit) if everything else STRIDE))
        for index, entry in reversed(reader.read(start, at - start)):
            if everything or wanted.fits(document(entry) or {}):
                found.append((index, entry))
                if len(found) == limit:
                    return Page(found, index if index > oldest else None)
        at = start
    return Page(found, at if at > oldest else None)


def between(reader: Reader, start: int, end: int, wanted: Wanted) -> Iterator[tuple[int, bytes]]:
    """The entries that fit, oldest first, from ``start`` to before ``end``."""
    everything = wanted == Wanted()
    while start < end:
        batch = reader.read(start, min(STRIDE, end - start))
        if not batch:
            return
        for index, entry in batch:
            if everything or wanted.fits(document(entry) or {}):
                yield index, entry
        start = batch[-1][0] + 1


def line(origin: str, index: int, entry: bytes) -> bytes:
    """A line of an export: the entry's exact bytes as ``entry``, or in base64 if it is no JSON."""
    head = b'{"origin":%b,"index":%d,"hash":"%b",' % (
        msgspec.json.encode(origin), index, leaf(entry).hex().encode(),
    )  # fmt: skip
    if document(entry) is None or b"\n" in entry:
        return head + b'"base64":"%b"}\n' % b64encode(entry)
    return head + b'"entry":%b}\n' % entry
