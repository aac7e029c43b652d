from collections.abc import Callable
from typing import Any

from bifrost._fast.call import Call
from bifrost._fast.gate import Gate
from bifrost._fast.keyring import Keyring
from bifrost._fast.tariff import Ceiling

OVERHEAD: int
IMAGE: int

def plain_input(size: int, images: int, context: int) -> int: ...

class LaneBase:
    model: str
    def __init__(
        self,
        model: str,
        prefix: bytes,
        served: bytes,
        ceiling: Ceiling,
        tariffs: dict[Any, Any],
        context: int,
    ) -> None: ...

class Desk:
    generation: int
    def __init__(self, gate: Gate, keyring: Keyring) -> None: ...
    def admit(self, call: Call) -> bool: ...
    def hold(self, call: Call, lane: LaneBase, amount: int, since_ns: int) -> int: ...
    def settle(
        self,
        call: Call,
        usage: Any,
        outcome: str,
        price: Callable[[Call, Any], tuple[Any, int]],
    ) -> int: ...
