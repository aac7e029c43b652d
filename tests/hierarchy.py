"""A customer with all that can govern it, its books in plain Python, and a worker that dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from bifrost._fast.gate import Exhausted, Gate, Plan
from bifrost.audit import events
from bifrost.config.settings import span_ns
from bifrost.governance.entities import (
    Budget,
    Customer,
    Entity,
    Kind,
    RateLimit,
    Team,
    User,
    VirtualKey,
    id_number,
)
from bifrost.identify import Grant, Level, budget_window, limit_at

replace = msgspec.structs.replace
START = 1_774_742_400_000_000_000  # 2026-03-29 00:00 UTC, the hour before Berlin's clocks change
MINUTE = 60_000_000_000
STEPS = 119  # in which a rate limit's window slides
Account = tuple[int, int]


def _budget(number: int, limit: int, window: str, **more: Any) -> Budget:
    return Budget(
        id=f"bud_{number:016x}", max_limit=limit, reset_duration=window, created_at=START, **more
    )


def _rate(number: int, metric: Any, most: int, **more: Any) -> RateLimit:
    return RateLimit(id=f"lim_{number:016x}", metric=metric, max_limit=most, **more)


def entities() -> dict[str, tuple[Kind, Entity]]:
    """Everybody by name; ids are numbers, so that two runs are alike."""
    born: dict[str, Any] = {"created_at": START, "updated_at": START}
    berlin: dict[str, Any] = {"calendar_aligned": True, "time_zone": "Europe/Berlin"}
    return {
        "acme": ("customer", Customer(
            id=f"cus_{1:016x}", name="acme", **born,
            budgets=(_budget(1, 9_000, "1d", **berlin), _budget(2, 40_000, "1M")),
            rate_limits=(_rate(101, "requests", 7, window="2m"),),
        )),
        "core": ("team", Team(
            id=f"team_{2:016x}", name="core", **born,
            budgets=(_budget(3, 4_000, "1h"),),
            rate_limits=(_rate(102, "tokens", 6_000), _rate(103, "concurrency", 6)),
        )),
        "ann": ("user", User(
            id=f"usr_{3:016x}", name="ann", **born,
            budgets=(_budget(4, 700, "7m", overdraft="last_request"),),
            rate_limits=(_rate(104, "output_tokens", 2_000, model="*opus*"),),
        )),
        "k": ("virtual_key", VirtualKey(
            id=f"vk_{4:016x}", name="k", digest="", hint="", **born,
            budgets=(
                _budget(5, 2_000, "30m"),
                _budget(6, 900, "1w", provider="bedrock*", **berlin),
            ),
            rate_limits=(_rate(105, "concurrency", 3), _rate(106, "requests", 2, provider="b*")),
        )),
        "l": ("virtual_key", VirtualKey(
            id=f"vk_{5:016x}", name="l", digest="", hint="", **born,
            budgets=(_budget(7, 1_500, "1h"),),
            rate_limits=(_rate(107, "input_tokens", 2_500),),
        )),
    }  # fmt: skip


ABOVE = {"k": ("k", "ann", "core", "acme"), "l": ("l", "core", "acme")}


class Held(msgspec.Struct):
    """A reservation as the books in Python know it."""

    key: str
    labels: tuple[Level, ...]
    accounts: tuple[Account | None, ...]
    at: int
    amount: int
    input_tokens: int
    output_tokens: int

    def share(self, rate: RateLimit) -> int:
        """What it takes of a rate limit."""
        return {
            "requests": 1,
            "tokens": self.input_tokens + self.output_tokens,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "concurrency": 1,
        }[rate.metric]


class Books:
    """What must be settled, held and counted; lists and sums, nothing else."""

    def __init__(self) -> None:
        self.settled: dict[Account, int] = {}
        self.reserved: dict[Account, int] = {}
        self.requests: dict[Account, int] = {}
        self.passed: dict[str, list[Held]] = {}
        self.total = 0
        self.by_key = dict.fromkeys(ABOVE, 0)

    def held(self, key: str, labels: Sequence[Level], now: int, *figures: int) -> Held:
        """A request before it is decided."""
        accounts = tuple(_account(level, now) for level in labels)
        return Held(key, tuple(labels), accounts, now, *figures)

    def fits(self, one: Held, slot: int) -> tuple[bool, bool]:
        """(whether the slot must refuse, whether it must let in); neither: the steps decide."""
        level, account = one.labels[slot], one.accounts[slot]
        if level.rate is not None and account is None:
            span = span_ns(level.rate.window)
            share, most = one.share(level.rate), level.rate.max_limit
            exact = self._lately(level.rate, one.at - span) + share
            rough = self._lately(level.rate, one.at - span - 2 * (span // STEPS + 1)) + share
            return exact > most, rough <= most
        assert account is not None
        held, spent = self.reserved.get(account, 0), self.settled.get(account, 0)
        if level.rate is not None:
            full = held >= level.rate.max_limit
        else:
            assert level.budget is not None
            limit, _ = limit_at(level.budget, one.at)
            over = level.budget.overdraft == "last_request"
            full = spent + held >= limit if over else spent + held + one.amount > limit
        return full, not full

    def _lately(self, rate: RateLimit, since: int) -> int:
        return sum(one.share(rate) for one in self.passed.get(rate.id, ()) if one.at > since)

    def admit(self, one: Held) -> None:
        """Holds it at every level."""
        for level, account in zip(one.labels, one.accounts, strict=True):
            if account is None:
                assert level.rate is not None
                self.passed.setdefault(level.rate.id, []).append(one)
            else:
                self._hold(account, 1 if level.rate is not None else one.amount)

    def settle(self, one: Held, cost: int) -> None:
        """Books the cost where the request was admitted, and frees what it held."""
        for level, account in zip(one.labels, one.accounts, strict=True):
            if account is not None:
                self._hold(account, -1 if level.rate is not None else -one.amount)
                booked = 0 if level.rate is not None else cost
                self.settled[account] = self.settled.get(account, 0) + booked
                self.requests[account] = self.requests.get(account, 0) + 1
        self.total += cost
        self.by_key[one.key] += cost

    def _hold(self, account: Account, amount: int) -> None:
        self.reserved[account] = self.reserved.get(account, 0) + amount

    def cells(self, account: Account) -> tuple[int, int, int]:
        """(settled, reserved, requests) of an account."""
        sums = (self.settled, self.reserved, self.requests)
        return sums[0].get(account, 0), sums[1].get(account, 0), sums[2].get(account, 0)


def _account(level: Level, now: int) -> Account | None:
    """The counter of a level at a time; None for one that counts what passed lately."""
    if level.budget is not None:
        return id_number(level.budget.id), budget_window(level.budget, now)[0]
    assert level.rate is not None
    return (id_number(level.rate.id), 0) if level.rate.metric == "concurrency" else None


def event(key: str, now: int, cost: int, outcome: str) -> bytes:
    """What is written for a request."""
    told = events.ModelAccess(at=now, request="r", key=key, outcome=outcome, cost=cost)
    return events.encode(told)


def plan_of(people: dict[str, tuple[Kind, Entity]], key: str, provider: str, model: str) -> Plan:
    """The plan of a key as the gateway would make it now."""
    return Grant([people[name] for name in ABOVE[key]]).plan(provider, model)


def doomed(
    folder: str,
    people: dict[str, tuple[Kind, Entity]],
    asked: list[tuple[Any, ...]],
    now: int,
    pipe: Connection,
) -> None:
    """A worker that lets requests in, says which (True) and is killed."""
    gate = Gate(folder)
    answers = []
    for key, provider, model, amount, given, made in asked:
        plan = plan_of(people, key, provider, model)
        note = event(people[key][1].id, now, 0, "unsettled")
        try:
            gate.admit(plan, amount, note, now, input_tokens=given, output_tokens=made)
            answers.append(-1)
        except Exhausted as error:
            answers.append(error.slot)
    pipe.send(answers)
    os.kill(os.getpid(), signal.SIGKILL)
