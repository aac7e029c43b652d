from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from bifrost._fast.timing import Timing

class GateError(Exception):
    code: int

class Exhausted(Exception):
    slot: int
    kind: int
    limit: int
    settled: int
    reserved: int
    end_ns: int
    waits: bool
    retry_ns: int

MONEY: int
OVERDRAFT: int
CONCURRENCY: int
REQUESTS: int
INPUT_TOKENS: int
OUTPUT_TOKENS: int
TOKENS: int

def usd(nano: int) -> bytes: ...

class Plan:
    def __init__(
        self,
        slots: list[tuple[int, ...]],
        window: Callable[[int, int], tuple[int, ...]],
        labels: Sequence[Any] = (),
    ) -> None: ...
    @property
    def labels(self) -> tuple[Any, ...]: ...
    def __len__(self) -> int: ...
    def account(self, index: int, now_ns: int) -> tuple[int, int, int]: ...

class Ticket:
    amount: int
    open: bool
    remaining: int
    resets_ns: int

class Gate:
    owner: int
    directory: str
    unclean: bool
    gating: Timing
    admitting: Timing
    settling: Timing
    governing: Timing
    def __init__(self, directory: str | PathLike[str], map_size: int = ...) -> None: ...
    def close(self) -> None: ...
    def admit(
        self,
        plan: Plan,
        amount: int,
        note: bytes,
        now_ns: int,
        since_ns: int = 0,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        place: int = 0,
    ) -> Ticket: ...
    def remaining(self, plan: Plan, now_ns: int) -> tuple[int, int]: ...
    def wait(self, plan: Plan, slot: int, now_ns: int, place: int = 0) -> int: ...
    def quit(self, place: int) -> None: ...
    @property
    def freed(self) -> int: ...
    def settle(
        self,
        ticket: Ticket,
        cost: int,
        input_tokens: int,
        output_tokens: int,
        event: bytes,
        now_ns: int,
        since_ns: int = 0,
    ) -> None: ...
    def bar(self, code: int) -> None: ...
    def pay(self) -> None: ...
    @property
    def barred(self) -> int: ...
    @property
    def unpaid(self) -> int: ...
    def prune(self, now_ns: int) -> int: ...
    def append(self, event: bytes, now_ns: int, *, admitting: bool = False) -> None: ...
    def counters(self, accounts: list[tuple[int, int]]) -> list[tuple[int, int, int, int, int]]: ...
    def outbox(self, after: int, most: int) -> list[tuple[int, bytes]]: ...
    def reservations(self, most: int = ...) -> list[tuple[int, int, int, int, bytes]]: ...
    def forget(self, upto: int) -> None: ...
    def retire(self, idle_since_ns: int, now_ns: int, start: int = 0, span: int = 65536) -> int: ...
    def reclaim(self, owner: int, sequence: int, event: bytes, now_ns: int) -> bool: ...
    def restore(
        self, counters: list[tuple[int, int, int, int, int, int, int]], last: int
    ) -> None: ...
    def adjust(
        self, accounts: list[tuple[int, int, int]], delta: int, event: bytes, now_ns: int
    ) -> None: ...
    def sync(self) -> None: ...

def condition(directory: str | PathLike[str]) -> str: ...
def alive(directory: str | PathLike[str], owner: int) -> bool: ...
