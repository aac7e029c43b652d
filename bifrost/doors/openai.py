"""The OpenAI door: Chat Completions, Responses, embeddings, models; how it words a refusal.

Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bifrost._fast import wire
from bifrost.call import Call, Dialect
from bifrost.doors import chat_ask, embeddings_ask, responses_ask
from bifrost.doors.door import Door, Handler, Headers, Receive, Scope, Send, query_of, send_json
from bifrost.errors import (
    BudgetExceeded,
    InvalidRequest,
    MethodNotAllowed,
    NotServed,
    Refusal,
    RequestLimited,
    RequestTooLarge,
    UpgradeRequired,
)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_RETRY_S = 5  # where a refusal that is worth another try names no time
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_SENSELESS = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
Ask = Callable[[dict[str, Any]], dict[str, Any]]


def chat_broken(message: str, request_id: str, kind: str) -> bytes:
    """The line that ends a Chat stream which broke off."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return b"data: %b\n\n" % _encode({"error": error})


def responses_broken(message: str, request_id: str, kind: str) -> bytes:
    """The event that ends a Responses stream which broke off; for a refusal Codex asks no more."""
    code = "server_error" if kind == "api_error" else "invalid_prompt"
    response = {"id": request_id, "object": "response", "status": "failed", "output": [],
                "error": {"code": code, "message": message}}  # fmt: skip
    told = {"type": "response.failed", "sequence_number": 0, "response": response}
    return b"event: response.failed\ndata: %b\n\n" % _encode(told)


CHAT = Dialect("chat", chat_broken)
RESPONSES = Dialect("responses", responses_broken)
EMBEDDINGS = Dialect("embeddings", chat_broken, generates=False)


class OpenAIDoor(Door):
    """Serves ``/openai/v1/...``, and all but the models without the prefix.

    ``help_url()``: the page for people whose budget is used up, if there is one.
    """

    help_url: Callable[[], str | None] = staticmethod(lambda: None)

    def routes(self) -> dict[str, Handler]:
        """Exact path -> handler, for the app's table."""
        table: dict[str, Handler] = {}
        for prefix in ("/openai", ""):
            table[f"{prefix}/v1/chat/completions"] = self.chat
            table[f"{prefix}/v1/responses"] = self.responses
            table[f"{prefix}/v1/embeddings"] = self.embeddings
            table[f"{prefix}/v1/responses/input_tokens"] = self.count_tokens
        table["/openai/v1/models"] = self.list_models
        return table

    def answer(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """A refusal as OpenAI's API words it, in the form in which Codex shows its sentence."""
        status = refusal.openai_status
        error: dict[str, Any] = {
            "message": str(refusal),
            "type": _TYPES.get(
                status, "server_error" if status >= 500 else "invalid_request_error"
            ),
            "param": None,
            "code": refusal.openai_code or refusal.code,
        }
        wait = refusal.retry_after
        spent = isinstance(refusal, BudgetExceeded)
        if spent or (isinstance(refusal, RequestLimited) and wait and not refusal.retryable):
            resets = refusal.resets_at or int(time.time()) + (wait or 0)
            error |= {"type": "usage_limit_reached", "resets_at": resets}
        elif wait is None and refusal.retryable:
            wait = _RETRY_S
        body = _encode({"error": error})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"x-bf-error", refusal.code.encode()),
            (b"x-should-retry", b"true" if refusal.retryable else b"false"),
        ]
        if wait is not None:
            headers.append((b"retry-after", b"%d" % wait))
        url = self.help_url()
        if spent and url:
            headers.append((b"x-codex-promo-message", f"Ask at {url}".encode("latin-1", "replace")))
        if isinstance(refusal, RequestTooLarge):
            headers.append((b"connection", b"close"))
        return status, [*headers, *more], body

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/chat/completions``."""
        await self._serve(scope, receive, send, CHAT, chat_ask.ask)

    async def responses(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/responses``; its form over a WebSocket is not served."""
        await self._serve(scope, receive, send, RESPONSES, responses_ask.ask)

    async def embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/embeddings``."""
        await self._serve(scope, receive, send, EMBEDDINGS, embeddings_ask.ask)

    async def count_tokens(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/responses/input_tokens``."""
        await self._serve(scope, receive, send, RESPONSES, _counted, counts=True)

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        dialect: Dialect,
        ask: Ask,
        *,
        counts: bool = False,
    ) -> None:
        call = Call("", receive)
        call.dialect = dialect
        try:
            self.head(scope, call)
            if scope["method"] != "POST":
                if any(name == b"sec-websocket-key" for name, _ in scope["headers"]):
                    raise UpgradeRequired("WebSockets are not served here: use POST.")
                raise MethodNotAllowed("Use POST on this path.")
            await self.body(call)
            call.scan = _scanned(call.body, ask)
            call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
            serve = self.pipeline.count_tokens if counts else self.pipeline.messages
            await serve(call, send, query_of(scope))
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/models[/{id}]``: what this key may use."""
        call = Call("", receive)
        try:
            self.head(scope, call)
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("Use GET on this path.")
            self.pipeline.governor.identify(call)
            models = [_listed(model) for model in self.models(call, embeddings=True)]
            name = scope["path"].partition("/v1/models/")[2]
            told: object = {"object": "list", "data": models}
            if name:
                told = next((model for model in models if model["id"] == name), None)
                if told is None:
                    raise NotServed(f"There is no model {name!r} that this key may use.")
            await send_json(send, call.request_id, told, self.pipeline.budget(call))
        except Refusal as refusal:
            await self.refuse(send, refusal, call)


def _counted(asked: dict[str, Any]) -> dict[str, Any]:
    """What is to be counted may be all in the instructions and tools."""
    return responses_ask.ask({"input": [], **asked})


def _scanned(body: bytes, ask: Ask) -> wire.Scan:
    """What governance reads of a body. Raises InvalidRequest, FieldBlocked."""
    try:
        return wire.scan(_encode(ask(_decode(body))))
    except wire.WireError as error:
        raise InvalidRequest(f"The request body is not valid: {error}") from None
    except (*_SENSELESS, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"The request body is not valid: {error!r}") from None


def _listed(model: dict[str, Any]) -> dict[str, Any]:
    """A model in the shape of OpenAI's list, with the sizes that Anthropic's has."""
    return {
        "id": model["id"],
        "object": "model",
        "created": 0,
        "owned_by": "bifrost",
        "context_window": model["max_input_tokens"],
        "max_output_tokens": model["max_tokens"],
    }
