"""A customer with all below it, with budgets whose windows end soon, and what each counter may say.

A ``Purse`` follows one budget through its windows and limits; an ``Estate`` is everybody.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from bifrost._fast.gate import Gate
from bifrost.audit.events import ModelAccess
from bifrost.governance import budgets as acts
from bifrost.governance.directory import Directory
from bifrost.governance.entities import (
    Budget,
    Kind,
    ProviderRule,
    RateLimit,
    VirtualKey,
    id_number,
    new_id,
    new_secret,
)
from bifrost.identify import budget_window

MINUTE = 60_000_000_000
SECOND = 1_000_000_000
KEYS = ("ann-1", "ann-2", "bob-1", "core-ci", "acme-ci")
ABOVE = {
    "ann-1": ("ann", "core", "acme"),
    "ann-2": ("ann", "core", "acme"),
    "bob-1": ("bob", "infra", "acme"),
    "core-ci": ("core", "acme"),
    "acme-ci": ("acme",),
}
OWNERS: dict[str, tuple[Kind, dict[str, str]]] = {
    "acme": ("customer", {}),
    "core": ("team", {"customer": "acme"}),
    "infra": ("team", {"customer": "acme"}),
    "ann": ("user", {"team": "core"}),
    "bob": ("user", {"team": "infra"}),
}
EVERYBODY = (*OWNERS, *KEYS)
PLACES = 5  # requests of ann-2 at the same time


class Means(NamedTuple):
    """What a budget starts with: nano-USD, its window, when that ends (s; 0: by the calendar)."""

    limit: int
    window: str
    ends_s: int
    tight: Any

    def budget(self, now_ns: int) -> Budget:
        """The budget; a rolling window began as long ago as it needs to end then."""
        born = now_ns - (MINUTE - self.ends_s * SECOND if self.ends_s else 0)
        return Budget(
            id=new_id("budget"), max_limit=self.limit, reset_duration=self.window, tight=self.tight,
            created_at=born, calendar_aligned=self.ends_s == 0,
        )  # fmt: skip


class Version(NamedTuple):
    """A budget as it stood; after ``until`` (ns) no request that begins is counted by it."""

    budget: Budget
    until: int


class Purse:
    """One budget: every form it had, and the most each window's counter may hold."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.number = id_number(budget.id)
        self.ceiling = budget.max_limit
        self._past: list[Version] = []
        self._over: dict[int, int] = {}

    def become(self, budget: Budget) -> None:
        """The budget was changed, and everybody knows by now."""
        self._past.append(Version(self.budget, time.time_ns()))
        self.budget = budget

    def start(self, now_ns: int) -> int:
        """Where the present window began."""
        return budget_window(self.budget, now_ns)[0]

    def starts(self, since_ns: int, until_ns: int) -> set[int]:
        """Where the windows began that may count a request admitted in this time."""
        versions = [one.budget for one in self._past if one.until >= since_ns]
        found = set()
        for budget in (*versions, self.budget):
            at = since_ns
            while at <= until_ns:
                start, end = budget_window(budget, at)
                found.add(start)
                at = end
            found.add(budget_window(budget, until_ns)[0])  # it may have been reset in between
        return found

    def most(self, start: int) -> int:
        """What settled and reserved of a window may come to, in nano-USD."""
        return max(self.ceiling, self._over.get(start, 0))

    def rest(self, gate: Gate) -> None:
        """Nothing is under way: a limit that was lowered below what is spent holds from now on."""
        self.ceiling = self.budget.max_limit
        start = self.start(time.time_ns())
        settled = gate.counters([(self.number, start)])[0][0]
        self._over[start] = max(settled, self._over.get(start, 0))


