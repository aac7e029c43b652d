"""Which of Anthropic's betas Claude's hosts in the clouds take, and by which name.

A beta that a host does not know fails the whole request there, so what is not listed is not sent.
Facts: LiteLLM's table of beta headers, and what Claude Code 2.1.330 sends in its modes for these
clouds (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping

_BOTH = (
    "claude-code-20250219", "compact-2026-01-12", "computer-use-2025-01-24",
    "computer-use-2025-11-24", "context-1m-2025-08-07", "context-management-2025-06-27",
    "dangerous-tool-use-2026-09-03", "effort-2025-11-24", "interleaved-thinking-2025-05-14",
    "per-turn-control-2026-07-01", "thinking-binding-controls-2026-08-01",
    "thinking-display-updates-2026-08-18", "thinking-token-count-2026-05-13",
    "tool-search-tool-2025-10-19", "web-search-2025-03-05",
)  # fmt: skip
_MANTLE = (
    "fine-grained-tool-streaming-2025-05-14", "output-128k-2025-02-19",
    "structured-outputs-2025-11-13", "token-efficient-tools-2025-02-19",
    "tool-examples-2025-10-29",
)  # fmt: skip
_RENAMED = {"advanced-tool-use-2025-11-20": "tool-search-tool-2025-10-19"}

# By the type of the provider.
BETAS: Mapping[str, Mapping[str, str]] = {
    "vertex": {**_RENAMED, **{name: name for name in (*_BOTH, "compact-2026-09-04")}},
    "bedrock": {**_RENAMED, **{name: name for name in (*_BOTH, *_MANTLE)}},  # its Messages API
    "bedrock_mantle": {**_RENAMED, **{name: name for name in (*_BOTH, *_MANTLE)}},
}


def accepted(kind: str, header: bytes | None) -> bytes:
    """The value of the ``anthropic-beta`` header for a host; b"" if nothing of it is left."""
    known = BETAS[kind]
    names = [name.strip() for name in (header or b"").decode("latin-1").split(",")]
    return ",".join(dict.fromkeys(known[name] for name in names if name in known)).encode()
