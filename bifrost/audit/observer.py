"""Observers: who is told of every event after it is in the log."""

from __future__ import annotations

from typing import Protocol

from bifrost.audit.events import Event
from bifrost.audit.log import Reader


class Observer(Protocol):
    """Somebody who is told what happened and may have something to add.

    Each event comes after it is on the disk, at least once: after a crash the last batch may come
    again. What ``observe`` returns is logged too, and ``keep`` is then told its indexes; after a
    crash in between, ``resume`` finds it in the log, from the index on up to which all was observed
    (False: call again before anything is observed). What ``observe`` raises is logged and stops
    nobody else; while ``waiting``, it is called although nothing happened.
    """

    @property
    def waiting(self) -> bool: ...
    def resume(self, reader: Reader, since: int) -> bool: ...
    def observe(self, told: list[Event]) -> list[Event]: ...
    def keep(self, told: list[tuple[int, Event]]) -> None: ...
    def close(self) -> None: ...
