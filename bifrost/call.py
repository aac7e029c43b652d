"""A Call carries one request through the rooms: the one mutable object of the house. A leaf."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from typing import Any

_numbers = itertools.count(1)
_prefix = ""


def _own_prefix() -> None:
    global _prefix
    _prefix = secrets.token_hex(8)


_own_prefix()
os.register_at_fork(after_in_child=_own_prefix)


def new_request_id() -> str:
    """A request id, unique over processes: 16 random hex digits of this one and a number."""
    return f"req_{_prefix}{next(_numbers):08x}"


class Call:
    """What is known of a request so far. Times are monotonic ns but ``at``, which is wall time."""

    __slots__ = (
        "at", "began", "request_id", "head", "body", "scan", "grant", "lane", "ticket", "reserved",
        "exchange", "status", "tap", "streaming", "gone", "settled", "first_byte", "last_byte",
        "watcher", "receive", "upstream_request", "sent_upstream", "broke", "key_index",
    )  # fmt: skip

    def __init__(self, request_id: str, receive: Any) -> None:
        self.at = time.time_ns()
        self.began = time.monotonic_ns()
        self.request_id = request_id
        self.receive = receive
        self.head: Any = None
        self.body = b""
        self.scan: Any = None
        self.grant: Any = None
        self.lane: Any = None
        self.ticket: Any = None
        self.exchange: Any = None
        self.tap: Any = None
        self.watcher: Any = None
        self.reserved = 0
        self.status = 0
        self.first_byte = 0
        self.last_byte = 0
        self.key_index = 0
        self.streaming = False
        self.gone = False
        self.settled = False
        self.sent_upstream = False
        self.broke = False
        self.upstream_request: str | None = None
