"""What a family of Bedrock's models takes of the Converse API; the rest of it all of them take.

Facts: botocore's service model ``bedrock-runtime`` (1.44.8) and AWS's pages on tool use, prompt
caching and Nova's tools and reasoning (read 2026-11). What a single model can do is in the
catalogue, and comes as ``Traits``.
"""

from __future__ import annotations

import re

import msgspec

_BEFORE_TTL = re.compile(r"claude-(?:instant|v2|3|(?:opus|sonnet)-4-(?:1-)?20)")


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """``claude``: Anthropic's. ``rich``: its tool results may hold images and documents, and say
    that a tool failed. ``forces``: how it can be made to call a tool, by ``tool`` (a certain one),
    ``any``, or not at all. ``marks``: where it takes cache points. ``hour``: they may last so long.
    ``plain``: of a tool's schema it takes ``type``, ``properties`` and ``required`` alone.
    ``effort``: the form in which models of other makers are told how hard to think.
    """

    claude: bool = False
    rich: bool = False
    forces: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    hour: bool = False
    plain: bool = False
    effort: str | None = None


_FORCES = frozenset({"any", "tool"})
_NOVA = Family(rich=True, forces=_FORCES, marks=frozenset({"system", "messages"}), plain=True)
_CLAUDE = Family(
    claude=True, rich=True, forces=_FORCES, marks=frozenset({"system", "messages", "tools"})
)
_OTHERS: tuple[tuple[re.Pattern[str], Family], ...] = (
    (re.compile(r"\bamazon\.nova-2-"), msgspec.structs.replace(_NOVA, effort="reasoning_config")),
    (re.compile(r"\bamazon\.nova-"), _NOVA),
    (re.compile(r"\bmistral\."), Family(forces=frozenset({"any"}))),
    (re.compile(r"\bopenai\.gpt-oss-"), Family(effort="reasoning_effort")),
    (re.compile(r"\bopenai\."), Family(effort="reasoning")),
)
_UNKNOWN = Family()


def family(model: str) -> Family:
    """The family of a model, by Bedrock's id of it. An ARN that does not name its model is of none:
    what only some models take is then not sent."""
    name = model.lower()
    if "claude" in name:
        return msgspec.structs.replace(_CLAUDE, hour=not _BEFORE_TTL.search(name))
    return next((found for pattern, found in _OTHERS if pattern.search(name)), _UNKNOWN)
