from collections.abc import Callable, Sequence
from typing import Any, final

from bifrost._fast.desk import Desk

Headers = list[tuple[bytes, bytes]]

@final
class Hall:
    targets: dict[bytes, bytes]
    max_body_bytes: int
    max_answer: int
    keep_alive_s: float
    receive_s: float
    proxies: Any
    def __init__(
        self,
        desk: Desk,
        pipeline: Any,
        targets: dict[bytes, bytes],
        *,
        refusal: Callable[[Any, str, Sequence[tuple[bytes, bytes]]], tuple[int, Headers, bytes]],
        cold: type[Any],
        doubt: type[Any],
        max_body_bytes: int,
        max_answer: int,
        ping: bytes,
        proxies: Any,
        keep_alive_s: float,
        receive_s: float,
    ) -> None: ...
