"""The API as an ASGI app: finds the operation, lets in, reads, does it in a thread, answers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote

import msgspec
from msgspec import UNSET
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bifrost._fast.gate import GateError
from bifrost.admin import (
    alerts,
    audit_logs,
    budgets,
    holds,
    landscape,
    openapi,
    people,
    prices,
    queries,
    quota,
    reports,
    verification,
)
from bifrost.admin.access import Access
from bifrost.admin.problems import Problem
from bifrost.admin.table import OWN_KEY, PUBLIC, Ask, House, Operation, Reply
from bifrost.audit import events
from bifrost.audit.arrivals import Arrivals
from bifrost.audit.policy import acting
from bifrost.call import new_request_id
from bifrost.config import documents
from bifrost.errors import (
    BifrostError,
    Conflict,
    GatewayUnavailable,
    NotFound,
    Reused,
    StoreError,
)

log = logging.getLogger("bifrost.admin")
MOST_BYTES = 1 << 20
RETRY_S = "5"
ADMIN = "admin"  # who has the admin token
JSON = "application/json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_WITH_BODY = ("POST", "PUT")


def operations() -> list[Operation]:
    """The route table."""
    rows = [
        *quota.operations(),
        *people.operations(),
        *budgets.operations(),
        *prices.operations(),
        *landscape.operations(),
        *reports.operations(),
        *alerts.operations(),
        *audit_logs.operations(),
        *holds.operations(),
        *verification.operations(),
    ]
    return [*rows, openapi.operation(rows)]


class Api:
    """Serves ``/api`` for one process."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._access = Access(house.directory)
        self._arrivals = Arrivals()
        self._paths: dict[tuple[str, ...], dict[str, Operation]] = {}
        for row in operations():
            self._paths.setdefault(row.segments, {})[row.method] = row

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_request_id()
        try:
            response = await self._answer(request, request_id)
        except Problem as problem:
            response = problem.response(request_id)
        except ClientDisconnect:
            return
        except Exception as error:
            response = _failure(error).response(request_id)
        response.headers["x-request-id"] = request_id
        response.headers["cache-control"] = "no-store"
        if request.method == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> Response:
        root, segments = _split(request.scope)
        methods, params = self._find(segments)
        operation = methods.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            allowed = sorted({*methods, "HEAD"} if "GET" in methods else methods)
            raise Problem(
                405,
                f"This path takes {' or '.join(sorted(methods))}.",
                headers={"allow": ", ".join(allowed)},
            )
        await self._let_in(operation, request, request_id)
        document = await _document(request) if request.method in _WITH_BODY else UNSET
        ask = Ask(
            operation=operation,
            path="/" + "/".join(quote(part, safe="") for part in segments),
            root=root,
            params=params,
            query=queries.read(operation.query, request.scope["query_string"]),
            headers=request.headers,
            raw_headers=request.scope["headers"],
            document=document,
            request_id=request_id,
            client=said.decode() if (said := self._house.client(request.scope)) else None,
        )
        if operation.body is not None and document is UNSET:
            raise Problem(400, "This needs a body: a JSON object.")
        try:
            reply = await run_in_threadpool(self._done, ask)
        except Problem as problem:
            if operation.permission == OWN_KEY and problem.status in (401, 403):
                await self._tell(operation, request, request_id, problem)
            raise
        if reply.lines is not None:
            if request.method == "HEAD":
                return Response(media_type=operation.media)
            return StreamingResponse(reply.lines, media_type=operation.media)
        return _response(reply)

    async def _let_in(self, operation: Operation, request: Request, request_id: str) -> None:
        """Raises the Problem that keeps a request out; who comes is recorded either way."""
        client = request.client
        try:
            self._access.require(operation, request.headers, client.host if client else "")
        except Problem as problem:
            await self._tell(operation, request, request_id, problem)
            raise
        if operation.permission not in (PUBLIC, OWN_KEY):
            await self._tell(operation, request, request_id, None)

    async def _tell(
        self, operation: Operation, request: Request, request_id: str, problem: Problem | None
    ) -> None:
        """Records that a request was let in or kept out before it is answered.

        What is repeated within a minute is only counted. Raises StoreError.
        """
        client, told = self._house.client(request.scope), events.Authentication
        event = self._arrivals.note(
            told(
                at=time.time_ns(), door="api", request=request_id,
                client=client.decode() if client else None, outcome="allowed", actor=ADMIN,
            )
            if problem is None
            else told(
                at=time.time_ns(), door="api", request=request_id,
                client=client.decode() if client else None, outcome="refused", code=problem.code,
                what=operation.name,
            )
        )  # fmt: skip
        if event is None:
            return
        try:
            await run_in_threadpool(self._house.recorder.put, event, "request")
        except (StoreError, GateError):
            self._arrivals.forget(event)
            raise

    async def tell(self, *, everything: bool = False) -> None:
        """Records what was only counted; to be called about once a second."""
        for event in self._arrivals.due(everything=everything):
            try:
                await run_in_threadpool(self._house.recorder.put, event)
            except (StoreError, GateError) as error:
                log.error("who came is not recorded", extra={"error": str(error)})

    def _done(self, ask: Ask) -> Reply:
        with acting(ADMIN, f"request {ask.request_id}", ask.client):
            return ask.operation.handler(self._house, ask)

    def _find(self, segments: Sequence[str]) -> tuple[Mapping[str, Operation], dict[str, str]]:
        """The operations of a path, fixed parts before open ones from the left; or Problem 404."""
        best: tuple[str, ...] | None = None
        for template in self._paths:
            if len(template) == len(segments) and all(
                part[0] == "{" or part == given
                for part, given in zip(template, segments, strict=True)
            ):
                if best is None or _open(template) < _open(best):
                    best = template
        if best is None or "" in segments:
            raise Problem(404, "There is nothing at this path; /api/openapi.json lists all paths.")
        pairs = zip(best, segments, strict=True)
        params = {part[1:-1]: given for part, given in pairs if part[0] == "{"}
        return self._paths[best], params


