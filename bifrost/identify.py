"""Who asks: from the virtual key to a Grant, compiled once and dropped when the policy moves.

The room between the doors and governance; it may read the directory, never the counters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import msgspec

from bifrost._fast import gate
from bifrost._fast.gate import Plan
from bifrost._fast.keyring import GrantBase, Keyring
from bifrost.config.settings import span_ns
from bifrost.errors import (
    GatewayUnavailable,
    StoreError,
    VirtualKeyBlocked,
    VirtualKeyNotFound,
    VirtualKeyRequired,
)
from bifrost.governance.budgets import budget_window as budget_window
from bifrost.governance.budgets import limit_at
from bifrost.governance.directory import Directory
from bifrost.governance.entities import (
    Budget,
    Entity,
    Kind,
    RateLimit,
    VirtualKey,
    id_number,
)
from bifrost.patterns import matches

LEVEL = {"virtual_key": "virtual key", "user": "user", "team": "team", "customer": "customer"}
METRICS = {
    "requests": gate.REQUESTS,
    "tokens": gate.TOKENS,
    "input_tokens": gate.INPUT_TOKENS,
    "output_tokens": gate.OUTPUT_TOKENS,
    "concurrency": gate.CONCURRENCY,
}
MOST_OWNERS = 10_000  # whose levels are kept at hand for the next of their keys


class Who(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The ids a request is attributed to, as they stand in every event."""

    key: str
    user: str | None = None
    team: str | None = None
    customer: str | None = None


class Level(msgspec.Struct, frozen=True, gc=False):
    """One budget or limit a request must clear, and whose it is."""

    kind: str
    name: str
    budget: Budget | None = None
    rate: RateLimit | None = None

    def counts(self, provider: str, names: tuple[str, ...]) -> bool:
        """Whether it counts what goes to this provider under one of these model names."""
        narrow = self.budget.provider if self.budget is not None else None
        model = None
        if self.rate is not None:
            narrow, model = self.rate.provider, self.rate.model
        if narrow is not None and not matches(provider, narrow):
            return False
        return model is None or any(matches(name, model) for name in names)

    def slot(self) -> tuple[int, ...]:
        """What the gate must know: number, limit, kind, window."""
        if self.budget is not None:
            kind = gate.OVERDRAFT if self.budget.overdraft == "last_request" else gate.MONEY
            return id_number(self.budget.id), self.budget.max_limit, kind
        assert self.rate is not None
        span = 0 if self.rate.metric == "concurrency" else span_ns(self.rate.window)
        return id_number(self.rate.id), self.rate.max_limit, METRICS[self.rate.metric], span


class Grant(GrantBase):
    """What one virtual key may do; its base is what compiled code reads of it."""

    __slots__ = ("_plans", "chain", "key", "who")

    def __init__(self, chain: list[tuple[Kind, Entity]]) -> None:
        key = chain[0][1]
        assert isinstance(key, VirtualKey)
        super().__init__(key.expires_at or 0, [id_number(entity.id) for _, entity in chain])
        ids = {("key" if kind == "virtual_key" else kind): entity.id for kind, entity in chain}
        self.key = key
        self.who = Who(**ids)
        self.chain = tuple((LEVEL[kind], entity) for kind, entity in chain)
        self._plans: tuple[tuple[tuple[int, ...], Plan], ...] = ()

    @property
    def levels(self) -> list[Level]:
        """Every budget and limit there is over the key, from the key outwards."""
        return [
            level
            for kind, entity in self.chain
            for level in (
                *(Level(kind, entity.name, rate=rate) for rate in entity.rate_limits),
                *(Level(kind, entity.name, budget=budget) for budget in entity.budgets),
            )
        ]

    def plan(self, provider: str, *names: str) -> Plan:
        """What must be cleared by a request to a model of a provider, under all its names."""
        every = self.levels
        counting = tuple(
            index for index, level in enumerate(every) if level.counts(provider, names)
        )
        plan = next((plan for known, plan in self._plans if known == counting), None)
        if plan is None:
            levels = tuple(every[index] for index in counting)
            slots = [level.slot() for level in levels]
            try:
                plan = Plan(slots, partial(_window, levels), levels)
            except ValueError as error:  # more than the ledger holds
                raise GatewayUnavailable(
                    f"Virtual key {self.key.name!r} cannot be governed: {error}; "
                    "your platform team has to remove some."
                ) from None
            self._plans = (*self._plans, (counting, plan))
        return plan

    def whole(self) -> Plan:
        """Every budget that no provider narrows: what a report of the rest is about."""
        return self.plan("")


