"""Anthropic Messages clients on AWS Bedrock's InvokeModel, which speaks the same dialect, less.

Dropped by rule: the fields that InvokeModel answers with "Extra inputs are not permitted" and the
betas it does not know; ``cache_control.scope``, and ``ttl`` for models before Claude 4.5; context
edits other than compaction; a turn's own ``output_config`` without its beta; the volatile billing
line of Claude Code. Refused: what only Claude's own service holds, and a promise of where to run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from bifrost.errors import InvalidRequest
from bifrost.translate import bedrock_answer
from bifrost.translate.raw_json import (
    Edit,
    Raw,
    dropped,
    each,
    edited,
    elements,
    kind_of,
    members,
    object_of,
)
from bifrost.translate.translation import SENSELESS, Traits

VERSION = b'"bedrock-2023-05-31"'
FIELDS = frozenset({
    "max_tokens", "messages", "system", "stop_sequences", "tools", "tool_choice", "thinking",
    "metadata", "output_config", "safeguards", "context_management", "temperature", "top_p",
    "top_k",
})  # fmt: skip
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_HELD = ("container", "fallbacks", "inference_geo", "mcp_servers", "thread")
_NOTHING = (b"null", b"[]", b"{}")
_TURN_CONFIG = "mid-conversation-output-config-2026-07-01"
# What InvokeModel takes, under its own name: LiteLLM's table, and what Claude Code sends there.
BETAS = {
    "advanced-tool-use-2025-11-20": "tool-search-tool-2025-10-19",
    **{name: name for name in (
        "compact-2026-01-12", "computer-use-2025-01-24", "computer-use-2025-11-24",
        "context-1m-2025-08-07", "context-management-2025-06-27", "dangerous-tool-use-2026-09-03",
        "effort-2025-11-24", "fine-grained-tool-streaming-2025-05-14",
        "interleaved-thinking-2025-05-14", "mid-conversation-tool-changes-2026-07-01",
        "thinking-binding-controls-2026-08-01", "thinking-display-updates-2026-08-18",
        "thinking-token-count-2026-05-13", "tool-search-tool-2025-10-19", _TURN_CONFIG,
    )},
}  # fmt: skip
_BILLING = "x-anthropic-billing-header"
_BEFORE_TTL = re.compile(r"claude-(?:instant|v2|3|(?:opus|sonnet)-4-(?:1-)?20)")
_COMPACTION = "compact_20260112"


class _Block(msgspec.Struct):
    type: object = None
    text: object = None


_block = msgspec.json.Decoder(_Block).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class AnthropicBedrock:
    """One request and its answer; see ``translation.Translation``. ``path`` is where to send it."""

    def __init__(
        self,
        body: bytes,
        model: str,
        *,
        max_tokens: int | None,
        traits: Traits,
        betas: Sequence[str] = (),
    ) -> None:
        """``model`` is Bedrock's id of it, ``betas`` are those of the client's header.

        Raises InvalidRequest for what the host cannot be told.
        """
        try:
            asked: dict[str, Raw] = dict(members(body))
            self.path = path(model, stream=bytes(asked.get("stream", b"")) == b"true")
            self.body = _request(asked, model, max_tokens, traits, accepted(betas))
        except SENSELESS as error:
            raise InvalidRequest(f"The request body is not a Messages request: {error!r}") from None

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client; an answer passes as it is."""
        return bedrock_answer.answer(status, body)

    def stream(self, input_estimate: int) -> bedrock_answer.BedrockStream:
        """A reader of the streamed answer, which counts its input by itself."""
        return bedrock_answer.BedrockStream()


def path(model: str, *, stream: bool) -> str:
    """Where InvokeModel is, percent-encoded but for the ``:`` of versions and ARNs."""
    return f"/model/{quote(model, safe=':')}/invoke{'-with-response-stream' if stream else ''}"


def accepted(betas: Sequence[str]) -> list[str]:
    """Those betas that InvokeModel takes, by its names, each once."""
    return list(dict.fromkeys(BETAS[name] for name in betas if name in BETAS))


def _request(
    asked: dict[str, Raw], model: str, max_tokens: int | None, traits: Traits, betas: list[str]
) -> bytes:
    for field in _HELD:
        if field in asked and bytes(asked[field]) not in _NOTHING:
            raise InvalidRequest(f"{field}: the model {model!r} cannot be asked for this.")
    refused = frozenset() if traits.sampling else _SAMPLING
    wanted = {key: value for key, value in asked.items() if key in FIELDS - refused}
    limits = [one for one in (max_tokens, traits.max_output) if one]
    own = _decode(wanted["max_tokens"]) if "max_tokens" in wanted else None
    if limits and (own is None or own > min(limits)):
        wanted["max_tokens"] = _encode(min(limits))
    marks = Marks(("scope", "ttl") if _BEFORE_TTL.search(model) else ("scope",))
    edits: list[tuple[str, Edit]] = [
        *((field, marks.blocks) for field in ("system", "tools", "messages")),
        ("system", without_billing),
        ("context_management", _compaction),
    ]
    if _TURN_CONFIG not in betas:
        edits.append(("messages", without_turn_config))
    for field, edit in edits:
        if field in wanted:
            value = edit(wanted[field])
            if value is None:
                del wanted[field]
            else:
                wanted[field] = value
    wanted["anthropic_version"] = VERSION
    if betas:
        wanted["anthropic_beta"] = _encode(betas)
    return object_of(wanted)


class Marks:
    """Takes keys out of every ``cache_control`` of blocks, tools and turns."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._found = re.compile(b'"(?:%b)"' % "|".join(keys).encode()).search
        self._keys: dict[str, Edit] = dict.fromkeys(keys, dropped)

    def blocks(self, given: Raw) -> Raw:
        """An edit of a list of blocks; a text is none."""
        if kind_of(given) == "[" and self._found(given):
            return each(given, self._block)
        return given

    def _block(self, given: Raw) -> Raw:
        if kind_of(given) == "{" and self._found(given):
            return edited(given, {"cache_control": self._mark, "content": self.blocks})
        return given

    def _mark(self, given: Raw) -> Raw:
        return edited(given, self._keys) if kind_of(given) == "{" else given


def without_billing(given: Raw) -> Raw | None:
    """An edit of a system prompt: the line that Claude Code bills by goes."""
    if kind_of(given) != "[" or _BILLING.encode() not in bytes(given):
        return given
    told = each(
        given, lambda block: None if str(_block(block).text).startswith(_BILLING) else block
    )
    return None if bytes(told) == b"[]" else told


def without_turn_config(given: Raw) -> Raw:
    """An edit of turns: their own ``output_config`` goes."""
    return each(given, _configless) if b'"output_config"' in bytes(given) else given


def _configless(turn: Raw) -> Raw | None:
    """A turn without its ``output_config``; a turn that says nothing else goes."""
    if b'"output_config"' not in bytes(turn):
        return turn
    told = edited(turn, {"output_config": dropped})
    return told if "content" in members(told) else None


def _compaction(given: Raw) -> Raw | None:
    """The context edits that compact."""
    edits: Raw = members(given).get("edits") or b"[]"
    kept = each(edits, lambda edit: edit if _block(edit).type == _COMPACTION else None)
    if kept is edits:
        return given if elements(edits) else None
    return object_of({"edits": kept}) if elements(kept) else None
