"""Verdicts: what a verification found, what it proved, and what it could not."""

from __future__ import annotations

import msgspec

from bifrost.errors import StoreError


class Damaged(StoreError):
    """Keys or checkpoint were altered so that they cannot even be read."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it must be; ``index`` is the entry, if it is about one."""

    what: str
    index: int | None = None


class Verdict(msgspec.Struct, kw_only=True):
    """What was found. ``checked`` entries were read and hashed; ``not_covered`` are newer than the
    newest checkpoint. Entries before ``minimum`` were removed when their time was over; ``unread``
    are in an archive that could not be asked."""

    origin: str
    key: str
    size: int
    root: str
    checked: int = 0
    not_covered: int = 0
    minimum: int = 0
    unread: int = 0
    first_bad: int | None = None
    findings: list[Finding] = []
    proved: list[str] = []
    not_proved: list[str] = []

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def found(self, what: str, index: int | None = None) -> None:
        """Adds a finding."""
        self.findings.append(Finding(what, index))
        if index is not None and (self.first_bad is None or index < self.first_bad):
            self.first_bad = index
