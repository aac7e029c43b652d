"""The Anthropic Messages door: its paths, how it reads a request, how it words a refusal.

Plain ASGI on the hot routes, no framework objects. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from bifrost._fast import wire
from bifrost.call import Call
from bifrost.doors.door import Door, Handler, Headers, Receive, Scope, Send, query_of, send_json
from bifrost.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotServed,
    Refusal,
    RequestTooLarge,
)
from bifrost.pipeline import MESSAGES


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


class AnthropicDoor(Door):
    """Serves ``/anthropic/v1/...`` and the same without the prefix."""

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

    def answer(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """A refusal as the Anthropic API words it."""
        return refusal_answer(refusal, request_id, more)

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
            self.head(scope, call)
            if scope["method"] != "POST":
                raise MethodNotAllowed("Use POST on this path.")
            await self._scanned(call)
            call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
            await handler(call, send, query_of(scope))
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def _scanned(self, call: Call) -> None:
        """Collects the body and scans it."""
        await self.body(call)
        try:
            call.scan = wire.scan(call.body)
        except wire.WireError as error:
            raise InvalidRequest(f"The request body is not valid: {error}") from None

    async def list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/models[/{id}]``: what this key may use."""
        call = Call("", receive)
        try:
            self.head(scope, call)
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("Use GET on this path.")
            self.pipeline.governor.identify(call)
            models = self.models(call)
            name = scope["path"].partition("/v1/models/")[2]
            if name:
                found = [model for model in models if model["id"] == name]
                if not found:
                    raise NotServed(f"There is no model {name!r} that this key may use.")
                await send_json(send, call.request_id, found[0], self.pipeline.budget(call))
                return
            page = {
                "data": models,
                "has_more": False,
                "first_id": models[0]["id"] if models else None,
                "last_id": models[-1]["id"] if models else None,
            }
            await send_json(send, call.request_id, page, self.pipeline.budget(call))
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The start-up probes of Claude Code, sent without credentials."""
        if scope["method"] != "HEAD":
            await self.unknown(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
