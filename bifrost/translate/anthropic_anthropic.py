"""Anthropic clients on Anthropic hosts: the bytes pass untouched but for a mapped model name."""

from __future__ import annotations

import re

from bifrost._fast import wire
from bifrost.errors import InvalidRequest
from bifrost.translate.translation import Stream, Traits

# How the provider names organisations and workspaces inside its sentences; request ids stay.
_ACCOUNT = re.compile(
    rb"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:org|wrkspc)[-_][0-9A-Za-z]{8,64})\b"
)


def request(
    body: bytes, scan: wire.Scan, model: str | None, max_tokens: int | None = None
) -> bytes:
    """The body for upstream; the same object when model and output limit stay (None)."""
    if model is None and max_tokens is None:
        return body
    return wire.rewrite(body, scan, model, max_tokens)


def error(body: bytes) -> bytes:
    """An error of the provider for the client: of the same length, account identifiers hidden."""
    return _ACCOUNT.sub(lambda found: b"*" * len(found[0]), body)


class AnthropicAnthropic:
    """The same where a request cannot leave as it came: see ``translation.Relay``."""

    def __init__(
        self, body: bytes, model: str, *, max_tokens: int | None, traits: Traits | None = None
    ) -> None:
        """Raises InvalidRequest where the body is no Messages request."""
        try:
            scan = wire.scan(body)
            renamed = model if scan.model != model else None
            self.body = request(body, scan, renamed, max_tokens)
        except ValueError as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) as it came, for the meters."""
        return status, body

    def shown(self, status: int, body: bytes) -> bytes:
        """The answer as it came; of an error, account names are hidden."""
        return body if status < 400 else error(body)

    def stream(self, input_estimate: int) -> Untouched:
        """Every byte of the stream, for the meters."""
        return Untouched()

    def passing(self) -> Stream | None:
        """Every byte passes."""
        return None


class Untouched:
    """A stream that is Anthropic's already."""

    def feed(self, chunk: bytes) -> bytes:
        """The same bytes."""
        return chunk

    def finish(self) -> bytes:
        """Nothing: a stream that was cut short gets no end."""
        return b""
