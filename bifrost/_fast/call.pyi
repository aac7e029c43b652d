from typing import Any

def own_prefix(digits: bytes) -> None: ...
def new_request_id() -> str: ...

class Call:
    at: int
    began: int
    sent: int
    first_byte: int
    last_byte: int
    reserved: int
    output_limit: int
    place: int
    request_id: str
    upstream_request: str | None
    receive: Any
    head: Any
    scan: Any
    grant: Any
    lane: Any
    exchange: Any
    tap: Any
    watcher: Any
    cut: Any
    dialect: Any
    testimony: Any
    ticket: Any
    body: bytes
    encoding: bytes | None
    client: bytes | None
    status: int
    key_index: int
    streaming: bool
    gone: bool
    settled: bool
    sent_upstream: bool
    broke: bool
    def __init__(self, request_id: str, receive: Any) -> None: ...
