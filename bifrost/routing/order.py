"""The order in which targets are tried: by weight, and the same for all requests of a session.

Pure. Weighted rendezvous hashing: each target draws a number from the seed and its own name, and
the lowest draw divided by the weight goes first. So a seed always finds the same order, targets get
their shares over many seeds, and one that comes or goes moves nobody but its own share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b

_SPAN = 1 << 53  # as many draws as a float tells apart


def draw(seed: bytes, name: str, weight: float) -> float:
    """Where a target of this name and weight (above 0) stands for this seed; the lowest is first.

    The draw is exponential with the weight as its rate: the lowest of several is each one's with a
    chance of its share of the weights.
    """
    found = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=seed[:64]).digest()
    return -math.log((int.from_bytes(found, "little") % _SPAN + 1) / _SPAN) / weight


def seed_of(words: Iterable[bytes]) -> bytes:
    """A seed from what names a session."""
    return blake2b(b"\0".join(words), digest_size=16).digest()
