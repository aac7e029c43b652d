"""Requests: the Call that carries one through the rooms, and the id it goes by. A leaf."""

from __future__ import annotations

import os
import secrets

from bifrost._fast.call import Call, new_request_id, own_prefix

__all__ = ["Call", "new_request_id"]


def _own_prefix() -> None:
    own_prefix(secrets.token_hex(8).encode())


_own_prefix()
os.register_at_fork(after_in_child=_own_prefix)
