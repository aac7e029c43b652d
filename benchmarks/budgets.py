"""Four trials of a budget: too many at once, large worst cases, dropped streams, kill -9.

Without options against this Bifrost and its mock provider, started here. Against any gateway with
--url, --key and --account-url: README.md says how to set it up.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence

import httpx
import msgspec

from benchmarks.processes import BenchError
from benchmarks.subject import COST, MODEL, Subject, dollars, nano, ours, parser, report, table

STREAMS, AFTER_S = 5, 1.3  # 0.3 s until the first byte, then a third of 3 s


class Found(msgspec.Struct, frozen=True):
    """One trial: money in nano-USD, None where the gateway could not be asked."""

    trial: str
    asked: int
    answered: int
    refused: int
    other: int
    budget: int | None
    billed: int
    booked: int | None
    passed: bool | None
    said: str


class Trial:
    """Sends requests with one key and reads both accounts."""

    def __init__(self, subject: Subject, budget: int | None) -> None:
        self.subject, self.budget = subject, budget
        self.key = subject.key(budget)
        self._billed, self._booked = subject.account.billed(), subject.spent(self.key)
        self.statuses: Counter[int] = Counter()

    def client(self) -> httpx.AsyncClient:
        """With the key, and as many connections as it likes."""
        headers = {"authorization": f"Bearer {self.key}", "anthropic-version": "2023-06-01"}
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(
            base_url=self.subject.url, headers=headers, limits=limits, timeout=60
        )

    async def send(self, count: int, at_once: int, max_tokens: int) -> None:
        """``count`` requests, never more than ``at_once`` under way."""
        slots = asyncio.Semaphore(at_once)
        async with self.client() as client:

            async def one() -> None:
                async with slots:
                    answer = await client.post("/v1/messages", json=body(max_tokens))
                    self.statuses[answer.status_code] += 1

            await asyncio.gather(*(one() for _ in range(count)))

    def billed(self) -> int:
        """What the provider served since this trial began."""
        return self.subject.account.billed() - self._billed

    def booked(self) -> int | None:
        """What the gateway booked since then."""
        now = self.subject.spent(self.key)
        return None if now is None or self._booked is None else now - self._booked

    def found(self, name: str, passed: bool | None, said: str) -> Found:
        """The result."""
        answered = self.statuses[200]
        refused = sum(self.statuses[status] for status in (402, 403, 422, 429))
        asked = self.statuses.total()
        return Found(
            trial=name, asked=asked, answered=answered, refused=refused,
            other=asked - answered - refused, budget=self.budget, billed=self.billed(),
            booked=self.booked(), passed=passed, said=said,
        )  # fmt: skip


def body(max_tokens: int, stream: bool = False) -> dict[str, object]:
    """A Messages request."""
    hello = [{"role": "user", "content": "Say something. " * 90}]
    return {"model": MODEL, "max_tokens": max_tokens, "stream": stream, "messages": hello}


def flight(subject: Subject) -> Found:
    """64 in flight, 200 sent, on the price of exactly 10 requests."""
    trial = Trial(subject, 10 * COST)
    asyncio.run(trial.send(200, 64, 800))
    answered = trial.statuses[200]
    over = max(answered - 10, 0)
    said = f"{over} over the budget"
    return trial.found("64 in flight on a 10-request budget", over == 0 and answered > 0, said)


def large(subject: Subject) -> Found:
    """32 requests that may cost $0.48 each and cost $0.42 together, 16 in flight, on $2."""
    trial = Trial(subject, nano(2))
    asyncio.run(trial.send(32, 16, 32_000))
    answered = trial.statuses[200]
    said = f"{32 - answered} refused that were affordable"
    return trial.found("max_tokens 32,000 on a $2 budget", answered == 32, said)


async def _whole(trial: Trial) -> None:
    async with trial.client() as client:
        asked = (client.post("/v1/messages", json=body(1000, stream=True)) for _ in range(STREAMS))
        for answer in await asyncio.gather(*asked):
            answer.raise_for_status()


def dropped(subject: Subject) -> Found:
    """5 streams whose client leaves after a third, after 5 whole ones.

    How many tokens the text of a dropped stream is worth no provider says; whole ones show it.
    """
    asyncio.run(_whole(Trial(subject, None)))
    trial = Trial(subject, None)
    cuts = subject.account.read()["disconnects"]

    async def one(client: httpx.AsyncClient) -> None:
        request = client.build_request("POST", "/v1/messages", json=body(1000, stream=True))
        began = time.monotonic()
        answer = await client.send(request, stream=True)
        trial.statuses[answer.status_code] += 1
        async for _ in answer.aiter_bytes():
            if time.monotonic() - began > AFTER_S:
                break
        await answer.aclose()

    async def run() -> None:
        async with trial.client() as client:
            await asyncio.gather(*(one(client) for _ in range(STREAMS)))
        await asyncio.sleep(4)  # a gateway may read on to the end

    asyncio.run(run())
    cuts = subject.account.read()["disconnects"] - cuts
    billed, booked = trial.billed(), trial.booked()
    whole = STREAMS * COST
    said = f"{cuts} of {STREAMS} ended at the provider too; whole they cost {dollars(whole)}"
    passed = None
    if booked is not None:
        said = f"{100 * (booked - billed) / billed:+.2f} % to the account; {said}"
        passed = abs(booked - billed) * 100 <= billed
    return trial.found("5 streams dropped after a third", passed, said)


def killed(subject: Subject) -> Found:
    """kill -9 right after 50 answers."""
    trial = Trial(subject, None)
    asyncio.run(trial.send(50, 10, 1000))
    if not subject.kill():
        return trial.found(
            "kill -9 after 50 answers", None, "not killed: --kill-command is missing"
        )
    booked, billed = trial.booked(), trial.billed()
    passed = None if booked is None else booked >= billed
    said = "" if booked is None else f"{dollars(max(billed - booked, 0))} lost"
    return trial.found("kill -9 after 50 answers", passed, said)


TRIALS = {"flight": flight, "large": large, "dropped": dropped, "killed": killed}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser("budgets", __doc__)
    made.add_argument("--only", choices=TRIALS, action="append", help="may be repeated")
    made.add_argument("--url", help="of another gateway; its /v1/messages is asked")
    made.add_argument("--key", help="its key, with the budget that the trial needs")
    made.add_argument("--account-url", help="of the `bifrost mock` behind it")
    made.add_argument("--spent-command", help="prints what the key has spent, in USD")
    made.add_argument("--kill-command", help="kills it with SIGKILL and starts it again")
    asked = made.parse_args(arguments)
    if asked.url and not (asked.key and asked.account_url):
        made.error("--url needs --key and --account-url")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trials and prints their table; 1 if one was not passed."""
    asked = options(arguments)
    chosen = [TRIALS[name] for name in TRIALS if not asked.only or name in asked.only]
    if asked.url:
        found = [run(Subject(asked)) for run in chosen]
    else:
        with ours() as subject:
            found = [run(subject) for run in chosen]
    head = ("trial", "asked", "answered", "refused", "other", "provider billed", "booked", "", "")
    verdict = {True: "passed", False: "FAILED", None: "not judged"}
    rows = [
        (one.trial, str(one.asked), str(one.answered), str(one.refused), str(one.other),
         dollars(one.billed), dollars(one.booked), verdict[one.passed], one.said)
        for one in found
    ]  # fmt: skip
    print(table([head, *rows]))
    report("budgets", found, asked.out)
    return int(any(one.passed is False for one in found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
