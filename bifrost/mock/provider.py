"""From a whole request to a reply: routes, credentials, faults, and the provider's own account."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock import (
    anthropic,
    converse,
    embeddings,
    gemini,
    gemini_embeddings,
    openai,
    responses,
)
from bifrost.mock.account import Account, RequestLog
from bifrost.mock.exchange import Reply, Request, plain_reply
from bifrost.mock.options import MockOptions
from bifrost.mock.plan import Plan, default_plan, steered_plan
from bifrost.mock.script import Script

Handler = Callable[[Request, Plan, Script | None, str], Reply]
_ROUTES_KEPT = 4096


class Dialect(NamedTuple):
    """What every dialect has: who is let in, how errors look, which models are listed."""

    name: str
    credential: Callable[[Request], str | None]
    error: Callable[[int, str, Plan | None], Reply]
    models: Handler


ANTHROPIC = Dialect("anthropic", anthropic.credential, anthropic.error, anthropic.models)
OPENAI = Dialect("openai", openai.credential, openai.error, openai.models)
GEMINI = Dialect("gemini", gemini.credential, gemini.error, gemini.models)
CONVERSE = Dialect("converse", converse.credential, converse.error, converse.models)


class Route(msgspec.Struct, frozen=True):
    """Where a target leads. ``model`` is the name in the path; ``inference``: faults apply."""

    dialect: Dialect
    handler: Handler
    path: str
    method: bytes = b"POST"
    model: str = ""
    inference: bool = False


_POSTS: tuple[tuple[str, Dialect, Handler, bool], ...] = (
    ("/v1/messages", ANTHROPIC, anthropic.messages, True),
    ("/v1/messages/count_tokens", ANTHROPIC, anthropic.count_tokens, False),
    ("/chat/completions", OPENAI, openai.chat, True),
    ("/responses", OPENAI, responses.respond, True),
    ("/embeddings", OPENAI, embeddings.embed, True),
    ("/responses/input_tokens", OPENAI, responses.count_tokens, False),
)
_GEMINI_CALLS: dict[str, tuple[Handler, bool]] = {
    "generateContent": (gemini.generate, True),
    "streamGenerateContent": (gemini.stream, True),
    "countTokens": (gemini.count_tokens, False),
    "embedContent": (gemini_embeddings.embed, True),
    "batchEmbedContents": (gemini_embeddings.batch, True),
}
_CONVERSE_CALLS: dict[str, tuple[Handler, bool]] = {
    "converse": (converse.converse, True),
    "converse-stream": (converse.stream, True),
    "count-tokens": (converse.count_tokens, False),
}
_CONVERSE_PATH = re.compile(r".*/model/(.+)/([a-z-]+)$")
_GEMINI_PATH = re.compile(r".*/models/([^/:]+):(\w+)$")
_MODELS_PATH = re.compile(r".*/(v1|v1beta)/models(?:/([^/:]+(?:/[^/:]+)?))?$")


def find_route(target: bytes) -> Route | None:
    """The route of a request target; any prefix may stand before the provider's own path."""
    path = unquote(target.partition(b"?")[0].decode("latin-1"))
    for suffix, dialect, handler, inference in _POSTS:
        if path.endswith(suffix):
            return Route(dialect, handler, path, inference=inference)
    if (found := _GEMINI_PATH.match(path)) and found[2] in _GEMINI_CALLS:
        handler, inference = _GEMINI_CALLS[found[2]]
        return Route(GEMINI, handler, path, model=found[1], inference=inference)
    if (found := _CONVERSE_PATH.match(path)) and found[2] in _CONVERSE_CALLS:
        handler, inference = _CONVERSE_CALLS[found[2]]
        return Route(CONVERSE, handler, path, model=found[1], inference=inference)
    if found := _MODELS_PATH.match(path):
        dialect = GEMINI if found[1] == "v1beta" else OPENAI
        return Route(dialect, dialect.models, path, b"GET", found[2] or "")
    return None


