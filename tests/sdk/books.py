"""Two sets of books that must agree: what the gateway charged and what the mock says it served."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

from bifrost.metering.catalogue import Catalogue
from bifrost.metering.prices import Price
from tests.running import RunningGateway, RunningMock

NANO = 1_000_000_000
BUCKETS = {
    "input_tokens": "input",
    "cache_read_tokens": "cache_read",
    "cache_5m_tokens": "cache_write_5m",
    "cache_1h_tokens": "cache_write_1h",
    "output_tokens": "output",
}
CATALOGUE = Catalogue.load()


def nano(amount: str) -> int:
    """A decimal in USD as nano-USD; it must be a whole number of them."""
    found = Decimal(amount) * NANO
    assert found == int(found), amount
    return int(found)


def price(model: str) -> Price:
    """What Anthropic charges for a model."""
    found = CATALOGUE.price("anthropic", model)
    assert found is not None, f"{model} has no price"
    return found


def cost(model: str, tokens: dict[str, int]) -> int:
    """Nano-USD of token sums at a model's list price (no request above a long-context tier)."""
    listed = price(model)
    pico: int = sum(tokens[bucket] * getattr(listed, rate) for bucket, rate in BUCKETS.items())
    whole, rest = divmod(pico, 1000)
    assert not rest, "a price below one nano-USD per token cannot be summed over requests"
    return whole


def served(mock: RunningMock) -> int:
    """Nano-USD of everything the mock served in full since its last reset."""
    rows = mock.account()["models"]
    return sum(cost(row["model"], row["served"]) for row in rows if row["completed"])


def charged(gateway: RunningGateway) -> dict[str, tuple[int, int]]:
    """(spent, reserved) nano-USD of everyone who has a budget, such as ``users:alice``."""
    return {who: (nano(spent), nano(held)) for who, (spent, held) in gateway.spent().items()}


class Books:
    """The books from here on; the mock's start anew."""

    def __init__(self, gateway: RunningGateway, mock: RunningMock) -> None:
        self.gateway = gateway
        self.mock = mock
        mock.reset()
        self.opening = charged(gateway)

    def differences(self) -> dict[str, int]:
        """Nano-USD charged to everyone since the beginning; nothing may be left reserved."""
        deadline = time.monotonic() + 5
        while True:
            now = charged(self.gateway)
            held = {who: reserved for who, (_, reserved) in now.items() if reserved}
            if not held:
                break
            assert time.monotonic() < deadline, f"still reserved: {held}"
            time.sleep(0.02)
        return {who: now[who][0] - self.opening[who][0] for who in now}

    def balance(self, *who: str, due: int | None = None) -> int:
        """The nano-USD charged to each of ``who`` and to nobody else: what the mock served."""
        due = served(self.mock) if due is None else due
        payers = {name: due if name in who else 0 for name in self.opening}
        assert self.differences() == payers
        return due

    def rows(self) -> list[dict[str, Any]]:
        """What the mock was asked, by path."""
        found: list[dict[str, Any]] = self.mock.account()["paths"]
        return found
