"""Whom events name: the names of ids, looked up once each for the usage view."""

from __future__ import annotations

from bifrost.audit import events
from bifrost.audit.events import Event
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Kind

KNOWN = 100_000  # owners whose names have been looked up
KINDS: tuple[Kind, ...] = ("virtual_key", "user", "team", "customer")


class Names:
    """The names of ids that are new to a view, and of those that were changed."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._known: set[tuple[str | None, ...]] = set()

    def forget(self) -> None:
        """The view is another one: nothing is known there."""
        self._known.clear()

    def of(self, found: list[tuple[int, Event]]) -> dict[str, str]:
        """Name by id, of whom these events name and of what they changed."""
        named: dict[str, str] = {}
        for _, event in found:
            if isinstance(event, events.PolicyChange):
                named[event.id] = event.name
            elif isinstance(event, events.ModelAccess):
                who = (event.key, event.user, event.team, event.customer)
                if who not in self._known:
                    self._look_up(who, named)
        return named

    def _look_up(self, who: tuple[str | None, ...], named: dict[str, str]) -> None:
        for kind, identifier in zip(KINDS, who, strict=True):
            entity = self._directory.find(kind, identifier) if identifier else None
            if entity is not None and entity.id == identifier:
                named[entity.id] = entity.name
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known.add(who)
