"""Crossings: an exchange with a host whose answer comes back in the client's dialect."""

from __future__ import annotations

from bifrost._fast.client import WAKE
from bifrost.errors import UpstreamError
from bifrost.passage.ways import Flow, Way
from bifrost.translate.gathered import Gathered
from bifrost.translate.translation import SENSELESS
from bifrost.upstream.pool import Exchange

_ENDS = (b"\n\n", b"\r\n\r\n")  # of an event
JSON, EVENTS = b"application/json", b"text/event-stream"
_STREAMS = (EVENTS, b"application/vnd.amazon.eventstream")
# What a client may know of the head of an answer in another dialect; the rest speaks of that.
_KEPT = frozenset({b"retry-after", b"retry-after-ms"})
# What names the gateway's account at its provider, what that account has left there, and the
# provider's own number of the request, which is in the log.
_OURS = (b"openai-organization", b"openai-project", b"x-ratelimit-", b"x-request-id",
         b"x-goog-request-id")  # fmt: skip


class Crossing:
    """An exchange whose answer is awaited in the client's dialect; else like any exchange."""

    __slots__ = (
        "_exchange", "_flow", "_gathered", "_metered", "_shown", "_way", "headers", "status",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        way: Way,
        estimate: int,
        *,
        same: bool,
        gathered: Gathered | None = None,
    ) -> None:
        """``estimate``: tokens of the input, as long as the host has not counted them. ``same``:
        client and host speak the same dialect. ``gathered``: the host was asked for a stream and
        the client wants it whole."""
        self._exchange = exchange
        self._way = way
        self._metered: list[bytes] = []
        self._shown = b""  # the last that the client got
        self.status = exchange.status
        kind = _type(exchange.headers)
        self._gathered = None if self.status != 200 or kind.startswith(JSON) else gathered
        streams = self.status == 200 and kind.startswith(_STREAMS) and gathered is None
        self._flow: Flow | None = way.flow(estimate) if streams else None
        if same:
            left_out = _OURS if self._gathered is None else (*_OURS, b"content-type")
            self.headers = [one for one in exchange.headers if not one[0].startswith(left_out)]
            if self._gathered is not None:
                self.headers.append((b"content-type", JSON))
        else:
            self.headers = [one for one in exchange.headers if one[0] in _KEPT]
            self.headers.append((b"content-type", EVENTS if streams else JSON))

    @property
    def boundary(self) -> bool:
        """Whether nothing of an event is open at the client."""
        return not self._shown or self._shown.endswith(_ENDS)

    @property
    def complete(self) -> bool:
        """Whether the host's answer has been read to its end."""
        return self._exchange.complete

    @property
    def received(self) -> int:
        """Bytes of the host's answer; of one that is gathered, those of what it says."""
        return self._exchange.received if self._gathered is None else self._gathered.made

    def metered(self) -> bytes:
        """What has been read since the last time, in Anthropic's dialect: for the meters."""
        metered, self._metered = b"".join(self._metered), []
        return metered

    async def read(self) -> bytes:
        """The next piece in the client's dialect; ``b""`` at the end."""
        while self._flow is not None:
            chunk = await self._exchange.read()
            if chunk is WAKE:
                return chunk
            flow = self._flow
            try:
                if chunk:
                    shown, metered = flow.feed(chunk)
                else:
                    self._flow = None
                    shown, metered = flow.finish()
            except SENSELESS as error:
                raise _broken(error) from error
            self._metered.append(metered)
            if shown:
                self._shown = shown
                return shown
        return b""

    async def read_all(self, limit: int) -> bytes:
        """A whole answer of at most ``limit`` bytes; it can change the status."""
        status, body = self.status, b""
        if self._gathered is None:
            body = await self._exchange.read_all(limit)
        else:
            status, body = await self._gather(self._gathered, limit)
        try:
            self.status, piece = self._way.answer(status, body)
        except SENSELESS as error:
            raise _broken(error) from error
        self._metered = [piece.metered]
        return piece.shown

    async def _gather(self, gathered: Gathered, limit: int) -> tuple[int, bytes]:
        """(status, body) of what a stream says; UpstreamError where it is cut or too long."""
        try:
            while chunk := await self._exchange.read():
                if chunk is not WAKE:
                    gathered.feed(chunk)
                    if gathered.made > limit:
                        raise ValueError(f"more than {limit} bytes")
            gathered.finish()
        except SENSELESS as error:
            raise _broken(error) from error
        if gathered.whole is None:
            raise UpstreamError("The provider ended its stream early.", sent=True)
        return gathered.whole

    def cancel(self) -> None:
        """Gives the answer up."""
        self._exchange.cancel()

    def wake(self) -> None:
        """Lets a waiting ``read`` return WAKE."""
        self._exchange.wake()


def _broken(error: BaseException) -> UpstreamError:
    """What no translator can make sense of is a broken answer, not a broken gateway."""
    return UpstreamError(f"The provider's answer cannot be understood ({error!r}).", sent=True)


def _type(headers: list[tuple[bytes, bytes]]) -> bytes:
    return next((value.lower() for name, value in headers if name == b"content-type"), b"")
