"""What goes wrong in the REST API, as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

TYPE = "application/problem+json"
CODES: dict[int, tuple[str, ...]] = {
    400: ("invalid_request",),
    401: ("admin_token_required", "virtual_key_required", "virtual_key_not_found"),
    403: ("forbidden", "virtual_key_blocked"),
    404: ("not_found",),
    405: ("method_not_allowed",),
    409: ("conflict", "idempotency_key_reused"),
    412: ("precondition_failed",),
    413: ("request_too_large",),
    415: ("unsupported_media_type",),
    422: ("invalid_body",),
    429: ("too_many_attempts",),
    500: ("internal_error",),
    503: ("gateway_unavailable",),
}


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong in a request and where: a path as ``budgets[0].max_limit``."""

    path: str
    problem: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457: ``code`` is stable, ``detail`` is for people, ``errors`` name the places."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: tuple[Finding, ...] = ()


class Problem(Exception):
    """A request that is not fulfilled. ``headers`` are added to the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str | None = None,
        errors: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code or CODES[status][0]
        self.errors = tuple(Finding(path, problem) for path, problem in errors)
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> Response:
        """The problem as it is answered."""
        document = ProblemDocument(
            type="about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            code=self.code,
            request_id=request_id,
            errors=self.errors,
        )
        body = msgspec.json.encode(document)
        return Response(body, self.status, headers=self.headers, media_type=TYPE)


def invalid(status: int, errors: Iterable[tuple[str, str]]) -> Problem:
    """A request of which these places are wrong; the sentence names the first."""
    found = list(errors)
    place, problem = found[0]
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    sentence = f"{place or 'The body'}: {problem}{more}"
    return Problem(status, sentence if sentence.endswith("?") else f"{sentence}.", errors=found)