def _open(template: tuple[str, ...]) -> list[bool]:
    return [part[0] == "{" for part in template]


def _split(scope: Scope) -> tuple[str, list[str]]:
    """Where we are mounted, and the parts of the path below; a part may hold a coded slash."""
    root = scope.get("root_path", "")
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else quote(scope["path"])
    path = path.partition("?")[0]
    if root and unquote(path).startswith(root):
        path = path[len(quote(root)) :] if path.startswith(quote(root)) else path[len(root) :]
    return root, [unquote(part) for part in path.removeprefix("/").split("/")]


async def _document(request: Request) -> object:
    """The body's JSON, or UNSET without a body; raises Problem 400, 413 or 415."""
    body = bytearray()
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > MOST_BYTES:
        raise _too_large()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise _too_large()
    if not body:
        return UNSET
    _require_json(request.headers)
    try:
        return documents.from_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Problem(400, f"The body is not UTF-8 text (byte {error.start}).") from None
    except RecursionError:
        raise Problem(400, "The body is nested too deeply.") from None
    except ValueError as error:
        text = str(error)
        if not text.startswith("not valid JSON"):  # a number that Python does not take
            text = "not valid JSON: a number has too many digits"
        raise Problem(400, f"The body is {text}.") from None


def _too_large() -> Problem:
    return Problem(
        413,
        f"The body is larger than {MOST_BYTES} bytes.",
        headers={"connection": "close"},
    )


def _require_json(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Problem(415, "Send the body as 'Content-Type: application/json'.")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(415, "Send the body without a Content-Encoding.")


def _response(reply: Reply) -> Response:
    if reply.status in (204, 304):
        return Response(status_code=reply.status, headers=reply.headers)
    body = reply.raw if reply.raw is not None else msgspec.json.encode(reply.value)
    return Response(body, reply.status, headers=reply.headers, media_type=JSON)


def _failure(error: Exception) -> Problem:
    """A failure of the rooms below, as a problem."""
    text = str(error)
    match error:
        case NotFound():
            return Problem(404, text)
        case Reused():
            return Problem(409, text, code="idempotency_key_reused")
        case Conflict():
            return Problem(409, text)
        case StoreError() | GatewayUnavailable() | GateError() | OSError():
            log.error("the admin API cannot use a store", extra={"error": text})
            return Problem(503, text, headers={"retry-after": RETRY_S})
        case BifrostError():
            return Problem(400, text)
    log.error("a request to the admin API failed", exc_info=error)
    return Problem(500, "The gateway failed; its log says why.")
