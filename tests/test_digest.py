"""The compiled hashes of the tree: those that the interpreter makes, whatever the files hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bifrost._fast import digest
from bifrost.audit import merkle, segments, tiles

pytestmark = pytest.mark.skipif(
    not digest.BOUND, reason="Python hides its OpenSSL or zlib here: hashes are made without them"
)
entries = st.lists(st.binary(max_size=300).map(lambda some: b'{"' + some), max_size=40)


def both(make: object, *given_: object) -> tuple[object, object]:
    """What a function gives with the compiled hashes and without."""
    assert callable(make)
    compiled = make(*given_)
    digest.BOUND = False
    try:
        return compiled, make(*given_)
    finally:
        digest.BOUND = True


@given(entries, st.integers(0, 1 << 40))
def test_frames_give_the_same_hashes(payloads: list[bytes], first: int) -> None:
    data = segments.frames(first, payloads)
    compiled, plain = both(segments.hashed, data, 0, first, first + len(payloads))
    assert compiled == plain
    assert plain == (merkle.leaves(payloads), len(data), first + len(payloads))


@given(entries, st.randoms(use_true_random=False))
def test_damage_ends_both_at_the_same_entry(payloads: list[bytes], chance: random.Random) -> None:
    data = bytearray(segments.frames(7, payloads))
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        del data[chance.randrange(len(data)) + 1 :]
    end = 7 + chance.randrange(len(payloads) + 2)
    compiled, plain = both(segments.hashed, bytes(data), 0, 7, end)
    assert compiled == plain


def test_many_frames() -> None:
    payloads = [b'{"n":%d}' % number for number in range(70_000)]
    data = segments.frames(0, payloads)
    compiled, plain = both(segments.hashed, data, 0, 0, 1 << 62)
    assert compiled == plain


@given(st.integers(1, 600))
def test_roots_are_the_same(count: int) -> None:
    row = merkle.leaves(b"%d" % number for number in range(count))
    compiled, plain = both(merkle.fold, row)
    assert compiled == plain
    whole = row[: count // tiles.TILE * tiles.TILE_BYTES]
    compiled, plain = both(tiles.tile_roots, whole)
    assert compiled == plain


def test_rows_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="hashes"):
        digest.root(b"x" * 33)
    with pytest.raises(ValueError, match="whole parts"):
        digest.roots(b"x" * 64, 256)
    with pytest.raises(ValueError, match="begin there"):
        digest.leaf_hashes(b"", 1, 0, 1)
