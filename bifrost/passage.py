"""Passages: how a call of one dialect reaches a host that speaks another, and how its answer comes
back in the client's own.

Behind a passage the pipeline meters, settles and streams as if the host spoke the client's dialect:
a translated answer carries the host's own counts in the client's terms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bifrost._fast.client import WAKE
from bifrost.call import Call
from bifrost.config.hosts import Api
from bifrost.errors import UpstreamError
from bifrost.metering.usage import output_estimate
from bifrost.providers.table import PATHS, Host
from bifrost.translate.anthropic_chat import AnthropicChat
from bifrost.translate.translation import SENSELESS, Stream, Traits, Translation
from bifrost.upstream.pool import Exchange, Origin

Translator = Callable[..., Translation]

TRANSLATORS: dict[Api, Translator] = {"chat": AnthropicChat}  # from Anthropic's dialect to these
JSON, EVENTS = b"application/json", b"text/event-stream"
# What the client may know of the host's answer; everything else speaks of the host's dialect.
_KEPT = frozenset({b"retry-after", b"retry-after-ms"})
_HEAD = b"POST %b%b%b\r\ncontent-type: application/json\r\naccept: %b\r\ncontent-length: %d\r\n\r\n"


class Passage:
    """The way to a model of a host that speaks another dialect than its clients."""

    __slots__ = ("_host", "_model", "_origin", "_start", "_traits", "_translator")

    def __init__(self, host: Host, origin: Origin, model: str, traits: Traits) -> None:
        self._host, self._origin, self._model, self._traits = host, origin, model, traits
        self._translator = TRANSLATORS[host.api]
        self._start = origin.path_prefix + PATHS[host.api]

    async def send(self, call: Call) -> Crossing:
        """Sends a call's request translated; awaits the head of the answer.

        Raises InvalidRequest for what cannot be translated, UpstreamError like any sending.
        """
        limit = call.output_limit or None
        translation = self._translator(
            call.body, self._model, max_tokens=limit, traits=self._traits
        )
        call.key_index = self._host.pick()
        signed = self._host.signed(self._origin.host_header)[call.key_index]
        body = translation.body
        accept = EVENTS if call.scan.stream else JSON
        head = _HEAD % (self._start, signed, call.request_id.encode(), accept, len(body))
        call.sent_upstream = True
        call.sent = time.monotonic_ns()
        exchange = await self._origin.send([head, body])
        named = [value for name, value in exchange.headers if name == b"x-request-id"]
        if named:
            call.upstream_request = named[0].decode("latin-1")
        return Crossing(exchange, translation, output_estimate(len(call.body)))

    @staticmethod
    def count(call: Call) -> bytes:
        """An answer to a token count, which this host cannot give: estimated by the size."""
        return b'{"input_tokens":%d}' % output_estimate(len(call.body))


class Crossing:
    """An exchange whose answer is awaited in the client's dialect; else like any exchange."""

    __slots__ = ("_exchange", "_stream", "_translation", "headers", "status")

    def __init__(self, exchange: Exchange, translation: Translation, estimate: int) -> None:
        """``estimate``: tokens of the input, as long as the host has not counted them."""
        self._exchange = exchange
        self._translation = translation
        self.status = exchange.status
        streams = self.status == 200 and _type(exchange.headers).startswith(EVENTS)
        self._stream: Stream | None = translation.stream(estimate) if streams else None
        self.headers = [(name, value) for name, value in exchange.headers if name in _KEPT]
        self.headers.append((b"content-type", EVENTS if streams else JSON))

    @property
    def complete(self) -> bool:
        """Whether the host's answer has been read to its end."""
        return self._exchange.complete

    @property
    def received(self) -> int:
        """Bytes of the host's answer."""
        return self._exchange.received

    async def read(self) -> bytes:
        """The next events in the client's dialect; ``b""`` at the end."""
        while self._stream is not None:
            chunk = await self._exchange.read()
            if chunk is WAKE:
                return chunk
            made = self._feed(chunk)
            if not chunk:
                self._stream = None
            if made:
                return made
        return b""

    async def read_all(self, limit: int) -> bytes:
        """A whole answer of at most ``limit`` bytes; it can change the status."""
        body: bytes = await self._exchange.read_all(limit)
        self.status, body = self._readable(self._translation.answer, self.status, body)
        return body

    def cancel(self) -> None:
        """Gives the answer up."""
        self._exchange.cancel()

    def wake(self) -> None:
        """Lets a waiting ``read`` return WAKE."""
        self._exchange.wake()

    def _feed(self, chunk: bytes) -> bytes:
        """What the client gets for a piece of the stream (b"": its end)."""
        assert self._stream is not None
        found: bytes
        if chunk:
            found = self._readable(self._stream.feed, chunk)
        else:
            found = self._readable(self._stream.finish)
        return found

    @staticmethod
    def _readable(read: Callable[..., Any], *given: Any) -> Any:
        """What no translator can make sense of is a broken answer, not a broken gateway."""
        try:
            return read(*given)
        except SENSELESS as error:
            raise UpstreamError(
                f"The provider's answer cannot be understood ({error!r}).", sent=True
            ) from error


def _type(headers: list[tuple[bytes, bytes]]) -> bytes:
    return next((value.lower() for name, value in headers if name == b"content-type"), b"")