class Provider:
    """One mock provider: answers requests and knows what it has been asked."""

    def __init__(self, options: MockOptions) -> None:
        self.account = Account(bills=_records(options))
        self.log = RequestLog(options.record_bodies) if _records(options) else None
        self._plan = default_plan(options)
        self._script = Script(options.tool_command) if options.script == "tool" else None
        self._routes: dict[bytes, Route] = {}
        self._streams_only = options.streams_only
        self._fail = options.fail
        self._fail_rate = Fraction(options.fail_rate).limit_denominator(1_000_000)
        self._inferences = 0

    def answer(self, request: Request) -> Reply:
        """The reply to one request, still to be booked when it has been sent.

        A reply without a ``path`` belongs in no account.
        """
        route = self._routes.get(request.target)
        if route is None:
            if request.target.startswith(b"/__mock/"):
                return self._control(request)
            route = find_route(request.target)
        if self.log is not None:
            self.log.add(request.method, request.target, request.pairs or [], request.body)
        if route is None:
            return self._astray(request)
        if len(self._routes) >= _ROUTES_KEPT:
            self._routes.clear()
        self._routes[request.target] = route
        reply = self._serve(request, route)
        reply.dialect = route.dialect.name
        reply.path = route.path
        reply.request_id = request.headers.get(b"x-request-id", b"")
        return reply

    def _serve(self, request: Request, route: Route) -> Reply:
        dialect, handler = route.dialect, route.handler
        if request.method != route.method:
            if request.method == b"HEAD":
                return plain_reply(b"")
            return dialect.error(405, "Method Not Allowed", None)
        if route.method == b"GET":
            dialect = _models_dialect(request, dialect)
            handler = dialect.models
        if (missing := dialect.credential(request)) is not None:
            return dialect.error(401, missing, None)
        plan = self._plan
        try:
            if request.steered:
                plan = steered_plan(plan, request.headers)
            status = self._failure(request, plan) if route.inference else 0
            if status:
                reply = dialect.error(status, f"mock provider: failing with {status}", plan)
                reply.model = route.model or _named(request).model
            elif self._streams_only and route.inference and not _streams(request, dialect):
                reply = dialect.error(400, "Stream must be set to true", None)
            else:
                reply = handler(request, plan, self._script, route.model)
        except InvalidRequest as refusal:
            return dialect.error(400, str(refusal), None)
        except (UnicodeDecodeError, RecursionError) as error:
            return dialect.error(400, f"The request body is not valid JSON: {error}", None)
        if route.inference and not plan.immediate:
            reply.plan = plan
        return reply

    def _failure(self, request: Request, plan: Plan) -> int:
        """The status this inference request is to fail with, or 0."""
        if request.steered and b"x-mock-fail" in request.headers:
            return plan.fail
        if not self._fail:
            return 0
        self._inferences += 1
        now = int(self._inferences * self._fail_rate)
        before = int((self._inferences - 1) * self._fail_rate)
        return self._fail if now > before else 0

    def _astray(self, request: Request) -> Reply:
        if request.method == b"HEAD":
            return plain_reply(b"")
        target = request.target.decode("latin-1")
        return ANTHROPIC.error(404, f"mock provider: nothing at {target}", None)

    def _control(self, request: Request) -> Reply:
        path, _, query = request.target.decode("latin-1").partition("?")
        method = request.method
        if path == "/__mock/account" and method == b"GET":
            return plain_reply(msgspec.json.encode(self.account.statement()))
        if path in ("/__mock/requests", "/__mock/bills") and method == b"GET":
            last = parse_qs(query).get("last", ["1000"])[-1]
            if not last.isdigit():
                return plain_reply(b'{"error":"last must be a number"}', 400)
            shown: dict[str, object] = {"recording": self.log is not None}
            if path == "/__mock/bills":
                shown["bills"] = self.account.bills(int(last))
            else:
                shown["requests"] = self.log.last(int(last)) if self.log is not None else []
            return plain_reply(msgspec.json.encode(shown))
        if path == "/__mock/reset" and method == b"POST":
            self.account.clear()
            self._inferences = 0
            if self.log is not None:
                self.log.clear()
            return plain_reply(b"{}")
        return plain_reply(b'{"error":"no such control path or method"}', 404)


def _records(options: MockOptions) -> bool:
    return options.record or options.record_bodies


class _Named(msgspec.Struct):
    model: str = ""
    stream: bool | None = False


def _named(request: Request) -> _Named:
    """The model a body names, "" if it names none, and whether it asks for a stream."""
    try:
        return msgspec.json.decode(request.content(), type=_Named)
    except (msgspec.DecodeError, InvalidRequest, UnicodeDecodeError, RecursionError):
        return _Named()


def _streams(request: Request, dialect: Dialect) -> bool:
    """Whether a host that only streams takes it."""
    return dialect is not OPENAI or bool(_named(request).stream)


def _models_dialect(request: Request, dialect: Dialect) -> Dialect:
    """Model lists of /v1 look like the caller's dialect."""
    if b"anthropic-version" in request.headers or b"x-api-key" in request.headers:
        return ANTHROPIC
    return GEMINI if b"x-goog-api-key" in request.headers else dialect
