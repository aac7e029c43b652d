"""The most a request can use: input tokens, output tokens and searches that no answer exceeds.

Tokens are bounded by the body's bytes ÷ 2 where the body holds the whole input, by the model's
context window where it does not, and by their multiples where the provider loops on its own side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from bifrost._fast.density import PER_KIB
from bifrost._fast.desk import plain_input

DEFAULT_CONTEXT = 1_000_000  # tokens; for models whose window the catalogue does not know
LOOP = 10  # iterations of a provider's own tool loop before it answers pause_turn
CLIENT_TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_")


class Ask(Protocol):
    """What the bound must know of a request body (``wire.Scan`` has it)."""

    @property
    def max_tokens(self) -> int | None: ...
    @property
    def images(self) -> int: ...
    @property
    def documents(self) -> int: ...
    @property
    def remote(self) -> int: ...
    @property
    def fields(self) -> frozenset[str]: ...
    @property
    def tool_types(self) -> tuple[str, ...]: ...
    @property
    def tool_max_uses(self) -> tuple[int | None, ...]: ...


class Bound(msgspec.Struct, frozen=True):
    """Upper limits: tokens in all iterations together, and web searches."""

    input_tokens: int
    output_tokens: int
    web_searches: int = 0


def bound(
    ask: Ask,
    size: int,
    context: int | None,
    *,
    per_kib: int = PER_KIB,
    max_tokens: int | None = None,
) -> Bound:
    """The bound of a request whose body has ``size`` bytes on a model with this context window.

    ``per_kib``: tokens that 1,024 bytes can be; ``max_tokens`` instead of what the body asks for.
    """
    window = context or DEFAULT_CONTEXT
    tokens = plain_input(size, per_kib, ask.images, window)
    if ask.documents or ask.remote or "thread" in ask.fields:
        tokens = window
    output = max_tokens or ask.max_tokens or 0
    if not ask.tool_types and "mcp_servers" not in ask.fields and "container" not in ask.fields:
        return Bound(tokens, output)
    return _looping(ask.tool_types, ask.tool_max_uses, ask.fields, tokens, output, window)


def _looping(
    types: Sequence[str],
    uses: Sequence[int | None],
    fields: frozenset[str],
    tokens: int,
    output: int,
    window: int,
) -> Bound:
    turns, searches = 0, 0
    for kind, limit in zip(types, uses, strict=True):
        if kind.startswith(CLIENT_TOOLS):
            continue
        turns += LOOP if limit is None else limit
        if kind.startswith("web_search"):
            searches += LOOP if limit is None else limit
    if "mcp_servers" in fields or "container" in fields:
        turns += LOOP
    if not turns:
        return Bound(tokens, output)
    return Bound(window * (turns + 1), output * (turns + 1), searches)
