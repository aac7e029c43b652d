"""The tree of RFC 6962 over SHA-256: its hashes, its proofs, and how proofs are checked.

Pure arithmetic. Rows of hashes are bytes, 32 for each hash, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Protocol

from bifrost._fast import digest

HASH = 32
EMPTY = sha256(b"").digest()


class Spans(Protocol):
    """Whoever knows the root of the entries from ``start`` to before ``end``."""

    def span(self, start: int, end: int) -> bytes: ...


def leaf(entry: bytes) -> bytes:
    """The hash of an entry."""
    return sha256(b"\0" + entry).digest()


def leaves(entries: Iterable[bytes]) -> bytes:
    """The hashes of entries, as a row."""
    if digest.BOUND:
        return digest.entry_hashes(list(entries))
    return b"".join([sha256(b"\0" + entry).digest() for entry in entries])


def node(left: bytes, right: bytes) -> bytes:
    """The hash over two hashes."""
    return sha256(b"\1" + left + right).digest()


def fold(row: bytes) -> bytes:
    """The root over a row of roots of equal size, of which the last may be smaller.

    An odd last one is handed up as it is; so the tree is that of RFC 6962.
    """
    if not row:
        return EMPTY
    if digest.BOUND:
        return digest.root(row)
    while len(row) > HASH:
        pairs = len(row) & -64
        hashed = [sha256(b"\1" + row[at : at + 64]).digest() for at in range(0, pairs, 64)]
        row = b"".join(hashed) + row[pairs:]
    return row


def inclusion(tree: Spans, index: int, size: int) -> list[bytes]:
    """The hashes that lead from an entry to the root of the first ``size`` entries."""
    start, end = 0, size
    path = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(tree.span(middle, end))
            end = middle
        else:
            path.append(tree.span(start, middle))
            start = middle
    return path[::-1]


def consistency(tree: Spans, old: int, size: int) -> list[bytes]:
    """The hashes that show that the first ``old`` of ``size`` entries are unchanged."""
    start, end = 0, size
    path = []
    while old < end and old > start:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(tree.span(middle, end))
            end = middle
        else:
            path.append(tree.span(start, middle))
            start = middle
    if start > 0:
        path.append(tree.span(start, end))
    return path[::-1]


def _split(count: int) -> int:
    """The largest power of two below a count of at least two."""
    return 1 << (count - 1).bit_length() - 1


def root_over(index: int, size: int, hashed: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to; None if it has not the right form."""
    if not 0 <= index < size:
        return None
    at, last = index, size - 1
    for one in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            hashed = node(one, hashed)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            hashed = node(hashed, one)
        at, last = at >> 1, last >> 1
    return hashed if last == 0 else None


def is_consistent(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a proof shows that the tree of ``size`` begins with that of ``old`` (at least 1)."""
    if not 0 < old <= size:
        return False
    if old == size:
        return not path and old_root == root
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not steps:
        return False
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = steps[0]
    for one in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node(one, before), node(one, after)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            after = node(after, one)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_root and after == root
