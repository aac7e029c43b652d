"""What one answer will be: the server's options, overridden by the ``x-mock-*`` headers."""

from __future__ import annotations

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.mock.account import Usage
from bifrost.mock.manners import MANNERS, OPENAI, Manner
from bifrost.mock.options import MockOptions

OUTPUT_PER_CHUNK = 16


class CacheCreation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How cache writes split by lifetime, in Anthropic's names."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class UsageOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The header ``x-mock-usage``: Anthropic's names, tokens; absent counts are derived or 0.

    ``thinking_tokens`` is the part of ``output_tokens`` spent on reasoning. The last five are
    shown as they are in Anthropic usage objects and stand in no account.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    thinking_tokens: int = 0
    service_tier: str = "standard"
    speed: str | None = None
    inference_geo: str | None = None
    server_tool_use: msgspec.Raw = msgspec.Raw()
    iterations: msgspec.Raw = msgspec.Raw()

    def cache_writes(self) -> tuple[int, int]:
        """Tokens written for 5 minutes and for 1 hour; without a split all count as 5 minutes."""
        if self.cache_creation is None:
            return self.cache_creation_input_tokens or 0, 0
        split = self.cache_creation
        return split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens

    def check(self) -> None:
        """Raise InvalidRequest when the numbers contradict each other."""
        total = self.cache_creation_input_tokens
        if total is not None and sum(self.cache_writes()) != total:
            raise InvalidRequest("x-mock-usage: cache_creation does not add up to its total")
        counts = (self.input_tokens, self.output_tokens, self.cache_read_input_tokens)
        if min(*(n or 0 for n in counts), *self.cache_writes(), self.thinking_tokens) < 0:
            raise InvalidRequest("x-mock-usage: token counts must not be negative")
        if self.output_tokens is not None and self.thinking_tokens > self.output_tokens:
            raise InvalidRequest("x-mock-usage: thinking_tokens is part of output_tokens")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Pace, size, faults and usage of one answer; fields as in MockOptions. ``manner``: whose Chat
    it is in."""

    latency_ms: int = 0
    chunks: int = 4
    chunk_interval_ms: int = 0
    cut_after: int = 0
    error_event: bool = False
    fail: int = 0
    retry_after: int = 1
    input_tokens: int | None = None
    output_tokens: int | None = None
    override: UsageOverride | None = None
    immediate: bool = True
    manner: Manner = OPENAI

    def usage(self, body_bytes: int, limit: int | None) -> Usage:
        """Tokens of the answer to a body of that many bytes, always the same for the same body.

        ``limit`` is the request's own output limit; only ``x-mock-usage`` may go above it.
        """
        given = self.input_tokens
        fresh = (body_bytes + 3) // 4 if given is None else given
        output = self.output_tokens
        if output is None:
            output = OUTPUT_PER_CHUNK * self.chunks
        if limit is not None and output > limit:
            output = limit
        over = self.override
        if over is None:
            return Usage(fresh, 0, 0, 0, output)
        writes = over.cache_writes()
        return Usage(
            fresh if over.input_tokens is None else over.input_tokens,
            over.cache_read_input_tokens,
            writes[0],
            writes[1],
            output if over.output_tokens is None else over.output_tokens,
            over.thinking_tokens,
        )


def default_plan(options: MockOptions) -> Plan:
    """The plan of a request that asks for nothing special; ``fail`` is decided per request."""
    return Plan(
        latency_ms=options.latency_ms,
        chunks=options.chunks,
        chunk_interval_ms=options.chunk_interval_ms,
        cut_after=options.cut_after,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        immediate=not (options.latency_ms or options.chunk_interval_ms or options.cut_after),
        manner=MANNERS.get(options.like or "", OPENAI),
    )


_COUNTS = {
    b"x-mock-latency-ms": "latency_ms",
    b"x-mock-chunks": "chunks",
    b"x-mock-chunk-interval-ms": "chunk_interval_ms",
    b"x-mock-cut-after": "cut_after",
    b"x-mock-error-event": "error_event",
    b"x-mock-fail": "fail",
    b"x-mock-retry-after": "retry_after",
}


def steered_plan(plan: Plan, headers: dict[bytes, bytes]) -> Plan:
    """The plan with the request's ``x-mock-*`` headers applied; InvalidRequest names a bad one."""
    changes: dict[str, object] = {}
    for name, value in headers.items():
        if name == b"x-mock-usage":
            changes["override"] = _override(value)
        elif name.startswith(b"x-mock-"):
            field = _COUNTS.get(name)
            if field is None or not value.isdigit():
                raise InvalidRequest(f"{name.decode('latin-1')}: not a header of the mock provider")
            changes[field] = int(value)
    if changes.get("chunks") == 0:
        raise InvalidRequest("x-mock-chunks: must be at least 1")
    if (fail := changes.get("fail")) and not 400 <= int(str(fail)) <= 599:
        raise InvalidRequest("x-mock-fail: must be an HTTP status from 400 to 599")
    changes["error_event"] = bool(changes.get("error_event"))
    new = msgspec.structs.replace(plan, **changes)
    waits = new.latency_ms or new.chunk_interval_ms or new.cut_after or new.error_event
    return msgspec.structs.replace(new, immediate=not waits)


def _override(value: bytes) -> UsageOverride:
    try:
        override = msgspec.json.decode(value, type=UsageOverride)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"x-mock-usage: {error}") from error
    override.check()
    return override
