"""The text of a custom tool out of the JSON that Claude streams for it, piece by piece."""

from __future__ import annotations

import re

import msgspec

_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
# What can be read for sure: no half escape, no half of a surrogate pair.
_SURE = re.compile(
    r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7]'
    r"[0-9a-fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))*+"
)
_decode = msgspec.json.Decoder(str).decode


class FreeText:
    """Reads ``{"input":"…"}`` as it comes; what looks otherwise gives nothing."""

    def __init__(self) -> None:
        self.read = ""  # so far
        self._rest = ""
        self._within = self._over = False

    def feed(self, piece: str) -> str:
        """The text that a piece of the JSON, cut anywhere, adds."""
        if self._over:
            return ""
        self._rest += piece
        if not self._within:
            head = _HEAD.match(self._rest)
            if head is None:
                return ""
            self._within, self._rest = True, self._rest[head.end() :]
        found = _SURE.match(self._rest)
        assert found is not None  # it matches nothing, too
        self._rest = self._rest[found.end() :]
        self._over = self._rest.startswith('"')
        text = _decode(f'"{found[0]}"')
        self.read += text
        return text
