from collections.abc import Callable, Sequence
from typing import Any

from bifrost._fast.outbox import Outbox
from bifrost._fast.state import GateError as GateError
from bifrost._fast.state import alive as alive
from bifrost._fast.state import condition as condition
from bifrost._fast.timing import Timing

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

class Gate(Outbox):
    gating: Timing
    admitting: Timing
    settling: Timing
    governing: Timing
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
    def pay(self) -> None: ...
    @property
    def unpaid(self) -> int: ...
