"""The Gemini door: generateContent, its stream, countTokens, embeddings, models; how it refuses.

Decides nothing. Gemini has the model and whether to stream in the path; behind the door they are in
the body, as in every other dialect.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import msgspec

from bifrost._fast import wire
from bifrost.call import Call, Dialect
from bifrost.doors import gemini_embeddings_ask
from bifrost.doors.door import Door, Handler, Headers, Receive, Scope, Send, send_json
from bifrost.doors.gemini_array import JsonArray
from bifrost.doors.gemini_ask import ask
from bifrost.doors.gemini_fields import Fields
from bifrost.errors import (
    BudgetExceeded,
    InvalidRequest,
    MethodNotAllowed,
    NotServed,
    Refusal,
    RequestLimited,
    RequestTooLarge,
)

PREFIX = "/genai/"
VERTEX = "/publishers/google/"  # Google's own models at Vertex AI: the same by another address
_PATH = re.compile(
    r"(?:/genai/v1(?:beta)?"
    r"|/vertex/v1(?:beta1)?(?:/projects/[^/]+/locations/[^/]+)?/publishers/google)"
    r"/models/(.+):(\w+)"
)
_MODELS = re.compile(r"/genai/v1(?:beta)?/models(?:/(.+))?")
_METHODS = {"generateContent": False, "streamGenerateContent": True}
_COUNT = "countTokens"
_EMBED = ("embedContent", "batchEmbedContents")
_MOST_DIGITS = 9  # of a page's size
# Gemini CLI asks again where it is told to wait for less than five minutes.
LEAST_WAIT_S = 301
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
# By the type of error that ends a stream: (code, status).
_BROKEN = {
    "authentication_error": (401, "UNAUTHENTICATED"),
    "permission_error": (403, "PERMISSION_DENIED"),
    "billing_error": (429, "RESOURCE_EXHAUSTED"),
    "rate_limit_error": (429, "RESOURCE_EXHAUSTED"),
    "not_found_error": (404, "NOT_FOUND"),
    "invalid_request_error": (400, "INVALID_ARGUMENT"),
    "policy_blocked": (400, "INVALID_ARGUMENT"),
}
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_SENSELESS = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def broken(message: str, request_id: str, kind: str) -> bytes:
    """What ends a stream that broke off: bare, no event; Google's clients look for it so."""
    code, status = _BROKEN.get(kind, (503, "UNAVAILABLE"))
    return b"%b\n\n" % _encode({"error": {"code": code, "message": message, "status": status}})


# Google's clients take a comment for the beginning of a chunk; empty lines they pass over.
GEMINI = Dialect("gemini", broken, b"\n\n")
EMBEDDINGS = Dialect("gemini_embeddings", broken, generates=False)


