"""Glob patterns over names: ``*`` is any run of characters, ``?`` is one; nothing else is special.

A leaf. Model names may hold brackets, so ``fnmatch`` and its sets do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile("".join(parts), re.DOTALL)


def matches(name: str, pattern: str) -> bool:
    """Whether the whole of ``name`` fits ``pattern``; case counts."""
    return _compiled(pattern).fullmatch(name) is not None


def any_matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether ``name`` fits at least one pattern."""
    return any(matches(name, pattern) for pattern in patterns)


def specificity(pattern: str) -> tuple[int, int]:
    """Sort key: patterns with more literal characters and fewer wildcards come out larger."""
    wild = pattern.count("*") + pattern.count("?")
    return len(pattern) - wild, -wild
