"""How a mock provider is told to behave: the flags of ``bifrost mock`` and a few more."""

from __future__ import annotations

import msgspec

from bifrost.errors import ConfigError
from bifrost.mock.manners import MANNERS

DEFAULT_TOOL_COMMAND = "cat bifrost_mock.txt 2>/dev/null || echo hello from the mock provider"
_COUNTS = (
    "port",
    "latency_ms",
    "chunk_interval_ms",
    "input_tokens",
    "output_tokens",
    "fail",
    "cut_after",
)


class MockOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One mock provider's behaviour; a value out of range raises ConfigError.

    Attributes
    ----------
    host, port, uds: where to listen; port 0 takes a free one, ``uds`` (a path) replaces both.
    latency_ms: wait before the first byte of every model answer.
    chunks: text deltas of an answer; also 16 output tokens each when nothing else is said.
    chunk_interval_ms: wait between two deltas of a stream.
    input_tokens: input of every answer; None derives (body bytes + 3) // 4.
    output_tokens: output of every answer, None for 16 per chunk; never above the request's limit.
    fail, fail_rate: answer this status for that share of the requests, evenly by count.
    cut_after: drop the connection after so many SSE events, or after half of a JSON body.
    script: "tool" plays one shell tool call per conversation; ``tool_command`` is its command.
    streams_only: refuse OpenAI requests that do not ask for a stream.
    like: whose Chat Completions it speaks, None for OpenAI's: a name of ``MANNERS``.
    record, record_bodies: keep the last 1000 requests for ``/__mock/requests`` and what each of
        the last 131,072 was billed for ``/__mock/bills``.
    """

    host: str = "127.0.0.1"
    port: int = 0
    uds: str | None = None
    latency_ms: int = 0
    chunks: int = 4
    chunk_interval_ms: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    fail: int = 0
    fail_rate: float = 1.0
    cut_after: int = 0
    script: str | None = None
    tool_command: str = DEFAULT_TOOL_COMMAND
    streams_only: bool = False
    like: str | None = None
    record: bool = False
    record_bodies: bool = False

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"mock option {name} must not be negative")
        if self.chunks < 1:
            raise ConfigError("mock option chunks must be at least 1")
        if self.fail and not 400 <= self.fail <= 599:
            raise ConfigError("mock option fail must be an HTTP status from 400 to 599")
        if not 0.0 < self.fail_rate <= 1.0:
            raise ConfigError("mock option fail_rate must be above 0 and at most 1")
        if self.script not in (None, "tool"):
            raise ConfigError('mock option script knows only "tool"')
        if self.like is not None and self.like not in MANNERS:
            raise ConfigError(f"mock option like knows only {', '.join(MANNERS)}")