class GeminiDoor(Door):
    """Serves ``/genai/v1beta/...`` and ``/genai/v1/...``, and what Vertex AI's clients ask Google's
    own models; which project and place are asked is left to the configuration."""

    def handler(self, path: str) -> Handler:
        """What serves a path below the prefix, or one of Vertex AI's."""
        found = _PATH.fullmatch(path)
        if found and found[2] in _METHODS:
            return self.generate
        if found and found[2] == _COUNT:
            return self.count
        if found and found[2] in _EMBED:
            return self.embed
        return self.list_models if _MODELS.fullmatch(path) and not found else self.unknown

    def answer(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """A refusal as Google's APIs word it, in the form in which Gemini CLI shows it."""
        status, wait = refusal.gemini_status, refusal.retry_after
        error: dict[str, Any] = {
            "code": status,
            "message": str(refusal),
            "status": refusal.gemini_kind,
        }
        if isinstance(refusal, BudgetExceeded | RequestLimited):
            if not refusal.retryable:
                resets = (refusal.resets_at or 0) - int(time.time())
                wait = max(LEAST_WAIT_S, wait or 0, resets)
            error["details"] = [{"@type": _RETRY_INFO, "retryDelay": f"{wait or 1}s"}]
        body = _encode({"error": error})
        headers = [
            (b"content-type", b"application/json; charset=UTF-8"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"x-bf-error", refusal.code.encode()),
            (b"x-should-retry", b"true" if refusal.retryable else b"false"),
        ]
        if wait is not None:
            headers.append((b"retry-after", b"%d" % wait))
        if isinstance(refusal, RequestTooLarge):
            headers.append((b"connection", b"close"))
        return status, [*headers, *more], body

    def head(self, scope: Scope, call: Call) -> None:
        """Reads the head; a key may also stand in the query, behind all other places."""
        key = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("key")
        if key:
            line = (b"api-key", key[0].encode("latin-1", "replace"))
            scope = {**scope, "headers": [*scope["headers"], line]}
        super().head(scope, call)

    async def generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1beta/models/{model}:generateContent`` and ``:streamGenerateContent``."""
        call = Call("", receive)
        call.dialect = GEMINI
        model, method = _addressed(scope)
        stream = _METHODS[method]
        path = {"model": model, "stream": stream}
        try:
            self.head(scope, call)
            asked, as_it_was = await self._read(scope, call)
            with _sensible():
                call.scan = wire.scan(_encode(ask(asked | path)))
                members = _members(call.body) if as_it_was else asked
                call.body = _encode(members | path)
            if stream and _query(scope, "alt") != "sse":
                send = JsonArray(send)
            call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
            await self.pipeline.messages(call, send, b"")
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def count(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1beta/models/{model}:countTokens``, of contents or of a whole request."""
        call = Call("", receive)
        call.dialect = GEMINI
        model, _ = _addressed(scope)
        try:
            self.head(scope, call)
            asked, _ = await self._read(scope, call)
            with _sensible():
                asked = (asked.get("generateContentRequest") or asked) | {"model": model}
                call.scan = wire.scan(_encode(ask(asked)))
                call.body = _encode(asked)
            call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
            await self.pipeline.count_tokens(call, send, b"")
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def embed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1beta/models/{model}:embedContent`` and ``:batchEmbedContents``."""
        call = Call("", receive)
        call.dialect = EMBEDDINGS
        path = {"model": _addressed(scope)[0]}
        try:
            self.head(scope, call)
            asked, as_it_was = await self._read(scope, call)
            with _sensible():
                call.scan = wire.scan(_encode(gemini_embeddings_ask.ask(asked | path)))
                members = _members(call.body) if as_it_was else asked
                call.body = _encode(members | path)
            call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
            await self.pipeline.messages(call, send, b"")
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def _read(self, scope: Scope, call: Call) -> tuple[dict[str, Any], bool]:
        """Collects the body: (its members under one spelling, whether they were spelled so)."""
        if scope["method"] != "POST":
            raise MethodNotAllowed("Use POST on this path.")
        await self.body(call)
        fields = Fields()
        with _sensible():
            return fields.spelled(_decode(call.body)), not fields.changed

    async def list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1beta/models[/{model}]``: what this key may use; on one page, or on pages of
        ``pageSize``."""
        call = Call("", receive)
        found = _MODELS.search(scope["path"])
        name = found and found[1]
        try:
            self.head(scope, call)
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("Use GET on this path.")
            self.pipeline.governor.identify(call)
            talking = {model["id"] for model in self.models(call)}
            models = [
                _listed(model, (*_METHODS, _COUNT) if model["id"] in talking else _EMBED)
                for model in self.models(call, embeddings=True)
            ]
            told: object = _page(models, _query(scope, "pageSize"), _query(scope, "pageToken"))
            if name:
                told = next((one for one in models if one["name"] == f"models/{name}"), None)
                if told is None:
                    raise NotServed(f"There is no model {name!r} that this key may use.")
            await send_json(send, call.request_id, told, self.pipeline.budget(call))
        except Refusal as refusal:
            await self.refuse(send, refusal, call)


@contextmanager
def _sensible() -> Iterator[None]:
    """Raises InvalidRequest for what comes of a body that is no Gemini request."""
    try:
        yield
    except wire.WireError as error:
        raise InvalidRequest(f"The request body is not valid: {error}") from None
    except (*_SENSELESS, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"The request body is not valid: {error!r}") from None


def _addressed(scope: Scope) -> tuple[str, str]:
    """(model, method) of a path that ``handler`` gave to one of ours."""
    found = _PATH.search(scope["path"])
    assert found is not None
    return found[1], found[2]


def _query(scope: Scope, name: str) -> str | None:
    found = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(name)
    return found[0] if found else None


def _page(models: list[dict[str, Any]], size: str | None, token: str | None) -> dict[str, Any]:
    """The page behind the model that ``token`` names. Raises InvalidRequest.

    All models are on it where no size is asked for: agents do not turn pages.
    """
    if size and not (size.isascii() and size.isdigit() and len(size) <= _MOST_DIGITS):
        raise InvalidRequest("pageSize: expected a number of models, 0 for all.")
    first = 0
    if token:
        before = [at for at, one in enumerate(models) if one["name"] == token]
        if not before:
            raise InvalidRequest("pageToken: not one of this list; begin again without it.")
        first = before[0] + 1
    shown = models[first : first + (int(size or 0) or len(models))]
    more = first + len(shown) < len(models)
    return {"models": shown} | ({"nextPageToken": shown[-1]["name"]} if more else {})


def _listed(model: dict[str, Any], methods: tuple[str, ...]) -> dict[str, Any]:
    """A model in the shape of Gemini's list, with what it can be asked by."""
    return {
        "name": f"models/{model['id']}",
        "baseModelId": model["id"],
        "version": "1",
        "displayName": model["display_name"],
        "inputTokenLimit": model["max_input_tokens"],
        "outputTokenLimit": model["max_tokens"],
        "supportedGenerationMethods": methods,
    }
