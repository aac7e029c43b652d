"""What a mock provider served, kept exactly, so that a gateway's ledger can be compared with it.

A complete answer counts its usage once, when its last byte is handed to the connection. A stream
that ended early (injected fault, or the client left) never mixes with those sums: it has its own.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections import deque
from typing import Literal

import msgspec

RING = 1000
BILLS = 1 << 17


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer in disjoint buckets; ``thinking`` is a part of ``output``."""

    input: int = 0
    cache_read: int = 0
    cache_5m: int = 0
    cache_1h: int = 0
    output: int = 0
    thinking: int = 0

    @property
    def cache_write(self) -> int:
        """Tokens written to caches of any lifetime."""
        return self.cache_5m + self.cache_1h


class Sums(msgspec.Struct):
    """Sums of usage buckets, in tokens."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_5m_tokens: int = 0
    cache_1h_tokens: int = 0
    output_tokens: int = 0

    def add(self, usage: Usage) -> None:
        """Count one answer's usage."""
        self.input_tokens += usage.input
        self.cache_read_tokens += usage.cache_read
        self.cache_5m_tokens += usage.cache_5m
        self.cache_1h_tokens += usage.cache_1h
        self.output_tokens += usage.output

    def merge(self, other: Sums) -> None:
        """Add another row's sums."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Row(msgspec.Struct):
    """What one (dialect, model, path) received: requests = completed + failures + cut."""

    dialect: str
    model: str
    path: str
    requests: int = 0
    completed: int = 0
    failures: int = 0
    cut: int = 0
    served: Sums = msgspec.field(default_factory=Sums)
    cut_served: Sums = msgspec.field(default_factory=Sums)
    cut_delta_bytes: int = 0

    def merge(self, other: Row) -> None:
        """Add another row's counts and sums."""
        for name in ("requests", "completed", "failures", "cut", "cut_delta_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.served.merge(other.served)
        self.cut_served.merge(other.cut_served)


class Cut(msgspec.Struct, frozen=True):
    """One answer that ended early.

    Attributes
    ----------
    reason: "cut" (injected), "error_event" (injected) or "client" (the client closed).
    events, delta_bytes: SSE events and text bytes that went out before the end.
    served: usage that had flowed: input once one event was out, output in proportion to the text.
    full: usage the whole answer would have had.
    since_last_write_ns: from the last write to the end (for "client": to the notice of it).
    at_ns: monotonic clock of the end, comparable with other processes of the same machine.
    """

    dialect: str
    model: str
    path: str
    reason: str
    events: int
    delta_bytes: int
    served: Usage
    full: Usage
    since_last_write_ns: int
    at_ns: int


class Bill(msgspec.Struct, frozen=True):
    """What one request was billed, under the ``x-request-id`` it came with ("" without one).

    ``usage`` is that of the whole answer or, if it was ``cut``, what had flowed of it.
    """

    request_id: str
    dialect: str
    model: str
    outcome: Literal["completed", "failed", "cut"]
    usage: Usage
    at_ns: int


class Recorded(msgspec.Struct, frozen=True):
    """One request as it arrived: headers in wire order and spelling, body in base64 if kept."""

    n: int
    at_ns: int
    method: str
    path: str
    headers: list[tuple[str, str]]
    body_bytes: int
    body_sha256: str
    body: str | None


class RequestLog:
    """The last 1000 requests, oldest first."""

    def __init__(self, bodies: bool) -> None:
        self._bodies = bodies
        self._ring: deque[Recorded] = deque(maxlen=RING)
        self._count = 0

    def add(
        self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Keep one request."""
        self._count += 1
        self._ring.append(
            Recorded(
                n=self._count,
                at_ns=time.monotonic_ns(),
                method=method.decode("latin-1"),
                path=target.decode("latin-1"),
                headers=[(k.decode("latin-1"), v.decode("latin-1")) for k, v in headers],
                body_bytes=len(body),
                body_sha256=hashlib.sha256(body).hexdigest(),
                body=base64.b64encode(body).decode("ascii") if self._bodies else None,
            )
        )

    def last(self, count: int) -> list[Recorded]:
        """The newest ``count`` requests, oldest first."""
        return list(self._ring)[-count:] if count > 0 else []

    def clear(self) -> None:
        """Forget all requests and start numbering anew."""
        self._ring.clear()
        self._count = 0


class Account:
    """Everything served since the start or the last reset; ``bills``: kept per request too.

    Of bills the last 131,072 are kept.
    """

    def __init__(self, bills: bool = False) -> None:
        self._bills: deque[Bill] | None = deque(maxlen=BILLS) if bills else None
        self.open_connections = 0
        self.connections = 0
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._cuts: deque[Cut] = deque(maxlen=RING)
        self._disconnects = 0

    def row(self, dialect: str, model: str, path: str) -> Row:
        """The row of one kind of request, made on first use."""
        key = (dialect, model, path)
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = Row(*key)
        return found

    def completed(
        self,
        dialect: str,
        model: str,
        path: str,
        status: int,
        usage: Usage | None,
        request_id: bytes = b"",
    ) -> None:
        """Count one whole answer; ``usage`` is None for answers without tokens."""
        row = self.row(dialect, model, path)
        row.requests += 1
        if self._bills is not None:
            outcome: Literal["failed", "completed"] = "failed" if status >= 400 else "completed"
            billed = usage if usage is not None and status < 400 else Usage()
            self._bill(request_id, dialect, model, outcome, billed)
        if status >= 400:
            row.failures += 1
            return
        row.completed += 1
        if usage is not None:
            row.served.add(usage)

    def ended_early(self, cut: Cut, request_id: bytes = b"") -> None:
        """Count one answer that did not reach its end."""
        if self._bills is not None:
            self._bill(request_id, cut.dialect, cut.model, "cut", cut.served)
        row = self.row(cut.dialect, cut.model, cut.path)
        row.requests += 1
        row.cut += 1
        row.cut_served.add(cut.served)
        row.cut_delta_bytes += cut.delta_bytes
        self._cuts.append(cut)
        if cut.reason == "client":
            self._disconnects += 1

    def _bill(
        self,
        request_id: bytes,
        dialect: str,
        model: str,
        outcome: Literal["completed", "failed", "cut"],
        usage: Usage,
    ) -> None:
        assert self._bills is not None
        name = request_id.decode("latin-1")
        self._bills.append(Bill(name, dialect, model, outcome, usage, time.monotonic_ns()))

    def bills(self, last: int) -> list[Bill]:
        """The newest ``last`` bills, oldest first."""
        kept = list(self._bills or ())
        return kept[-last:] if last > 0 else []

    def statement(self) -> dict[str, object]:
        """The JSON form: totals, sums by (dialect, model), rows by path, the last early ends."""
        total = Row("", "", "")
        models: dict[tuple[str, str], Row] = {}
        for (dialect, model, _), row in self._rows.items():
            total.merge(row)
            models.setdefault((dialect, model), Row(dialect, model, "")).merge(row)
        return {
            "open_connections": self.open_connections,
            "connections": self.connections,
            "disconnects": self._disconnects,
            "total": _statement_row(total, "dialect", "model", "path"),
            "models": [_statement_row(row, "path") for row in models.values()],
            "paths": [_statement_row(row) for row in self._rows.values()],
            "cut": list(self._cuts),
        }

    def clear(self) -> None:
        """Forget everything served; connections stay counted."""
        self._rows.clear()
        self._cuts.clear()
        self._disconnects = 0
        if self._bills is not None:
            self._bills.clear()


def _statement_row(row: Row, *without: str) -> dict[str, object]:
    return {k: v for k, v in msgspec.structs.asdict(row).items() if k not in without}
