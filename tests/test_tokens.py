"""Credentials that end: renewed beside the requests, once for all of them, and patiently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bifrost.errors import UpstreamError
from bifrost.providers.asking import CredentialError
from bifrost.providers.tokens import Lease, Tokens, lease

HOUR = 3_600.0


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Gives what it is told to give, when it is told to."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked = 0
        self.given: Any = None  # an error, or the seconds that a credential lasts
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self) -> Lease[str]:
        self.asked += 1
        number = self.asked
        await self.open.wait()
        if isinstance(self.given, Exception):
            raise self.given
        return lease(f"token-{number}", self.given or HOUR, self.clock())


Test = Callable[[Tokens[str], Source, Clock], Coroutine[Any, Any, None]]


def run(test: Test) -> None:
    async def main() -> None:
        clock = Clock()
        source = Source(clock)
        tokens: Tokens[str] = Tokens("vertex", source, clock)
        async with asyncio.timeout(10):
            await test(tokens, source, clock)
        tokens.close()

    asyncio.run(main())


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_many_requests_wait_for_one_renewal() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        source.open.clear()
        waiting = [asyncio.create_task(tokens.get()) for _ in range(50)]
        await settle()
        waiting[0].cancel()  # a client leaves; the others are not its fault
        await settle()
        source.open.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert set(found[1:]) == {"token-1"}
        assert await tokens.get() == "token-1" and source.asked == 1

    run(test)


def test_a_renewal_before_the_end_lets_requests_go_on() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        await tokens.get()
        clock.now += HOUR - 226
        tokens.keep()
        await settle()
        assert source.asked == 1
        clock.now += 2
        source.open.clear()
        assert await asyncio.gather(*(tokens.get() for _ in range(9))) == ["token-1"] * 9
        await settle()
        assert source.asked == 2  # it is under way, and nobody waits
        source.open.set()
        await settle()
        assert await tokens.get() == "token-2"
        assert source.asked == 2

    run(test)


def test_it_renews_itself_when_nobody_asks() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        for _ in range(3 * 3_600):
            tokens.keep()
            await asyncio.sleep(0)
            clock.now += 1
        await settle()
        assert 3 <= source.asked <= 5
        assert tokens.held() is not None

    run(test)


def test_failures_leave_the_old_one_in_use_and_are_tried_again_ever_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        await tokens.get()
        clock.now += HOUR - 200
        source.given = CredentialError("The issuer is ill.")
        for _ in range(180):
            assert await tokens.get() == "token-1"
            await settle()
            clock.now += 1
        assert 5 <= source.asked - 1 <= 10  # after 1, 2, 4, … 60 s
        assert [record.message for record in caplog.records] == ["no new credential"]
        assert str(tokens.error) == "The issuer is ill."
        source.given = None
        clock.now += 75
        assert await tokens.get() == f"token-{source.asked}"
        assert tokens.error is None

    caplog.set_level("INFO")
    run(test)
    assert [record.message for record in caplog.records][-1] == "credential renewed"


def test_without_any_requests_are_told_at_once_between_two_tries() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        source.given = CredentialError("The key was deleted.", lasting=True)
        for _ in range(20):
            with pytest.raises(UpstreamError, match="no credential for the provider 'vertex'") as e:
                await tokens.get()
            assert not e.value.sent
            assert "deleted" not in str(e.value)  # the client is not told; the log is
        assert source.asked == 1
        clock.now += 37
        source.given = None
        assert await tokens.get() == "token-2"

    run(test)


def test_a_clock_that_is_set_back_does_not_stop_renewals() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        source.given = CredentialError("ill")
        with pytest.raises(UpstreamError):
            await tokens.get()
        clock.now -= 86_400
        source.given = None
        assert await tokens.get() == "token-2"

    run(test)


def test_what_the_provider_refuses_is_replaced_but_not_again_and_again() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        first = await tokens.get()
        both = await asyncio.gather(tokens.instead(first), tokens.instead(first))
        assert both == ["token-2", "token-2"] and source.asked == 2
        assert await tokens.instead(first) == "token-2" and source.asked == 2
        assert await tokens.instead("token-2") is None  # the last was of this moment
        assert await tokens.get() == "token-2" and source.asked == 2
        clock.now += 31
        source.given = CredentialError("ill")
        assert await tokens.instead("token-2") is None and source.asked == 3
        assert await tokens.get() == "token-2"
        assert await tokens.instead("token-2") is None and source.asked == 3

    run(test)


def test_one_that_has_ended_when_it_comes_is_none() -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        source.given = 5.0
        with pytest.raises(UpstreamError):
            await tokens.get()
        assert "has ended already" in str(tokens.error)

    run(test)


def test_a_source_that_breaks_is_a_failure_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    async def test(tokens: Tokens[str], source: Source, clock: Clock) -> None:
        source.given = KeyError("x")
        with pytest.raises(UpstreamError):
            await tokens.get()
        assert "KeyError" in str(tokens.error)

    run(test)


def test_a_lease_is_not_shown() -> None:
    assert "secret" not in repr(lease("secret", HOUR, 0.0))
