"""A route: the lanes that may serve one call, and which of them is next.

The order is that of ``routing.order`` for the call's session, or by chance without one: first the
targets, then the provider keys of each. What rests comes last, what rests the shortest first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from bifrost._fast import wire
from bifrost.call import Call
from bifrost.lanes import Lane
from bifrost.routing.health import Fault, Health, Part, Place
from bifrost.routing.order import draw, seed_of

# Header lines in which clients name their session, beside those that every door reads.
_SESSIONS = (b"session-id: ", b"session_id: ", b"thread-id: ")
_NOBODY = (None, b"", b"null", b'""')
_user = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Kept(NamedTuple):
    """A failed attempt's answer, for the client if nothing better comes."""

    lane: Lane
    exchange: Any
    status: int
    body: bytes


class Route:
    """One call's way over its targets."""

    __slots__ = (
        "_barred", "_began", "_health", "_lanes", "_most", "_order", "attempts", "kept", "rule",
        "seed",
    )  # fmt: skip

    def __init__(self, seed: bytes, health: Health, most: int, rule: str | None = None) -> None:
        """At most ``most`` attempts are made; ``rule``: the name of the one that holds."""
        self.rule = rule
        self.seed = seed
        self.attempts = 0  # made or under way
        self.kept: Kept | None = None
        self._health = health
        self._most = most
        self._barred: set[Part] = set()
        self._lanes: list[Lane] | None = None
        self._order: list[Lane] = []
        self._began: dict[Place, int] = {}

    def lane(self, lanes: list[Lane]) -> Lane:
        """The lane to take, of those that there are now."""
        if lanes is not self._lanes:  # else it was decided already
            self._lanes = lanes
            now = time.monotonic_ns()
            self._order = sorted(lanes, key=lambda lane: self._rank(lane, now))
        return next(self._left(), self._order[0])

    def _rank(self, lane: Lane, now: int) -> tuple[int, bool, float, float]:
        place = lane.place
        target = f"{place.provider}/{place.model}"
        return (
            self._health.rests_until(place, now),
            lane.standby,
            draw(self.seed, target, lane.weight),
            draw(self.seed, f"{target}/{place.key}", lane.key_weight),
        )

    def _left(self) -> Iterator[Lane]:
        return (one for one in self._order if self._barred.isdisjoint(one.place.parts()))

    def further(self) -> bool:
        """Whether there is a lane to try next."""
        return self.attempts < self._most and next(self._left(), None) is not None

    def more(self) -> bool:
        """Whether there would be one if the attempt under way failed."""
        left = list(self._left())
        elsewhere = {(one.place.provider, one.place.model) for one in left}
        return self.attempts < self._most and len(elsewhere) > 1

    def beside(self, lane: Lane) -> bool:
        """Whether another target that does not rest is left beside a lane that is taken."""
        now = time.monotonic_ns()
        with self.apart(lane):
            well = (one for one in self._left() if not self._health.rests_until(one.place, now))
            return self.attempts < self._most and next(well, None) is not None

    @contextmanager
    def apart(self, lane: Lane) -> Iterator[None]:
        """Meanwhile the model of that lane is not to be had there."""
        part = lane.place.part(key=False, model=True)
        before = self._barred
        self._barred = before | {part}
        try:
            yield
        finally:
            self._barred = before

    def bar(self, part: Part) -> None:
        """This call does not go there any more."""
        self._barred.add(part)

    def begin(self, lane: Lane) -> None:
        """An attempt begins."""
        self.attempts += 1
        now = self._began[lane.place] = time.monotonic_ns()
        self._health.begin(lane.place, now)

    def ask(self, lane: Lane) -> None:
        """A token count is asked for: an attempt that tries nothing out."""
        self.attempts += 1
        self._began[lane.place] = time.monotonic_ns()

    def served(self, lane: Lane) -> None:
        """The attempt was answered."""
        self._health.served(lane.place, self._began[lane.place])

    def leave(self, lane: Lane) -> None:
        """The attempt ended without news of its target."""
        self._health.leave(lane.place)

    def failed(self, lane: Lane, fault: Fault, asked_ns: int | None) -> None:
        """The attempt failed; what failed is not tried again for this call."""
        self.bar(fault.part(lane.place))
        self._lanes = None  # health has changed
        now = time.monotonic_ns()
        self._health.failed(lane.place, fault, self._began[lane.place], now, asked_ns)

    def keep(self, kept: Kept) -> None:
        """Keeps the answer that tells the client most: 429 with when to come back, then a failure,
        then what is about the gateway's own credential; the first of its kind."""
        if self.kept is None or _worth(kept.status) > _worth(self.kept.status):
            self.kept = kept


def _worth(status: int) -> int:
    return 2 if status == 429 else 0 if status in (401, 402, 403) else 1


def seed_for(call: Call) -> bytes:
    """The seed of a call's order: of its session, or chance."""
    session = session_of(call)
    return seed_of([session]) if session is not None else random.randbytes(8)


def session_of(call: Call) -> bytes | None:
    """What names the session of a call, which should stay with its target; None if nothing does.

    ``x-bf-session-id`` and ``x-claude-code-session-id``; Codex's ``session-id``; else, in the body,
    ``prompt_cache_key`` (OpenAI) or ``metadata.user_id`` (Anthropic).
    """
    head = call.head
    if head is not None:
        if head.session:
            return bytes(head.session)
        lines = head.forward.split(b"\r\n")
        for name in _SESSIONS:
            for line in lines:
                if line.startswith(name):
                    return bytes(line[len(name) :])
    if call.dialect is not None:
        named = wire.top_level(call.body, "prompt_cache_key")
    else:
        metadata = wire.top_level(call.body, "metadata")
        try:
            named = bytes(_user(metadata or b"{}").get("user_id", b""))
        except msgspec.MsgspecError:
            named = None
    return None if named in _NOBODY else named
