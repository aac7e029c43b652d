"""Who asks: from the virtual key to a Grant, compiled once and dropped when the policy moves.

The room between the doors and governance; it may read the directory, never the counters.
"""

from __future__ import annotations

import time

import msgspec

from bifrost._fast.gate import Plan
from bifrost._fast.keyring import GrantBase, Keyring
from bifrost.errors import (
    GatewayUnavailable,
    StoreError,
    VirtualKeyBlocked,
    VirtualKeyNotFound,
    VirtualKeyRequired,
)
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, Entity, Kind, VirtualKey, id_number
from bifrost.governance.windows import window

LEVEL = {"virtual_key": "virtual key", "user": "user", "team": "team", "customer": "customer"}
CACHE_SIZE = 100_000


class Who(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ids a request is attributed to, as they stand in every event."""

    key: str
    user: str | None = None
    team: str | None = None
    customer: str | None = None


class Level(msgspec.Struct, frozen=True):
    """One budget a request must clear: whose it is and the budget itself."""

    kind: str
    name: str
    budget: Budget


class Grant(GrantBase):
    """What one virtual key may do; its base is what compiled code reads of it."""

    __slots__ = ("key", "who", "levels")

    def __init__(self, chain: list[tuple[Kind, Entity]]) -> None:
        key = chain[0][1]
        assert isinstance(key, VirtualKey)
        ids = {("key" if kind == "virtual_key" else kind): entity.id for kind, entity in chain}
        self.key = key
        self.who = Who(**ids)
        self.levels = [
            Level(LEVEL[kind], entity.name, budget)
            for kind, entity in chain
            for budget in entity.budgets
        ]
        plan = Plan(
            [(id_number(level.budget.id), level.budget.max_limit) for level in self.levels],
            self._window,
        )
        super().__init__(plan, key.expires_at or 0)

    def _window(self, index: int, now_ns: int) -> tuple[int, int]:
        return budget_window(self.levels[index].budget, now_ns)


def budget_window(budget: Budget, now_ns: int) -> tuple[int, int]:
    """The (start, end) in ns of the window of ``budget`` that holds ``now_ns``."""
    return window(
        budget.reset_duration,
        now_ns=now_ns,
        created_ns=budget.created_at,
        calendar_aligned=budget.calendar_aligned,
        time_zone=budget.time_zone,
    )


class Identifier:
    """Turns credentials into grants; one per process."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self.keyring = Keyring(directory.epoch_page, CACHE_SIZE)
        self._revision = directory.revision()

    def refresh(self) -> None:
        """Drops every grant if the store moved without the epoch (its writer died in between)."""
        revision = self._directory.revision()
        if revision != self._revision:
            self._revision = revision
            self.keyring.clear()

    def identify(self, credential: bytes | None, foreign: bool = False) -> Grant:
        """The grant of a virtual key; raises VirtualKeyRequired, -NotFound or -Blocked.

        ``foreign`` says that the request carried some other credential, for a better sentence.
        """
        if credential is None:
            raise VirtualKeyRequired(
                "This gateway needs a virtual key (sk-bf-...): "
                + ("the credential you sent is not one; " if foreign else "")
                + "set it as ANTHROPIC_AUTH_TOKEN, or ask your platform team for one."
            )
        grant: Grant | None = self.keyring.get(credential)
        if grant is None:
            grant = self._compile(self._directory.digest(credential))
            self.keyring.put(credential, grant)
        if grant.expires_ns and time.time_ns() >= grant.expires_ns:
            raise VirtualKeyBlocked(
                f"Virtual key {grant.key.name!r} has expired; ask your platform team for a new one."
            )
        return grant

    def _compile(self, digest: bytes) -> Grant:
        try:
            key = self._directory.by_digest(digest)
            chain = self._directory.chain(key) if key is not None else []
        except StoreError as error:
            raise GatewayUnavailable(f"The gateway cannot look up keys now: {error}") from error
        if key is None:
            raise VirtualKeyNotFound(
                "This virtual key is unknown or was revoked; ask your platform team for a new one."
            )
        for kind, entity in chain:
            if not entity.is_active:
                raise VirtualKeyBlocked(
                    f"The {LEVEL[kind]} {entity.name!r} is disabled; ask your platform team."
                )
        return Grant(chain)