class Estate:
    """Everybody of one example; names end with a number, so that examples do not meet."""

    def __init__(self, directory: Directory, number: int, means: dict[str, Means]) -> None:
        now = time.time_ns()
        self.suffix = f"-{number}"
        self.secrets = {key: new_secret() for key in KEYS}
        self.purses: dict[str, Purse] = {}
        self.ids: dict[str, str] = {}
        for name, (kind, owner) in OWNERS.items():
            above = {group: self.name(one) for group, one in owner.items()}
            budget = means[name].budget(now)
            self._made(name, budget, directory.create(
                kind, self.name(name), budgets=(budget,), **above
            ))  # fmt: skip
        for key in KEYS:
            kind, owner_name = OWNERS[ABOVE[key][0]][0], self.name(ABOVE[key][0])
            budget = means[key].budget(now)
            more: dict[str, Any] = {}
            if key == "ann-2":
                limit = RateLimit(id=new_id("rate_limit"), metric="concurrency", max_limit=PLACES)
                self.places = id_number(limit.id)
                more["rate_limits"] = (limit,)
            if key == "bob-1":
                more["provider_configs"] = (ProviderRule(blocked_models=("*haiku*",)),)
            made, _ = directory.create_key(
                self.name(key), secret=self.secrets[key], budgets=(budget,),
                **{kind: owner_name}, **more,
            )  # fmt: skip
            self._made(key, budget, made)

    def _made(self, name: str, budget: Budget, entity: Any) -> None:
        self.purses[name] = Purse(budget)
        self.ids[name] = entity.id

    def name(self, name: str) -> str:
        """A name as it is stored."""
        return name + self.suffix

    def key_of(self, event: ModelAccess) -> str:
        """Whose request it was; the event must name everybody above the key."""
        key = next(key for key in KEYS if self.ids[key] == event.key)
        above = {OWNERS[name][0]: self.ids[name] for name in ABOVE[key]}
        said = {"user": event.user, "team": event.team, "customer": event.customer}
        assert {kind: one for kind, one in said.items() if one is not None} == above
        return key

    # -- the administrator ---------------------------------------------------------------------

    def limit(self, directory: Directory, name: str, limit: int) -> None:
        """Another limit for somebody; a lower one holds for certain once all is at rest."""
        purse = self.purses[name]
        purse.ceiling = max(purse.ceiling, limit)
        purse.become(acts.set_limit(directory, purse.budget.id, limit)[2])

    def reset(self, directory: Directory, name: str) -> None:
        """Somebody's window begins anew."""
        purse = self.purses[name]
        purse.become(acts.reset(directory, purse.budget.id, reason="a test")[2])

    def active(self, directory: Directory, key: str, active: bool) -> None:
        """Takes a key back, or gives it again."""
        kind: Kind = "virtual_key"
        assert isinstance(directory.update(kind, self.ids[key], is_active=active), VirtualKey)

    # -- the counters --------------------------------------------------------------------------

    def overdrawn(self, gate: Gate) -> list[str]:
        """Whose counters hold more than they may, now."""
        found = []
        now = time.time_ns()
        for name, purse in self.purses.items():
            for start in purse.starts(now, now):
                settled, reserved, *_ = gate.counters([(purse.number, start)])[0]
                if settled + reserved > purse.most(start):
                    found.append(f"{name}: {settled} + {reserved} > {purse.most(start)}")
        held = gate.counters([(self.places, 0)])[0][1]
        if held > PLACES:
            found.append(f"ann-2: {held} at once")
        return found

    def wrong(self, gate: Gate, booked: Iterable[tuple[ModelAccess, int]]) -> list[str]:
        """What the counters at rest say amiss, where ``booked`` are all requests and their costs.

        A request counts in the window it was admitted in. Where that is uncertain (a window ended
        or was reset while it was waiting) it must be counted in one of those that it can be.
        """
        rows = [(event, cost, self.key_of(event)) for event, cost in booked]
        found = []
        for name, purse in self.purses.items():
            certain: dict[int, int] = {}
            maybe: dict[int, int] = {}
            total = 0
            for event, cost, key in rows:
                if name != key and name not in ABOVE[key]:
                    continue
                total += cost
                starts = purse.starts(event.at, event.at + event.took_ns)
                for start in starts:
                    sums = certain if len(starts) == 1 else maybe
                    sums[start] = sums.get(start, 0) + cost
            said = 0
            for start in certain | maybe:
                settled, reserved, *_ = gate.counters([(purse.number, start)])[0]
                said += settled
                low = certain.get(start, 0)
                if reserved or not low <= settled <= low + maybe.get(start, 0):
                    found.append(f"{name} at {start}: {settled} and {reserved}, expected {low}")
            if said != total:
                found.append(f"{name}: {said} in all windows, {total} in all requests")
        if gate.counters([(self.places, 0)])[0][1]:
            found.append("ann-2: a place is still held")
        return found


def drawn(means: Iterable[Means]) -> dict[str, Means]:
    """Means for everybody, in the order of ``EVERYBODY``."""
    return dict(zip(EVERYBODY, means, strict=True))
