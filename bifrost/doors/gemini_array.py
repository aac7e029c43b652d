"""Streams without ``alt=sse``: one JSON array whose elements come as they are made."""

from __future__ import annotations

import msgspec

from bifrost.doors.door import Message, Send

_decode = msgspec.json.Decoder().decode
_PIECE = 16 << 20  # bytes; a longer chunk is none


class JsonArray:
    """Sends an event stream on as an array; any other answer as it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams = self._began = False
        self._rest = b""

    async def __call__(self, message: Message) -> None:
        """ASGI's ``send``."""
        if message["type"] == "http.response.start":
            message = self._start(message)
        elif self._streams:
            message = self._body(message)
        await self._send(message)

    def _start(self, message: Message) -> Message:
        headers = message["headers"]
        self._streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in headers
        )
        if not self._streams:
            return message
        kept = [pair for pair in headers if pair[0] not in (b"content-type", b"content-length")]
        return {**message, "headers": [*kept, (b"content-type", b"application/json")]}

    def _body(self, message: Message) -> Message:
        *lines, self._rest = (self._rest + message.get("body", b"")).split(b"\n")
        if len(self._rest) > _PIECE:
            raise ValueError("a chunk without an end")
        more = message.get("more_body", False)
        told = b"".join(self._element(line.strip()) for line in lines)
        if not more:
            told += self._element(self._rest.strip()) + (b"]" if self._began else b"[]")
        elif not told and lines:
            told = b"\n"  # a sign of life, which JSON allows between its elements
        return {**message, "body": told}

    def _element(self, line: bytes) -> bytes:
        """An event's data, or an error, which comes bare."""
        data = line[5:].strip() if line.startswith(b"data:") else line
        try:
            whole = data.startswith(b"{") and bool(_decode(data))
        except (ValueError, RecursionError):
            whole = False  # half a chunk, before the error that says why
        if not whole:
            return b""
        lead = b",\r\n" if self._began else b"["
        self._began = True
        return lead + data
