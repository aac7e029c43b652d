from collections.abc import Callable
from typing import Any

from bifrost._fast.call import Call
from bifrost._fast.density import Density
from bifrost._fast.gate import Gate, Plan
from bifrost._fast.keyring import Keyring
from bifrost._fast.meters import Meter
from bifrost._fast.tariff import Ceiling

OUTCOME: dict[str, int]
IMAGE: int

def plain_input(size: int, per_kib: int, images: int, context: int) -> int: ...
def plain_account(
    raw: bytes,
) -> tuple[list[int], int, tuple[str | None, str | None, str | None]] | None:
    """(buckets in the order of the rates, web searches, (tier, speed, region)) of a raw ``usage``
    object, or None when it is not plain, or counts no input or no output."""

class LaneBase:
    model: str
    geo: str | None
    plan: Plan
    density: Density
    host: Any
    renamed: str | None
    start: bytes
    signed: list[bytes]
    shown: bytes
    def __init__(
        self,
        model: str,
        plan: Plan,
        prefix: bytes,
        served: bytes,
        ceiling: Ceiling,
        tariffs: dict[Any, Any],
        context: int,
        density: Density,
        meter: Meter | None = None,
        priced: str | None = None,
        geo: str | None = None,
    ) -> None: ...

class Desk:
    generation: int
    overhead: Meter | None
    def __init__(self, gate: Gate, keyring: Keyring) -> None: ...
    def admit(self, call: Call) -> bool: ...
    def hold(
        self,
        call: Call,
        lane: LaneBase,
        amount: int,
        input_tokens: int,
        output_tokens: int,
        since_ns: int,
    ) -> int: ...
    def finish(self, call: Call) -> None: ...
    def settle(
        self,
        call: Call,
        usage: Any,
        outcome: str,
        price: Callable[[Any, Any], tuple[Any, int, bytes]],
    ) -> int: ...
