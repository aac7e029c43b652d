"""The Anthropic Messages door: its paths, how it reads a request, how it words a refusal.

Plain ASGI on the hot routes, no framework objects. Decides nothing.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from bifrost._fast import wire
from bifrost.call import Call, new_request_id
from bifrost.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotServed,
    Refusal,
    RequestTooLarge,
    UnsupportedEncoding,
)
from bifrost.pipeline import MESSAGES, Pipeline
from bifrost.proxies import Proxies

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


def error_body(kind: str, message: str, request_id: str) -> bytes:
    """An error as the Anthropic API words it."""
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": request_id,
        }
    )


def broken_event(message: str, request_id: str, kind: str = "api_error") -> bytes:
    """The SSE event that tells a client its stream broke off; it asks again, not streamed."""
    return b"event: error\ndata: " + error_body(kind, message, request_id) + b"\n\n"


Headers = list[tuple[bytes, bytes]]


def refusal_answer(
    refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, Headers, bytes]:
    """(status, headers, body) of a refusal in this dialect, with ``more`` headers."""
    body = error_body(refusal.kind, str(refusal), request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"request-id", request_id.encode()),  # where the SDKs look for it
        (b"x-request-id", request_id.encode()),
        (b"x-bf-error", refusal.code.encode()),
        (b"x-should-retry", b"true" if refusal.retryable else b"false"),
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    headers += more
    if isinstance(refusal, RequestTooLarge):
        headers.append((b"connection", b"close"))
    return refusal.status, headers, body


class AnthropicDoor:
    """Serves ``/anthropic/v1/...`` and the same without the prefix."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: Callable[[Call], list[dict[str, Any]]],
        proxies: Proxies,
        refused: Callable[[str], None],
        *,
        max_body_bytes: int,
    ) -> None:
        """``models(call)`` lists what the key of an identified call may use; ``proxies`` say whom
        events name as its client; ``refused(code)`` is told of every refusal."""
        self.pipeline = pipeline
        self.models = models
        self.proxies = proxies
        self._refused = refused
        self.max_body_bytes = max_body_bytes

    def routes(self) -> dict[str, Handler]:
        """Exact path -> handler, for the app's table."""
        table: dict[str, Handler] = {}
        for prefix in ("/anthropic", ""):
            table[f"{prefix}/v1/messages"] = self.messages
            table[f"{prefix}/v1/messages/count_tokens"] = self.count_tokens
            table[f"{prefix}/v1/models"] = self.list_models
        for probe in ("/anthropic", "/anthropic/", "/anthropic/api/hello", "/api/hello"):
            table[probe] = self.probe
        return table

    @staticmethod
    def hot() -> dict[bytes, bytes]:
        """Paths whose usual requests the compiled listener serves -> the provider's path."""
        return {b"/anthropic/v1/messages": MESSAGES, b"/v1/messages": MESSAGES}

    def refusal(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """The answer to a request that is refused now: (status, headers, body)."""
        self._refused(refusal.code)
        return refusal_answer(refusal, request_id, more)

    async def _refuse(self, send: Send, refusal: Refusal, call: Call) -> None:
        more = self.pipeline.budget(call)
        status, headers, body = self.refusal(refusal, call.request_id, more)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/messages``."""
        await self._serve(scope, receive, send, self.pipeline.messages)

    async def count_tokens(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/messages/count_tokens``."""
        await self._serve(scope, receive, send, self.pipeline.count_tokens)

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        handler: Callable[[Call, Send, bytes], Awaitable[None]],
    ) -> None:
        call = Call("", receive)
        try:
            self._head(scope, call)
            if scope["method"] != "POST":
                raise MethodNotAllowed("Use POST on this path.")
            await self._body(call)
            call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
            await handler(call, send, _query(scope))
        except Refusal as refusal:
            await self._refuse(send, refusal, call)

    def _head(self, scope: Scope, call: Call) -> None:
        call.client = self.proxies.recorded(scope)
        try:
            head = call.head = wire.read_head(scope["headers"])
        except wire.WireError as error:
            call.request_id = new_request_id()
            raise InvalidRequest(f"The request's headers are malformed: {error}") from None
        call.request_id = head.request_id.decode() if head.request_id else new_request_id()

    async def _body(self, call: Call) -> None:
        """Collects the body (within the limit, decoded) and scans it."""
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
        try:
            call.scan = wire.scan(body)
        except wire.WireError as error:
            raise InvalidRequest(f"The request body is not valid: {error}") from None

    async def list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/models[/{id}]``: what this key may use."""
        call = Call("", receive)
        try:
            self._head(scope, call)
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("Use GET on this path.")
            self.pipeline.governor.identify(call)
            models = self.models(call)
            name = scope["path"].partition("/v1/models/")[2]
            if name:
                found = [model for model in models if model["id"] == name]
                if not found:
                    raise NotServed(f"There is no model {name!r} that this key may use.")
                await _json(send, call.request_id, found[0], self.pipeline.budget(call))
                return
            page = {
                "data": models,
                "has_more": False,
                "first_id": models[0]["id"] if models else None,
                "last_id": models[-1]["id"] if models else None,
            }
            await _json(send, call.request_id, page, self.pipeline.budget(call))
        except Refusal as refusal:
            await self._refuse(send, refusal, call)

    async def probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The start-up probes of Claude Code, sent without credentials."""
        if scope["method"] != "HEAD":
            await self.unknown(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any other path below this door."""
        call = Call("", receive)
        try:
            self._head(scope, call)
            raise NotServed(f"This gateway does not serve {scope['path']}.")
        except Refusal as refusal:
            await self._refuse(send, refusal, call)


async def _json(
    send: Send, request_id: str, value: object, more: Sequence[tuple[bytes, bytes]]
) -> None:
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


def _query(scope: Scope) -> bytes:
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
