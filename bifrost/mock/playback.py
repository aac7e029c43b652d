"""A reply that takes time or breaks: latency, paced events, injected cuts, clients that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from bifrost.mock.account import Account, Cut, Usage
from bifrost.mock.exchange import LAST_CHUNK, Reply, Request, chunk
from bifrost.mock.plan import Plan


class Playback:
    """Sends one planned reply on a transport with timers only, and books it when it ends.

    ``done(keep)`` is called once when the reply has ended; ``keep`` False: close the connection.
    After ``abandon`` nothing more happens.
    """

    __slots__ = (
        "_account",
        "_at",
        "_done",
        "_ending",
        "_events",
        "_loop",
        "_paused",
        "_plan",
        "_reply",
        "_request",
        "_sizes",
        "_stalled",
        "_timer",
        "_transport",
        "_written_ns",
    )

    def __init__(
        self,
        reply: Reply,
        plan: Plan,
        request: Request,
        transport: asyncio.Transport,
        account: Account,
        done: Callable[[bool], None],
    ) -> None:
        self._reply = reply
        self._plan = plan
        self._request = request
        self._transport = transport
        self._account = account
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0
        self._paused = False
        self._stalled = False
        self._written_ns = time.monotonic_ns()
        self._events, self._sizes, self._ending = _scene(reply, plan)

    def start(self) -> None:
        """Begin now, or after the planned latency."""
        if self._plan.latency_ms:
            self._timer = self._loop.call_later(self._plan.latency_ms / 1000, self._begin)
        else:
            self._begin()

    def pause(self) -> None:
        """The transport's buffer is full: write no event until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        """Go on writing."""
        self._paused = False
        if self._stalled:
            self._stalled = False
            self._step()

    def abandon(self) -> None:
        """The client has closed: stop, and book what had flowed."""
        if self._timer is not None:
            self._timer.cancel()
        self._book_cut("client")

    def _begin(self) -> None:
        self._timer = None
        if self._reply.events is not None:
            self._write(self._reply.head)
            self._step()
            return
        body = self._reply.body
        if self._ending != "complete":
            self._at = 1
            self._write(self._reply.head + body[: len(body) // 2])
        else:
            self._write(self._reply.head + body)
        self._end()

    def _step(self) -> None:
        """Write events up to the next pause, or to the end."""
        self._timer = None
        if self._paused:
            self._stalled = True
            return
        interval = self._plan.chunk_interval_ms
        batch = []
        while self._at < len(self._events):
            event = self._events[self._at]
            batch.append(event if self._request.http_1_0 else chunk(event))
            self._at += 1
            if interval and self._delta_follows():
                self._write(b"".join(batch))
                self._timer = self._loop.call_later(interval / 1000, self._step)
                return
        if self._ending != "cut" and not self._request.http_1_0:
            batch.append(LAST_CHUNK)
        self._write(b"".join(batch))
        self._end()

    def _delta_follows(self) -> bool:
        """Whether the next event is a delta and not the first of its answer."""
        at = self._at
        return at < len(self._sizes) and self._sizes[at] > 0 and any(self._sizes[:at])

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        self._written_ns = time.monotonic_ns()

    def _end(self) -> None:
        reply = self._reply
        if self._ending == "complete":
            self._account.completed(
                reply.dialect,
                reply.model,
                reply.path,
                reply.status,
                reply.usage,
                reply.request_id,
            )
        else:
            self._book_cut(self._ending)
        ends_with_connection = self._request.http_1_0 and reply.events is not None
        self._done(self._ending != "cut" and not ends_with_connection)

    def _book_cut(self, reason: str) -> None:
        now = time.monotonic_ns()
        reply = self._reply
        full = reply.usage or Usage()
        sent = sum(self._sizes[: self._at])
        served = Usage()
        if reply.events is None and self._at:
            served, sent = full, len(reply.body) // 2
        elif self._at:
            whole = sum(reply.sizes or ())
            output = full.output * sent // whole if whole else 0
            thinking = min(full.thinking, output)
            served = msgspec.structs.replace(full, output=output, thinking=thinking)
        self._account.ended_early(
            Cut(
                dialect=reply.dialect,
                model=reply.model,
                path=reply.path,
                reason=reason,
                events=self._at,
                delta_bytes=sent,
                served=served,
                full=full,
                since_last_write_ns=now - self._written_ns,
                at_ns=now,
            ),
            reply.request_id,
        )


def _scene(reply: Reply, plan: Plan) -> tuple[list[bytes], list[int], str]:
    """The events to send, their sizes, and how the reply ends: complete, cut or error_event."""
    events, sizes = reply.events, reply.sizes
    if events is None or sizes is None:
        broken = plan.cut_after and reply.usage is not None
        return [], [], "cut" if broken else "complete"
    ending = "complete"
    if plan.error_event:
        deltas = [i for i, size in enumerate(sizes) if size]
        at = deltas[len(deltas) // 2] if deltas else 1
        events, sizes = [*events[:at], reply.error_event], [*sizes[:at], 0]
        ending = "error_event"
    if 0 < plan.cut_after < len(events):
        events, sizes = events[: plan.cut_after], sizes[: plan.cut_after]
        ending = "cut"
    return events, sizes, ending
