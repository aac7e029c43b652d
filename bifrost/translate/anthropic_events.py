"""Claude's event streams, read piece by piece: what translators to other dialects begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bifrost.translate.chat_answer import decoded

Json = dict[str, Any]
MOST_LINE = 16 << 20  # bytes of a line; a longer one is no event


class AnthropicEvents:
    """Finds the events in a stream that comes cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Json]:
        """The events that are complete now. Raises ValueError where they are none."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        for line in lines:
            if line.startswith(b"data:"):
                event = decoded(line[5:])
                if isinstance(event, dict):
                    yield event
