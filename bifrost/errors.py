"""Everything the gateway refuses or fails with: one tree, one row per case of the contract.

A leaf: imports nothing of bifrost. Each class carries its HTTP status and error type for every
door, its stable ``code`` and whether a client may retry. Doors render; nobody else decides forms.
"""

from __future__ import annotations

from typing import ClassVar


class BifrostError(Exception):
    """Any failure of this package; its text is one sentence that says what to do."""


class ConfigError(BifrostError):
    """The configuration cannot be used; the text names the path in the file and the problem."""


class PriceError(ConfigError):
    """A price cannot be used: ``place`` is the path of what is wrong, ``problem`` says what."""

    def __init__(self, where: str, place: str, problem: str) -> None:
        super().__init__(f"{where}: {place + ': ' if place else ''}{problem}")
        self.place = place
        self.problem = problem


class StoreError(BifrostError):
    """A store cannot be opened, read or written; the text names the file and the remedy."""


class NotFound(BifrostError):
    """A named customer, team, user, key or model does not exist."""


class Conflict(BifrostError):
    """The change contradicts what is stored (a name in use, a parent that still has children)."""


class Stale(Conflict):
    """What should be changed is not any more what the caller saw."""


class BadRows(Conflict):
    """Rows of a batch that cannot be stored: ``rows`` are (position in the batch, why)."""

    def __init__(self, rows: list[tuple[int, str]]) -> None:
        super().__init__(f"{len(rows)} of the rows cannot be stored; the first: {rows[0][1]}")
        self.rows = rows


class Reused(Conflict):
    """An idempotency key that was used for another request."""


class UpstreamError(BifrostError):
    """A provider could not be reached or broke off. ``sent`` tells if it may have begun to work."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class Refusal(BifrostError):
    """A request that does not pass. ``str(refusal)`` is the sentence shown to the person.

    Attributes
    ----------
    code: stable name of the case, also sent as ``x-bf-error``.
    status: HTTP status on the Anthropic door; ``openai_status`` and ``gemini_status`` on those.
    kind: Anthropic ``error.type``.
    retryable: whether ``x-should-retry`` says true.
    retry_after: seconds until a retry can succeed, or None.
    key: id of the virtual key, where one was recognised but lets nobody in.
    level, resets_at: for limits: which level refused and the Unix second of its reset.
    """

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 400
    kind: ClassVar[str] = "invalid_request_error"
    openai_status: ClassVar[int] = 400
    openai_code: ClassVar[str | None] = None
    gemini_status: ClassVar[int] = 400
    gemini_kind: ClassVar[str] = "INVALID_ARGUMENT"
    retryable: bool = False
    key: str | None = None

    def __init__(
        self,
        message: str,
        *,
        retry_after: int | None = None,
        level: str | None = None,
        resets_at: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.level = level
        self.resets_at = resets_at


class VirtualKeyRequired(Refusal):
    code = "virtual_key_required"
    status = openai_status = gemini_status = 401
    kind = "authentication_error"
    gemini_kind = "UNAUTHENTICATED"


class VirtualKeyNotFound(Refusal):
    code = "virtual_key_not_found"
    status = openai_status = gemini_status = 401
    kind = "authentication_error"
    gemini_kind = "UNAUTHENTICATED"


class VirtualKeyBlocked(Refusal):
    code = "virtual_key_blocked"
    status = openai_status = gemini_status = 403
    kind = "permission_error"
    gemini_kind = "PERMISSION_DENIED"


class ProviderBlocked(Refusal):
    code = "provider_blocked"
    kind = "policy_blocked"
    openai_status = gemini_status = 404
    openai_code = "model_not_found"
    gemini_kind = "NOT_FOUND"


class ModelBlocked(ProviderBlocked):
    code = "model_blocked"


class FieldBlocked(Refusal):
    code = "field_blocked"
    kind = "policy_blocked"
    openai_code = "invalid_prompt"


class ModelNotFound(Refusal):
    code = "model_not_found"
    status = openai_status = gemini_status = 404
    kind = "not_found_error"
    openai_code = "model_not_found"
    gemini_kind = "NOT_FOUND"


class ModelUnpriced(Refusal):
    code = "model_unpriced"
    kind = "policy_blocked"
    openai_status = gemini_status = 404
    openai_code = "model_not_found"
    gemini_kind = "NOT_FOUND"


class BudgetExceeded(Refusal):
    code = "budget_exceeded"
    status = 402
    kind = "billing_error"
    openai_status = gemini_status = 429
    openai_code = "usage_limit_reached"
    gemini_kind = "RESOURCE_EXHAUSTED"


class RequestLimited(Refusal):
    code = "request_limited"
    status = openai_status = gemini_status = 429
    kind = "rate_limit_error"
    gemini_kind = "RESOURCE_EXHAUSTED"
    retryable = True


class TokenLimited(RequestLimited):
    code = "token_limited"


class ConcurrencyLimited(RequestLimited):
    code = "concurrency_limited"


class InvalidRequest(Refusal):
    code = "invalid_request"


class UnsupportedEncoding(InvalidRequest):
    """The request body's Content-Encoding is one the gateway cannot decode."""

    status = openai_status = gemini_status = 415


class NotServed(Refusal):
    """No such path on this door."""

    code = "not_found"
    status = openai_status = gemini_status = 404
    kind = "not_found_error"
    gemini_kind = "NOT_FOUND"


class MethodNotAllowed(NotServed):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    status = openai_status = gemini_status = 405
    kind = "invalid_request_error"


class UpgradeRequired(NotServed):
    """The path is not served over the protocol the client wants to change to."""

    code = "websocket_not_served"
    status = openai_status = gemini_status = 426


class RequestTooLarge(Refusal):
    code = "request_too_large"
    status = openai_status = gemini_status = 413
    kind = "request_too_large"


class UpstreamUnavailable(Refusal):
    code = "upstream_unavailable"
    status = 529
    kind = "overloaded_error"
    openai_status = gemini_status = 503
    gemini_kind = "UNAVAILABLE"
    retryable = True


class GatewayUnavailable(Refusal):
    code = "gateway_unavailable"
    status = openai_status = gemini_status = 503
    kind = "api_error"
    gemini_kind = "UNAVAILABLE"
    retryable = True

    def __init__(self, message: str, *, retry_after: int | None = 5, **more: object) -> None:
        super().__init__(message, retry_after=retry_after)
