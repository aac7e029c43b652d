"""The gate in thirty lines of plain Python: what the compiled one must agree with."""

from __future__ import annotations


class OracleGate:
    """Windows are (budget, start); amounts are nano-USD."""

    def __init__(self) -> None:
        self.settled: dict[tuple[int, int], int] = {}
        self.reserved: dict[tuple[int, int], int] = {}
        self.requests: dict[tuple[int, int], int] = {}
        self.events: list[bytes] = []

    def admit(
        self, accounts: list[tuple[int, int]], limits: list[int], amount: int
    ) -> tuple[int | None, int]:
        """(refused slot or None, what is left at the tightest level)."""
        left = [
            limit - self.settled.get(account, 0) - self.reserved.get(account, 0) - amount
            for account, limit in zip(accounts, limits, strict=True)
        ]
        for slot, rest in enumerate(left):
            if rest < 0:
                return slot, 0
        for account in accounts:
            self.reserved[account] = self.reserved.get(account, 0) + amount
        return None, min(left, default=-1)

    def settle(self, accounts: list[tuple[int, int]], amount: int, cost: int, event: bytes) -> None:
        """Frees the amount, books the cost, appends the event."""
        for account in accounts:
            self.reserved[account] -= amount
            self.settled[account] = self.settled.get(account, 0) + cost
            self.requests[account] = self.requests.get(account, 0) + 1
        self.events.append(event)
