"""Requests: the Call that carries one through the rooms, and the id it goes by. A leaf."""

from __future__ import annotations

import itertools
import os
import secrets

from bifrost._fast.call import Call

__all__ = ["Call", "new_request_id"]

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