def _window(levels: Sequence[Level], index: int, now_ns: int) -> tuple[int, int, int, int]:
    budget = levels[index].budget
    assert budget is not None
    start, end = budget_window(budget, now_ns)
    limit, until = limit_at(budget, now_ns)
    return start, end, limit, min(end, until)


class Identifier:
    """Turns credentials into grants; one per process."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.keyring = Keyring(directory.epoch_page)
        self.epoch = directory.epoch  # moves with the policy, a memory read
        self._untold = 0
        self._owners: dict[str, Entity] = {}  # as they were in that epoch
        self._owners_of = 0

    def refresh(self) -> None:
        """Drops every grant if the store moved and nobody told (its writer died in between)."""
        untold = self._directory.untold()
        if untold and untold != self._untold:
            self._untold = untold
            self._owners = {}
            self.keyring.clear()

    def identify(self, credential: bytes | None, foreign: bool = False) -> Grant:
        """The grant of a virtual key; raises VirtualKeyRequired, -NotFound or -Blocked.

        ``foreign`` says that the request carried some other credential, for a better sentence.
        """
        if credential is None:
            raise _required(foreign)
        grant: Grant | None = self.keyring.get(credential)
        if grant is None:
            grant = self._compile(self._directory.digest(credential), self._known_owners())
            self.keyring.put(credential, grant)
        return _live(grant)

    def digest(self, credential: bytes) -> bytes:
        """The keyed digest of a credential."""
        return self._directory.digest(credential)

    def look_up(self, credential: bytes | None, foreign: bool = False) -> Grant:
        """The same past the cache, from any thread."""
        if credential is None:
            raise _required(foreign)
        return _live(self._compile(self._directory.digest(credential), {}))

    def _known_owners(self) -> dict[str, Entity]:
        """Owners read since the policy last moved: keys of one team share them, also in memory."""
        epoch = self.epoch()
        if epoch != self._owners_of or len(self._owners) > MOST_OWNERS:
            self._owners_of, self._owners = epoch, {}
        return self._owners

    def _compile(self, digest: bytes, known: dict[str, Entity]) -> Grant:
        try:
            chain = self._directory.lineage(digest, known)
        except StoreError as error:
            raise GatewayUnavailable(f"The gateway cannot look up keys now: {error}") from error
        if not chain:
            raise VirtualKeyNotFound(
                "This virtual key is unknown or was revoked; ask your platform team for a new one."
            )
        for kind, entity in chain:
            if not entity.is_active:
                blocked = VirtualKeyBlocked(
                    f"The {LEVEL[kind]} {entity.name!r} is disabled; ask your platform team."
                )
                blocked.key = chain[0][1].id
                raise blocked
        return Grant(chain)


def _required(foreign: bool) -> VirtualKeyRequired:
    return VirtualKeyRequired(
        "This gateway needs a virtual key (sk-bf-...): "
        + ("the credential you sent is not one; " if foreign else "")
        + "set it as the key of your client (ANTHROPIC_AUTH_TOKEN, OPENAI_API_KEY, "
        "GEMINI_API_KEY), or ask your platform team for one."
    )


def _live(grant: Grant) -> Grant:
    """The grant, unless its time is over."""
    if grant.expires_ns and time.time_ns() >= grant.expires_ns:
        expired = VirtualKeyBlocked(
            f"Virtual key {grant.key.name!r} has expired; ask your platform team for a new one."
        )
        expired.key = grant.key.id
        raise expired
    return grant
