"""Requests: the Call that carries one through the rooms, and the id it goes by. A leaf."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Literal

import msgspec

from bifrost._fast.call import Call, new_request_id, own_prefix

__all__ = ["Call", "Dialect", "new_request_id"]


class Dialect(msgspec.Struct, frozen=True):
    """How to speak to a client that does not speak Anthropic's dialect (``call.dialect``).

    ``broken_event(message, request id, error type)`` ends a stream that breaks off; ``ping`` keeps
    a silent one alive.
    """

    api: Literal["chat", "responses", "gemini"]
    broken_event: Callable[[str, str, str], bytes]
    ping: bytes = b": ping\n\n"


def _own_prefix() -> None:
    own_prefix(secrets.token_hex(8).encode())


_own_prefix()
os.register_at_fork(after_in_child=_own_prefix)
