"""Clients of a gateway that ask for odd things, all at once, and what each of them saw."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, NamedTuple

import httpx
import msgspec

from tests.running import bearer, message

# Nano-USD per token: fresh input, written to the cache, read from it, output.
PRICES = {
    "claude-sonnet-4-5": (3_000, 3_750, 300, 15_000),
    "claude-haiku-4-5": (1_000, 1_250, 100, 5_000),
}
UNPRICED = "claude-from-tomorrow"
PIECE = 16  # tokens of each piece that the mock sends of an answer
BYTES = 4  # of text that the mock writes for a token
TIMEOUT_S = 60


def priced(model: str, usage: dict[str, int]) -> int:
    """What a usage in Anthropic's names costs, in nano-USD."""
    fresh, written, read, output = PRICES[model]
    return (
        usage["input_tokens"] * fresh
        + usage["cache_creation_input_tokens"] * written
        + usage["cache_read_input_tokens"] * read
        + usage["output_tokens"] * output
    )


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A request and how its provider shall answer it.

    ``pieces`` of text are made, each of 16 tokens, up to ``max_tokens``. ``fault``: an HTTP status,
    ``cut`` or ``error_event`` by the provider, ``leave`` by the client; ``at`` says when, 0 to 1.
    """

    key: str
    model: str
    stream: bool
    max_tokens: int
    pieces: int
    latency_ms: int
    interval_ms: int
    fault: str
    at: float
    given: tuple[int, int, int] | None

    def headers(self, request: str) -> dict[str, str]:
        """The request's id and what the mock is told."""
        steps = {
            "x-request-id": request,
            "x-mock-chunks": str(self.pieces),
            "x-mock-latency-ms": str(self.latency_ms),
            "x-mock-chunk-interval-ms": str(self.interval_ms),
        }
        if self.given is not None and not (self.fault == "cut" and not self.stream):
            names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
            steps["x-mock-usage"] = json.dumps(dict(zip(names, self.given, strict=True)))
        if self.fault.isdigit():
            steps["x-mock-fail"] = self.fault
        elif self.fault == "cut":
            steps["x-mock-cut-after"] = str(1 + int(self.at * (self.pieces + 4)))
        elif self.fault == "error_event":
            steps["x-mock-error-event"] = "1"
        return steps

    @property
    def body(self) -> dict[str, Any]:
        """The body of the request."""
        return message(model=self.model, max_tokens=self.max_tokens, stream=self.stream)


class Seen(NamedTuple):
    """What a client saw: status 0 without a head, bytes of generated text."""

    wish: Wish
    status: int
    text: int


async def ask(base: str, secret: str, wish: Wish, request: str) -> Seen:
    """Sends one wish on a connection of its own."""
    headers = bearer(secret) | wish.headers(request)
    status = text = 0
    patience = wish.at * 0.4 if wish.fault == "leave" else TIMEOUT_S
    limits = httpx.Limits(max_keepalive_connections=0)
    try:
        async with (
            httpx.AsyncClient(base_url=base, timeout=TIMEOUT_S, limits=limits) as client,
            asyncio.timeout(patience),
            client.stream("POST", "/v1/messages", json=wish.body, headers=headers) as answer,
        ):
            status = answer.status_code
            async for line in answer.aiter_lines():
                text += _text(line)
    except (httpx.TransportError, TimeoutError):
        pass
    return Seen(wish, status, text)


def _text(line: str) -> int:
    """Bytes of text in a line of a stream."""
    if not line.startswith("data:") or "text_delta" not in line:
        return 0
    return len(json.loads(line[5:])["delta"]["text"].encode())


async def crowd(
    base: str, secrets: dict[str, str], wishes: dict[str, Wish], spread_s: float = 0.2
) -> dict[str, Seen]:
    """Sends all wishes, by request id, within ``spread_s``; returns when all have ended."""
    rng = random.Random(len(wishes))

    async def one(request: str, wish: Wish) -> Seen:
        await asyncio.sleep(rng.random() * spread_s)
        return await ask(base, secrets[wish.key], wish, request)

    found = await asyncio.gather(*(one(*pair) for pair in wishes.items()))
    return dict(zip(wishes, found, strict=True))
