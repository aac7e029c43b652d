"""Health: which targets failed lately and rest for a while. Passive: it learns from real requests.

Pure: no I/O, and whoever asks brings the time (monotonic ns). Of one process: each worker finds out
by itself, which costs a failing target a request per worker and cool-down.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

MOST_TROUBLES = 4_096
MOST_DOUBLED = 30
LONGEST_ASKED_NS = 3_600_000_000_000  # of a provider's Retry-After that is believed
TRIAL_NS = 60_000_000_000  # an attempt without news for so long is no trial any more

_EITHER = (False, True)

Part = tuple[str, str | None, str | None]


class Place(msgspec.Struct, frozen=True):
    """Where an attempt goes: provider, the name of the provider's key, the provider's model."""

    provider: str
    key: str
    model: str

    def part(self, *, key: bool, model: bool) -> Part:
        """What of it a fault speaks of; None is every key, every model."""
        return self.provider, self.key if key else None, self.model if model else None

    def parts(self) -> tuple[Part, ...]:
        """All that must be well for this place to be."""
        return tuple(self.part(key=key, model=model) for key in _EITHER for model in _EITHER)


class Fault(msgspec.Struct, frozen=True):
    """A way to fail: ``name`` in metrics, whether it is the fault of one key or of one model alone,
    and how often in a row it may happen before a cool-down (``patience``)."""

    name: str
    key: bool
    model: bool
    patience: int = 1

    def part(self, place: Place) -> Part:
        """What fails."""
        return place.part(key=self.key, model=self.model)


UNREACHED = Fault("unreached", key=False, model=False)  # no connection
SILENT = Fault("silent", key=False, model=True)  # sent, and no answer came
FAILING = Fault("failing", key=False, model=True, patience=3)  # 408, 5xx
LIMITED = Fault("limited", key=True, model=True)  # 429
DENIED = Fault("denied", key=True, model=False)  # 401, 402: the gateway's own credential
# 403 may also be about what one client asks for, who shall not take a key from all the others.
FORBIDDEN = Fault("denied", key=True, model=False, patience=3)


def fault_of(status: int) -> Fault | None:
    """What an answer's status says of its target; None where the target is well, whatever it thinks
    of the request."""
    if status == 429:
        return LIMITED
    if status in (401, 402):
        return DENIED
    if status == 403:
        return FORBIDDEN
    return FAILING if status == 408 or status >= 500 else None


class _Trouble:
    """What is known of a part that failed."""

    __slots__ = ("faults", "rests", "since", "trial", "until")

    def __init__(self) -> None:
        self.faults = self.rests = 0  # in a row
        self.since = self.until = self.trial = 0  # ns; of the last cool-down, and its one attempt


class Health:
    """Cool-downs by provider, key and model; ``settle`` says how long they are."""

    def __init__(self) -> None:
        self._troubles: dict[Part, _Trouble] = {}
        self.settle(5.0, 300.0)

    def settle(self, first_s: float, longest_s: float) -> None:
        """The first cool-down in seconds; each further one in a row is twice as long, up to the
        longest."""
        self._first_ns, self._longest_ns = int(first_s * 1e9), int(longest_s * 1e9)

    def rests_until(self, place: Place, now: int) -> int:
        """When a place may be tried again, in ns; 0 where it may be tried now.

        After a cool-down that is for one attempt at a time, until one goes well.
        """
        if not self._troubles:
            return 0
        last = 0
        for part in place.parts():
            trouble = self._troubles.get(part)
            if trouble is not None:
                last = max(last, trouble.until, trouble.trial)
        return last if last > now else 0

    def begin(self, place: Place, now: int) -> None:
        """An attempt begins; behind a cool-down it is the one that tries."""
        for part in place.parts() if self._troubles else ():
            trouble = self._troubles.get(part)
            if trouble is not None and trouble.rests and trouble.until <= now:
                trouble.trial = now + TRIAL_NS

    def leave(self, place: Place) -> None:
        """An attempt ended without news, because its client left."""
        for part in place.parts() if self._troubles else ():
            trouble = self._troubles.get(part)
            if trouble is not None:
                trouble.trial = 0

    def served(self, place: Place, began: int) -> None:
        """An attempt that began then was answered; older news than a cool-down does not end it."""
        for part in place.parts() if self._troubles else ():
            trouble = self._troubles.get(part)
            if trouble is not None and began >= trouble.since:
                del self._troubles[part]

    def failed(
        self, place: Place, fault: Fault, began: int, now: int, asked_ns: int | None = None
    ) -> None:
        """An attempt that began then failed; ``asked_ns``: the pause that its provider asked for.

        What was under way when a cool-down began, or is tried all the same, says nothing new: it
        does not prolong it, unless its provider asks for more.
        """
        part = fault.part(place)
        trouble = self._troubles.get(part)
        if trouble is None:
            trouble = self._room(part)
        trouble.trial = 0
        if asked_ns:
            self._rest(trouble, now, min(asked_ns, LONGEST_ASKED_NS))
        elif trouble.until <= now and began >= trouble.since:
            trouble.faults += 1
            if trouble.faults >= fault.patience:
                self._rest(trouble, now, min(self._first_ns << trouble.rests, self._longest_ns))

    @staticmethod
    def _rest(trouble: _Trouble, now: int, pause: int) -> None:
        if trouble.until <= now:
            trouble.rests = min(trouble.rests + 1, MOST_DOUBLED)
            trouble.since = now
        trouble.until = max(trouble.until, now + pause)

    def resting(self, now: int) -> Iterator[Part]:
        """What rests now."""
        return (part for part, trouble in self._troubles.items() if trouble.until > now)

    def _room(self, part: Part) -> _Trouble:
        if len(self._troubles) >= MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        made = self._troubles[part] = _Trouble()
        return made
