"""Claude's event streams, read piece by piece: what translators to other dialects begin with."""

from __future__ import annotations

import re
from typing import Any

from bifrost.translate.chat_answer import decoded
from bifrost.translate.data_lines import MOST_LINE

Json = dict[str, Any]
TEXT, THINKING, ARGUMENTS = (
    b'text_delta","text', b'thinking_delta","thinking', b'input_json_delta","partial_json',
)  # fmt: skip
_DELTA = re.compile(
    rb'event: content_block_delta\ndata: {"type":"content_block_delta","index":\d+,'
    rb'"delta":{"type":"(%b|%b|%b)":'
    rb'("[^"\\\x00-\x1f]*(?:\\["\\bfnrt][^"\\\x00-\x1f]*)*")}}\n\n' % (TEXT, THINKING, ARGUMENTS)
).fullmatch


def delta(chunk: bytes) -> tuple[bytes, bytes] | None:
    """(kind, text in JSON) where a chunk is one whole delta, as most of a stream comes; else None.

    The text holds none but the short escapes: in JSON it is what it would be made into again.
    """
    found = _DELTA(chunk)
    return (found[1], found[2]) if found and (chunk.isascii() or _valid(chunk)) else None


def _valid(chunk: bytes) -> bool:
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return False
    return True


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
