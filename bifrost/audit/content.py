"""Content: what was said in a request, as events that only its subject's key makes readable."""

from __future__ import annotations

import hmac
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import Protocol

from bifrost.audit.events import Content
from bifrost.errors import StoreError

PART = 40_000  # bytes sealed in one event: entries stay below 64 KiB
MOST = 64 << 20  # bytes of a side that are kept


class Seal(Protocol):
    """The key of a subject (governance's ``Sealer``)."""

    @property
    def name(self) -> str: ...
    def mac(self) -> hmac.HMAC: ...
    def seal(self, plain: bytes, label: bytes) -> bytes: ...
    def open(self, sealed: bytes, label: bytes) -> bytes: ...


class Side:
    """One side of a request, heard piece by piece; ``full``: kept, not only digested."""

    def __init__(self, side: str, seal: Seal, *, full: bool) -> None:
        self._side, self._seal, self._full = side, seal, full
        self._mac = seal.mac()
        self._pieces: list[bytes] = []
        self._size = self._kept = 0

    def hear(self, piece: bytes) -> None:
        """Takes the next piece."""
        self._mac.update(piece)
        self._size += len(piece)
        if self._full and self._kept < MOST:
            self._pieces.append(piece[: MOST - self._kept])
            self._kept += len(self._pieces[-1])

    def told(self, request: str, key: str, subject: str) -> Iterator[Content]:
        """What was heard, as events."""
        event = Content(
            at=time.time_ns(), request=request, key=key, side=self._side, subject=subject,
            sealer=self._seal.name, size=self._size, mac=self._mac.hexdigest(),
        )  # fmt: skip
        if not self._full:
            yield event
            return
        packed = zlib.compress(b"".join(self._pieces), 1)
        event.cut = self._kept < self._size
        event.parts = -(-len(packed) // PART)
        for part in range(event.parts):
            event.part = part
            piece = packed[part * PART : (part + 1) * PART]
            event.sealed = b64encode(self._seal.seal(piece, _label(event))).decode()
            yield event


def _label(event: Content) -> bytes:
    """What a sealed part is bound to."""
    words = (event.request, event.side, event.sealer, event.mac, str(event.part), str(event.parts))
    return "\0".join(words).encode()


def opened(events: Iterable[Content], seal: Seal) -> bytes:
    """What all parts of one side hold; raises StoreError when one is missing or of another key."""
    parts = {event.part: event for event in events if event.sealed is not None}
    first = next(iter(parts.values()), None)
    if first is None or sorted(parts) != list(range(first.parts)):
        raise StoreError("Not all parts of the content are there.")
    packed = b"".join(
        seal.open(b64decode(parts[part].sealed or ""), _label(parts[part]))
        for part in sorted(parts)
    )
    try:
        plain = zlib.decompress(packed)
    except zlib.error as error:
        raise StoreError("The content was not packed by this gateway.") from error
    if not first.cut and not matches(plain, first, seal):
        raise StoreError("The content is not what its digest says.")
    return plain


def matches(content: bytes, event: Content, seal: Seal) -> bool:
    """Whether these bytes are what was recorded by its digest."""
    mac = seal.mac()
    mac.update(content)
    return len(content) == event.size and hmac.compare_digest(mac.hexdigest(), event.mac)
