"""Shipment: how a batch gets to its receiver, whatever the receiver does.

What was not acknowledged is sent again after a pause, as long as it takes; what is too large or
wrong somewhere is halved; only entries that were refused by themselves are given up.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

from bifrost.exports.answers import Answer, Target
from bifrost.exports.records import Item

SHORTEST_S, LONGEST_S = 0.5, 60.0
LONGEST_ASKED_S = 3600.0
# So many entries refused with none taken in between are no poison: the receiver refuses everything.
MOST_REFUSED = 100

Failed = Callable[[str, float], Awaitable[bool]]  # why, the pause in s; False: stop


def pause_s(attempt: int, asked_s: int = 0) -> float:
    """Seconds until the next attempt after this many failed ones, anything up to a rising limit.

    What the receiver asked for wins, up to an hour.
    """
    if asked_s:
        return min(float(asked_s), LONGEST_ASKED_S)
    return random.uniform(0.05, 1.0) * min(LONGEST_S, SHORTEST_S * 2.0 ** min(attempt, 16))


class Shipper:
    """Sends batches to one target, one after the other."""

    def __init__(self, target: Target, failed: Failed) -> None:
        """``failed`` is told of every failed attempt; it waits out the pause."""
        self._target = target
        self._failed = failed
        self._attempt = 0
        self._refused_in_row = 0

    async def ship(self, items: Sequence[Item], checkpoint: Item | None) -> dict[int, str] | None:
        """Delivers a batch; returns the positions that were refused, with why. None: stopped."""
        parts: list[list[int]] = [list(range(len(items)))]
        refused: dict[int, str] = {}
        while parts := [part for part in parts if part]:
            part = parts[0]
            answer = await self._send([items[n] for n in part], checkpoint)
            if answer.verdict == "smaller" and len(part) > 1:
                half = len(part) // 2
                parts[0:1] = [part[:half], part[half:]]
                continue
            if answer.verdict == "smaller":
                answer = Answer(verdict="taken", refused={0: answer.error})
            if answer.verdict == "taken" and not self._believable(answer, len(part)):
                parts.insert(0, sorted(refused))  # they may have been right
                refused.clear()
            elif answer.verdict == "taken":
                refused |= {part[n]: why for n, why in answer.refused.items() if n < len(part)}
                parts[0:1] = _rest(part, answer)
                if len(answer.again) < len(part):  # something is done
                    self._attempt = 0
                if not answer.again or answer.refused:
                    continue
            if not await self._pause(answer):
                return None
        return refused

    async def _send(self, items: list[Item], checkpoint: Item | None) -> Answer:
        """Sends with the newest checkpoint, but an entry alone when it is wrong somewhere."""
        if checkpoint is None:
            return await self._target.send(items)
        answer = await self._target.send([*items, checkpoint])
        if answer.verdict == "smaller" and len(items) == 1:
            return await self._target.send(items)
        last = len(items)
        if last not in answer.again and last not in answer.refused:
            return answer
        return Answer(  # of the checkpoint there will be a newer one
            verdict=answer.verdict, error=answer.error, retry_after_s=answer.retry_after_s,
            refused={n: why for n, why in answer.refused.items() if n != last},
            again=tuple(n for n in answer.again if n != last),
        )  # fmt: skip

    def _believable(self, answer: Answer, count: int) -> bool:
        """Whether refusals are about entries, and not a receiver that takes nothing at all."""
        if count - len(answer.again) > len(answer.refused):
            self._refused_in_row = 0
            return True
        if self._refused_in_row + len(answer.refused) > MOST_REFUSED:
            return False
        self._refused_in_row += len(answer.refused)
        return True

    async def _pause(self, answer: Answer) -> bool:
        pause = pause_s(self._attempt, answer.retry_after_s)
        self._attempt += 1
        why = answer.error or next(iter(answer.refused.values()), "it is to be sent again")
        return await self._failed(why, pause)


def _rest(part: list[int], answer: Answer) -> list[list[int]]:
    rest = [part[n] for n in answer.again if n < len(part)]
    return [rest] if rest else []
