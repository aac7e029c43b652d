from typing import final

from bifrost._fast.call import Call

def visible(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The lines of a provider's response headers that a client may see, names in lower case.

    A header whose name is no token or whose value holds CR, LF or NUL is left out, and so is the
    content length, which whoever sends the body states.
    """

def budget_lines(left: int, resets_ns: int) -> bytes:
    """What a budget has left (nano-USD; below 0: there is none) and when its window ends."""

@final
class Stations:
    """What every call passes on the wire; ``debug_headers`` adds the gateway's own time."""

    debug_headers: bool
    def __init__(self, *, debug_headers: bool = False) -> None: ...
    def outgoing(self, call: Call, target: bytes) -> list[bytes]:
        """The request as it leaves for the provider of the call's lane: head and body."""

    def answered(self, call: Call) -> bool:
        """The head of the provider's answer is there; whether it is a stream of events."""

    def passed(self, call: Call, chunk: bytes) -> bool:
        """Sees a piece of a stream before it goes on; whether the call is now due to be settled."""

    def headers(
        self, call: Call, cost: int, left: int, resets_ns: int
    ) -> list[tuple[bytes, bytes]]:
        """The lines of an answer's head, all but those of its framing.

        ``cost`` in nano-USD, below 0 while it is not known; ``left`` and ``resets_ns`` as in
        ``budget_lines``.
        """
