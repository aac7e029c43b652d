"""Claude's event streams, read piece by piece: what translators to other dialects begin with."""

from __future__ import annotations

from typing import Any

from bifrost.translate.chat_answer import decoded
from bifrost.translate.data_lines import MOST_LINE

Json = dict[str, Any]


class AnthropicEvents:
    """Finds the events in a stream that comes cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def between(self) -> bool:
        """Whether no line has begun."""
        return not self._rest

    def feed(self, chunk: bytes) -> list[Json]:
        """The events that are complete now. Raises ValueError where they are none."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        told = [decoded(line[5:]) for line in lines if line[:5] == b"data:"]
        return [event for event in told if isinstance(event, dict)]
