"""The tally: counts what only the steward sees, requests whose worker died."""

from __future__ import annotations

from bifrost._fast.desk import OUTCOME
from bifrost._fast.meters import PLACES
from bifrost.audit.events import Event, ModelAccess
from bifrost.audit.log import Reader
from bifrost.meters import OTHER, Meters


class Tally:
    """An observer of the steward. After a crash of the steward its last batch may count twice."""

    waiting = False

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def resume(self, reader: Reader, since: int) -> bool:
        """Nothing is missing: the log says it all."""
        return True

    def observe(self, told: list[Event]) -> list[Event]:
        """Counts requests that were charged in full."""
        for event in told:
            if isinstance(event, ModelAccess) and event.outcome == "unsettled":
                names = (event.provider or OTHER, event.model or OTHER)
                meter = self._meters.meter("model", *names)
                meter.add(PLACES["outcomes"] + OUTCOME["unsettled"], 1)
                meter.add(PLACES["cost"], event.cost)
        return []

    def keep(self, told: list[tuple[int, Event]]) -> None:
        """Had nothing to add."""

    def close(self) -> None:
        """The steward ends."""
