from collections.abc import Callable
from typing import final

CELL: int

def pack(
    first: int, rows: list[tuple[int, int, int, int, int, int, int, int]]
) -> tuple[bytes, bytes, int, int, int]: ...
def joined(blocks: list[tuple[int, bytes, bytes]]) -> tuple[bytes, bytes]: ...
def fitting(
    keys: bytes,
    first: int,
    flags: bytes,
    since: int,
    until: int,
    dearest: int,
    before_at: int,
    before_pos: int,
) -> list[tuple[int, int]]: ...
def grouped(
    kinds: list[int],
    parties: list[int],
    targets: list[int],
    party: list[int],
    target: list[int],
    width: int,
) -> bytes: ...
def holds(cells: bytes, flags: bytes, dearest: int) -> bool: ...

@final
class Sums:
    def __init__(self, groups: bytes, bounds: bytes) -> None: ...
    def add(self, keys: bytes, sums: bytes) -> None: ...
    def add_cells(self, cells: bytes, at: int) -> None: ...
    def add_cost(self, kind: int, at: int, cost: int) -> None: ...
    def cells(self) -> bytes: ...
    def rows(
        self, name: Callable[[int], tuple[str, ...]]
    ) -> dict[int, list[tuple[tuple[str, ...], tuple[int, int, int, int, int, int]]]]: ...
