"""Credentials that end: kept, and renewed beside the requests that use them.

A credential is renewed before it ends while requests go on with the one that holds. Only where none
holds does a request wait, all of them for one renewal. After a failure the next try is some seconds
later, and until then requests are told at once that there is none.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from bifrost.errors import BifrostError, UpstreamError
from bifrost.providers.asking import CredentialError

log = logging.getLogger("bifrost.providers")

T = TypeVar("T")

MARGIN_S = 225.0  # Google's metadata server gives the old token until about then
SPARE_S = 10.0  # a credential that ends sooner does not hold any more: a request takes its time
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LASTING_PAUSE_S = 30.0
RENEWAL_S = 45.0  # the longest that one may take
SOONEST_S = 30.0  # between two renewals, where a source gives what it gave before


class Lease(msgspec.Struct, Generic[T], frozen=True):
    """A credential that holds until ``ends`` and is due for renewal from ``renew`` (Unix seconds).

    ``repr`` does not show it.
    """

    value: T
    ends: float
    renew: float

    def __repr__(self) -> str:
        return f"Lease(…, ends={self.ends!r})"


def lease(value: T, lasts_s: float, now: float, *, margin_s: float = MARGIN_S) -> Lease[T]:
    """A credential for ``lasts_s`` from ``now``; one that lasts short is renewed at its half."""
    return Lease(value, now + lasts_s, now + max(lasts_s - margin_s, lasts_s / 2))


class Tokens(Generic[T]):
    """One credential of one provider, for one event loop.

    ``source`` gets a new one: it raises BifrostError, and its text says what is wrong.
    """

    def __init__(
        self,
        name: str,
        source: Callable[[], Awaitable[Lease[T]]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.error: BifrostError | None = None  # of the last renewal
        self.failures = 0  # renewals that failed
        self._source = source
        self._clock = clock
        self._lease: Lease[T] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._next = 0.0  # no try before
        self._forced = 0.0  # the last that a refusal led to
        self._pause = FIRST_PAUSE_S

    def held(self) -> T | None:
        """The credential, as long as it holds."""
        lease, now = self._lease, self._clock()
        return lease.value if lease is not None and now < lease.ends - SPARE_S else None

    @property
    def lacking(self) -> bool:
        """Whether there is none, and renewals fail: requests are refused."""
        return self.error is not None and self.held() is None

    async def fresh(self) -> Lease[T]:
        """A new credential, with its end, whatever is held. Raises what its source raises."""
        return await self._source()

    async def get(self) -> T:
        """The credential; waits where there is none. Raises UpstreamError, nothing being sent."""
        self.keep()
        found = self.held()
        if found is None and self._renewing is not None:
            await asyncio.wait([self._renewing])
            found = self.held()
        if found is None:
            raise UpstreamError(
                f"The gateway has no credential for the provider {self.name!r} at the moment; its"
                " log says why."
            )
        return found

    def keep(self) -> None:
        """Begins a renewal if one is due; to be called on the event loop, as often as one likes."""
        now = self._clock()
        lease = self._lease
        due = lease is None or now >= lease.renew or now >= lease.ends - SPARE_S
        may = now >= self._next or self._next - now > 2 * LONGEST_PAUSE_S  # the clock was set back
        if due and may and self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def instead(self, refused: T) -> T | None:
        """Another credential than the one that the provider refused; None if there is none.

        The old one is kept meanwhile: not every refusal is its fault. Such renewals keep their
        distance, so that a provider that refuses all of them is not met with one per request.
        """
        lease, now = self._lease, self._clock()
        if lease is not None and lease.value == refused and self._renewing is None:
            if self.error is None and abs(now - self._forced) >= SOONEST_S:
                self._forced, self._next = now, now
                self._lease = msgspec.structs.replace(lease, renew=now)
            self.keep()
        if self._renewing is not None:
            await asyncio.wait([self._renewing])
        found = self.held()
        return found if found != refused else None

    def close(self) -> None:
        """Gives up a renewal under way."""
        if self._renewing is not None:
            self._renewing.cancel()

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(RENEWAL_S):
                lease = await self._source()
        except Exception as error:
            self._failed(error)
        else:
            self._got(lease)
        finally:
            self._renewing = None

    def _got(self, lease: Lease[T]) -> None:
        now = self._clock()
        if now >= lease.ends - SPARE_S:
            self._failed(CredentialError("The credential that was given has ended already."))
            return
        if self.error is not None:
            log.info("credential renewed", extra={"provider": self.name})
        self._lease, self.error = lease, None
        self._pause, self._next = FIRST_PAUSE_S, now + SOONEST_S

    def _failed(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            error = CredentialError(f"No credential came within {RENEWAL_S:g} s.")
        elif not isinstance(error, BifrostError):
            log.error("a credential's source failed", exc_info=error)
            error = CredentialError(f"The source of the credential failed: {error!r}.")
        self.failures += 1
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
        if isinstance(error, CredentialError) and error.lasting:
            pause = max(pause, LASTING_PAUSE_S)
        self._next = self._clock() + pause * random.uniform(0.8, 1.2)
        if str(error) != str(self.error):
            log.error(
                "no new credential",
                extra={
                    "provider": self.name, "error": str(error),
                    "holds": self.held() is not None, "retry_in_s": round(pause),
                    "remedy": "`bifrost doctor` asks for one and says what is wrong",
                },
            )  # fmt: skip
        self.error = error
