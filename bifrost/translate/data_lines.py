"""The data lines of a host's event stream, cut anywhere: what its readers have in common."""

from __future__ import annotations

from bifrost._fast.pieces import event_data

MOST_LINE = 16 << 20  # bytes of a line; a longer one is no event


class DataLines:
    """Takes a stream apart; ``_event`` makes of the data of each line what is told of it.

    Raises ValueError for a line without an end.
    """

    def __init__(self) -> None:
        self.said: tuple[bytes, bytes] | None = None  # see ``translation.Spoken``
        self._over = False  # what comes now means nothing any more
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the host, cut anywhere; whole events."""
        out: list[bytes] = []
        self.said = None
        data = None if self._rest else event_data(chunk)
        if data is None:
            self._lines(chunk, out)
        elif not self._over:
            self._event(data, out)
        if len(out) == 1:
            return out[0]
        self.said = None
        return b"".join(out)

    def _lines(self, chunk: bytes, out: list[bytes]) -> None:
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MOST_LINE:
            raise ValueError("a line without an end")
        for line in lines:
            if line[:5] == b"data:" and not self._over:
                self._event(line[5:], out)

    def finish(self) -> bytes:
        """The host ended its stream: what is left to say."""
        out: list[bytes] = []
        if self._rest.startswith(b"data:") and not self._over:
            self._event(self._rest[5:], out)
        self._ended(out)
        return b"".join(out)

    def _event(self, data: bytes, out: list[bytes]) -> None:
        """Adds what the data of a line tell."""

    def _ended(self, out: list[bytes]) -> None:
        """Adds what the end tells; a stream that was cut short gets no end."""
