"""The courier: takes thresholds from what the steward told and delivers them to the webhooks.

One per data directory, whoever holds ``webhooks.lock``: a process of its own under ``bifrost
serve``, a thread when embedded. Nobody waits for it. Each webhook is served by a task of its own,
one message at a time, so that a receiver that is well gets them in order.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bifrost.alerts import reached
from bifrost.config.settings import Webhook
from bifrost.errors import StoreError
from bifrost.webhooks import messages
from bifrost.webhooks.delivery import Outcome, Sender
from bifrost.webhooks.queue import Delivery, Queue, enrol

log = logging.getLogger("bifrost.webhooks")
POLL_S = 0.5
REST_S = 5.0  # after a failure of the store
GRACE_S = 2.0  # for what is under way at a stop
PRUNE_S = 3600.0
BATCH = 256
# Waits between attempts; about 22 hours together, then a message is parked.
WAITS_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 28_800)
SPREAD = 0.25  # of a wait, to either side
NS = 1_000_000_000


class Courier:
    """Serves the configured webhooks of a data directory; its owner holds the lock."""

    def __init__(self, data_dir: Path, hooks: Callable[[], Sequence[Webhook]]) -> None:
        self._data_dir = data_dir
        self._hooks = hooks
        self._queue = Queue(data_dir)
        self._served: tuple[Webhook, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._pruned = 0.0

    async def run(self, stop: threading.Event) -> None:
        """Works until ``stop``; what is under way then gets a moment, else it comes again."""
        try:
            while not stop.is_set():
                try:
                    await self._follow()
                except StoreError as error:
                    log.error("webhooks cannot be served", extra={"error": str(error)})
                await asyncio.sleep(POLL_S)
        finally:
            await self._end_tasks()
            self._queue.close()

    async def _follow(self) -> None:
        """Serves what is configured now; forgets old messages now and then."""
        hooks = tuple(self._hooks())
        if hooks != self._served:
            if not enrol(self._data_dir, hooks):
                await asyncio.sleep(REST_S)
                return
            await self._end_tasks()
            self._stopping = False
            self._tasks = [asyncio.create_task(self._serve(hook)) for hook in hooks]
            self._served = hooks
        if time.monotonic() - self._pruned > PRUNE_S:
            self._pruned = time.monotonic()
            self._queue.prune(time.time_ns())

    async def _end_tasks(self) -> None:
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _serve(self, hook: Webhook) -> None:
        sender = Sender(hook)
        try:
            while not self._stopping:
                try:
                    self._take(hook)
                    one = self._queue.due(hook.name, time.time_ns())
                    if one is not None:
                        self._settle(one, await sender.send(one.message))
                        continue
                    await asyncio.sleep(POLL_S)
                except Exception as error:
                    log.error(
                        "a webhook cannot be served and is tried again",
                        extra={"webhook": hook.name, "error": str(error)},
                    )
                    await asyncio.sleep(REST_S)
        finally:
            await sender.close()

    def _take(self, hook: Webhook) -> None:
        """Brings in what was told since this webhook was last here."""
        position = self._queue.position(hook.name)
        if position is None:
            return
        rows = reached.following(self._data_dir, position, BATCH)
        if rows:
            wanted = [messages.told(event) for _, event in rows]
            wanted = [message for message in wanted if message.type in hook.events]
            self._queue.take(hook.name, wanted, rows[-1][0] + 1, time.time_ns())

    def _settle(self, one: Delivery, outcome: Outcome) -> None:
        """Notes what came of an attempt, and when the next one is due."""
        now = time.time_ns()
        if outcome.delivered:
            self._queue.delivered(one, outcome.status, now)
            return
        attempt = one.attempts + 1
        wait = wait_s(attempt, outcome.retry_after_s)
        if outcome.gone:
            self._queue.park(one, outcome.status, outcome.error, now)
            self._queue.gone(one.webhook, "the receiver is gone (HTTP 410)", now)
        elif wait is None:
            self._queue.park(one, outcome.status, outcome.error, now)
        else:
            self._queue.postpone(one, outcome.status, outcome.error, now + int(wait * NS))
        then = "it is not tried again" if wait is None or outcome.gone else "it is tried again"
        log.warning(
            "a webhook's message was not delivered; %s", then,
            extra={"webhook": one.webhook, "id": one.id, "attempt": attempt,
                   "error": outcome.error, "wait_s": round(wait or 0.0, 1)},
        )  # fmt: skip


def wait_s(attempt: int, retry_after_s: int = 0) -> float | None:
    """Seconds until the next attempt after this one (1 is the first); None: there is none.

    As long as the receiver asked for, if that is longer.
    """
    if attempt > len(WAITS_S):
        return None
    spread = random.uniform(1 - SPREAD, 1 + SPREAD)
    return max(WAITS_S[attempt - 1] * spread, float(retry_after_s))


def serve_webhooks(
    data_dir: Path, hooks: Callable[[], Sequence[Webhook]], stop: threading.Event
) -> None:
    """Waits for the lock, then delivers until ``stop``; ``hooks`` is asked again and again."""
    descriptor = os.open(data_dir / "webhooks.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        while not stop.is_set():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                asyncio.run(Courier(data_dir, hooks).run(stop))
                return
            except BlockingIOError:
                stop.wait(POLL_S)
            except StoreError as error:
                log.error("webhooks cannot be served", extra={"error": str(error)})
                stop.wait(REST_S)
    finally:
        os.close(descriptor)
