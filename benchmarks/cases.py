"""The requests that are measured: a small one and a recorded one of Claude Code, whole or SSE."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from benchmarks.processes import ROOT, BenchError

KEY = "sk-bf-bench-0123456789abcdefghijklmnopqrstuvwxyz"
RECORDED = ROOT / "tests" / "samples" / "claude-2.1.330-print-turn1.json"
EVENTS = 50
INTERVAL_MS = 1


class Case(msgspec.Struct, frozen=True):
    """One kind of request: its body, whether it asks for SSE, and headers that steer the mock."""

    name: str
    body: bytes
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    def all_headers(self) -> list[tuple[str, str]]:
        """What every target is sent, in this order; length and host are the sender's matter."""
        return [
            ("authorization", f"Bearer {KEY}"),
            ("anthropic-version", "2023-06-01"),
            ("content-type", "application/json"),
            *self.headers,
        ]

    def message(self, host: str, path: str, more: Sequence[tuple[str, str]] = ()) -> bytes:
        """The whole request as it goes over the wire, with more headers that a target needs."""
        lines = [f"POST {path} HTTP/1.1", f"host: {host}"]
        lines += [f"{name}: {value}" for name, value in (*self.all_headers(), *more)]
        lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def small(stream: bool) -> bytes:
    """A Messages request of 1,000 bytes."""
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 1000,
        "stream": stream,
        "messages": [{"role": "user", "content": ""}],
    }
    body["messages"] = [{"role": "user", "content": "a" * (1000 - len(_compact(body)))}]
    return _compact(body)


def recorded(stream: bool) -> bytes:
    """The first request of a real Claude Code conversation, 49 kB."""
    try:
        body = json.loads(RECORDED.read_bytes())
    except OSError as error:
        raise BenchError(f"the recorded request is missing: {error}") from error
    return _compact({**body, "stream": stream})


def _compact(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def cases() -> list[Case]:
    """The four requests of the main tables."""
    return [
        Case("json-1k", small(False)),
        Case("json-50k", recorded(False)),
        Case("sse-1k", small(True), True),
        Case("sse-50k", recorded(True), True),
    ]


def paced(events: int) -> Case:
    """A small request for a stream of ``events`` deltas that come 1 ms after one another."""
    steering = (
        ("x-mock-chunks", str(events)),
        ("x-mock-chunk-interval-ms", str(INTERVAL_MS)),
    )
    return Case(f"sse-{events}-events", small(True), True, steering)
