"""What all doors have in common: reading a request's head and body, and sending a refusal.

Plain ASGI, no framework objects. A door decides nothing.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

import msgspec

from bifrost._fast import wire
from bifrost.call import Call, new_request_id
from bifrost.errors import (
    InvalidRequest,
    NotServed,
    Refusal,
    RequestTooLarge,
    UnsupportedEncoding,
)
from bifrost.pipeline import Pipeline
from bifrost.proxies import Proxies

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Models(Protocol):
    """Lists what the key of an identified call may use; ``embeddings``: also what only embeds."""

    def __call__(self, call: Call, *, embeddings: bool = False) -> list[dict[str, Any]]: ...


class Door(ABC):
    """One client dialect's side of the gateway; subclasses say which paths and which words."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: Models,
        proxies: Proxies,
        refused: Callable[[str], None],
        *,
        max_body_bytes: int,
    ) -> None:
        """``models`` lists what a key may use; ``proxies`` say whom events name as its client;
        ``refused(code)`` is told of every refusal."""
        self.pipeline = pipeline
        self.models = models
        self.proxies = proxies
        self._refused = refused
        self.max_body_bytes = max_body_bytes

    @abstractmethod
    def answer(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """(status, headers, body) of a refusal in this dialect, with ``more`` headers."""

    def refusal(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """The answer to a request that is refused now: (status, headers, body)."""
        self._refused(refusal.code)
        return self.answer(refusal, request_id, more)

    async def refuse(self, send: Send, refusal: Refusal, call: Call) -> None:
        """Sends the answer to a request that is refused now."""
        more = self.pipeline.budget(call)
        status, headers, body = self.refusal(refusal, call.request_id, more)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any other path below this door."""
        call = Call("", receive)
        try:
            self.head(scope, call)
            raise NotServed(f"This gateway does not serve {scope['path']}.")
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    def head(self, scope: Scope, call: Call) -> None:
        """Reads the head; raises InvalidRequest when it is malformed."""
        call.client = self.proxies.recorded(scope)
        try:
            head = call.head = wire.read_head(scope["headers"])
        except wire.WireError as error:
            call.request_id = new_request_id()
            raise InvalidRequest(f"The request's headers are malformed: {error}") from None
        call.request_id = head.request_id.decode() if head.request_id else new_request_id()

    async def body(self, call: Call) -> None:
        """Collects the body, within the limit and decoded; raises InvalidRequest."""
        limit = self.max_body_bytes
        if call.head.content_length is not None and call.head.content_length > limit:
            raise RequestTooLarge(f"The request body is larger than {limit} bytes.")
        message = await call.receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            parts, size = [body], len(body)
            while message.get("more_body", False):
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise InvalidRequest("The client left before its request was complete.")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise RequestTooLarge(f"The request body is larger than {limit} bytes.")
                parts.append(part)
            body = b"".join(parts)
        elif len(body) > limit:  # chunked, but arrived whole before we looked
            raise RequestTooLarge(f"The request body is larger than {limit} bytes.")
        if call.head.content_encoding:
            body = _decoded(body, call.head.content_encoding, limit)
        call.body = body


async def send_json(
    send: Send, request_id: str, value: object, more: Sequence[tuple[bytes, bytes]]
) -> None:
    """Answers with status 200 and ``value`` as JSON."""
    body = msgspec.json.encode(value)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"request-id", request_id.encode()),  # where the SDKs look for it
        (b"x-request-id", request_id.encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def path_of(scope: Scope) -> str:
    """The path below where the gateway is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


def query_of(scope: Scope) -> bytes:
    """The query as it came, with its question mark; a ``key`` parameter never goes upstream."""
    query: bytes = scope.get("query_string", b"")
    if b"key=" in query:
        query = b"&".join(part for part in query.split(b"&") if not part.startswith(b"key="))
    return b"?" + query if query else b""


def _decoded(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A compressed request body, decompressed within ``limit`` bytes."""
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding.decode('latin-1')!r} is not supported; "
            "send gzip, deflate or no encoding."
        )
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidRequest("The request body is not valid gzip or deflate data.") from None
    if len(plain) > limit:
        raise RequestTooLarge(f"The decompressed request body is larger than {limit} bytes.")
    if not inflater.eof:
        raise InvalidRequest("The compressed request body is incomplete.")
    return plain
