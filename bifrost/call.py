"""Requests: the Call that carries one through the rooms, and the id it goes by. A leaf."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from bifrost._fast import call as fast
from bifrost._fast.call import new_request_id, own_prefix

__all__ = ["Call", "Dialect", "new_request_id"]


# What attempts at a request have in common, and what is each one's own.
_ASKED = ("at", "began", "body", "client", "dialect", "grant", "head", "route", "scan")
_ATTEMPT = (
    "broke", "encoding", "exchange", "first_byte", "hedge", "key_index", "lane", "last_byte",
    "output_limit", "reserved", "sent", "sent_upstream", "settled", "status", "ticket",
    "upstream_request",
)  # fmt: skip


class Call(fast.Call):
    """A call that the rooms serve, with the ``route`` it takes where there is a choice.

    The compiled listener's own calls have none: they have one target. ``hedge``: it is a further
    attempt of another call that is under way.
    """

    __slots__ = ("hedge", "route")

    def __init__(self, request_id: str, receive: Any) -> None:
        self.route: Any = None
        self.hedge = False

    def again(self) -> None:
        """Forgets an attempt that is settled, before the next one."""
        self.exchange = self.encoding = self.upstream_request = None
        self.status = self.key_index = self.output_limit = 0
        self.sent = self.first_byte = self.last_byte = 0
        self.sent_upstream = self.broke = self.hedge = False

    def sibling(self) -> Call:
        """Another attempt at the same request, of which nothing has been decided."""
        other = Call(self.request_id, None)
        for name in _ASKED:
            setattr(other, name, getattr(self, name))
        other.hedge = True
        return other

    def swap(self, other: Call) -> None:
        """Takes another attempt's place, and gives it its own."""
        for name in _ATTEMPT:
            mine, its = getattr(self, name), getattr(other, name)
            setattr(self, name, its)
            setattr(other, name, mine)


class Dialect(msgspec.Struct, frozen=True):
    """How to speak to a client that does not speak Anthropic's dialect (``call.dialect``).

    ``broken_event(message, request id, error type)`` ends a stream that breaks off; ``ping`` keeps
    a silent one alive. ``generates``: its answers are generated, so that they have an output limit.
    """

    api: Literal["chat", "responses", "gemini", "embeddings", "gemini_embeddings"]
    broken_event: Callable[[str, str, str], bytes]
    ping: bytes = b": ping\n\n"
    generates: bool = True


def _own_prefix() -> None:
    own_prefix(secrets.token_hex(8).encode())


_own_prefix()
os.register_at_fork(after_in_child=_own_prefix)
