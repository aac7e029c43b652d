"""What a model costs: integer prices, the cost of a usage, the worst case of a request.

Part of the metering room. Prices are whole **pico-USD per token**: 1 USD per million tokens is
1,000,000 pico per token, so six decimals of a list price are exact. Nano would not do: Amazon's
``nova-micro`` reads its cache at 0.00875 USD per million tokens, which is 8.75 nano per token.
Costs are int nano-USD, rounded up once per request.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property
from math import ceil, lcm

import msgspec

from bifrost._fast.tariff import Ceiling, Tariff
from bifrost.metering.usage import Iteration, Usage

Ratio = tuple[int, int]

SERVICE_TIER, SPEED, GEO = DIMENSIONS = ("service_tier", "speed", "inference_geo")

# What requests and answers call the list price (anthropic 2.12 and openai 3.54 request types).
_STANDARD: dict[str, frozenset[str | None]] = {
    SERVICE_TIER: frozenset({None, "", "standard", "standard_only", "auto", "default"}),
    SPEED: frozenset({None, "", "standard"}),
    GEO: frozenset({None, "", "global", "not_available"}),
}
# Of those, the ones that leave the choice to the provider.
_OPEN: frozenset[str | None] = frozenset({None, "", "auto"})
_REMEMBERED = 256
_ONE = Fraction(1)

_Step = tuple[int, int, int, int, int, int, int]  # as a Tariff takes it
_Asked = tuple[str | None, str | None, str | None]


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Pico-USD per token of each bucket. A cache price left out is the input price, thinking
    left out is the output price; nothing is ever free by omission."""

    input: int
    output: int
    cache_read: int = -1
    cache_write_5m: int = -1
    cache_write_1h: int = -1
    thinking: int = -1

    def __post_init__(self) -> None:
        if self.input < 0 or self.output < 0:
            raise ValueError("a price cannot be negative")
        for name in ("cache_read", "cache_write_5m", "cache_write_1h"):
            if getattr(self, name) < 0:
                msgspec.structs.force_setattr(self, name, self.input)
        if self.thinking < 0:
            msgspec.structs.force_setattr(self, "thinking", self.output)


class Tier(Rates, frozen=True, kw_only=True):
    """Prices of the WHOLE request once its prompt has more than ``above`` tokens."""

    above: int


class RateCard(Rates, frozen=True, kw_only=True):
    """Prices with their long-context tiers."""

    tiers: tuple[Tier, ...] = ()

    def at(self, prompt: int) -> Rates:
        """The prices that hold for a prompt of ``prompt`` tokens."""
        fitting = [tier for tier in self.tiers if prompt > tier.above]
        return max(fitting, key=lambda tier: tier.above) if fitting else self


class Price(RateCard, frozen=True, kw_only=True, dict=True):
    """Everything one model of one provider charges for.

    ``web_search`` is nano-USD per request. ``multipliers`` holds, per dimension (service_tier,
    speed, inference_geo), rationals (numerator, denominator) on all token prices;
    ``service_tiers`` the tiers whose prices are no common multiple of the standard ones, in full.
    ``auto`` names, per dimension, what the provider may apply although nobody asked for it.
    """

    web_search: int = 0
    multipliers: dict[str, dict[str, Ratio]] = {}
    service_tiers: dict[str, RateCard] = {}
    auto: dict[str, tuple[str, ...]] = {}
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None

    def cost(self, usage: Usage) -> int:
        """Nano-USD of ``usage``, rounded up once. Iterations, if any, all at this price.

        A tier, speed or region the price does not know counts as the dearest one it knows, and
        never as less than the standard price.
        """
        tariff = self.tariff(usage.tier, usage.speed, usage.geo)
        if not usage.iterations:
            return tariff.cost(usage, usage.web_searches)
        exact = sum((self.charge(each, usage) for each in usage.iterations), Fraction(0))
        return ceil(exact) + usage.web_searches * self.web_search

    def tariff(self, tier: str | None, speed: str | None, geo: str | None) -> Tariff:
        """The prices of an answer served this way; names that are known are remembered."""
        return self.tariffs.get((tier, speed, geo)) or self._tariff((tier, speed, geo))

    def charge(self, tokens: Iteration | Usage, usage: Usage) -> Fraction:
        """Exact nano-USD of ``tokens`` alone, served the way ``usage`` says."""
        return Fraction(*self.tariff(usage.tier, usage.speed, usage.geo).pico(tokens))

    def bound(
        self,
        *,
        input_tokens: int,
        max_tokens: int,
        tier: str | None = None,
        speed: str | None = None,
        geo: str | None = None,
        cache_1h: bool = False,
        web_searches: int = 0,
    ) -> int:
        """Nano-USD that no usage of the request can exceed: at most ``input_tokens`` in and
        ``max_tokens`` out, served as asked, at the standard price, or, where the request leaves
        it open, in any way the provider may choose. 1h cache writes only with ``cache_1h``."""
        return self.ceiling(tier, speed, geo).most(input_tokens, max_tokens, cache_1h, web_searches)

    def ceiling(self, tier: str | None, speed: str | None, geo: str | None) -> Ceiling:
        """The dearest prices that a request for these can meet; known names are remembered."""
        return self.ceilings.get((tier, speed, geo)) or self._ceiling((tier, speed, geo))

    def supports(self, tier: str | None, speed: str | None, geo: str | None) -> str | None:
        """The first of ``service_tier``, ``speed``, ``inference_geo`` that asks for something
        this price has no multiplier for, or None when all can be priced."""
        for dimension, name in zip(DIMENSIONS, (tier, speed, geo), strict=True):
            if name not in _STANDARD[dimension] and name not in self._names(dimension):
                return dimension
        return None

    @cached_property
    def tariffs(self) -> dict[_Asked, Tariff]:
        """The tariffs met so far, by what the answer said of tier, speed and region."""
        return {}

    @cached_property
    def ceilings(self) -> dict[_Asked, Ceiling]:
        """The ceilings met so far, by what the request asked for."""
        return {}

    def _names(self, dimension: str) -> set[str | None]:
        names: set[str | None] = set(self.multipliers.get(dimension, ()))
        return names.union(self.service_tiers) if dimension == SERVICE_TIER else names

    def _offer(self, tier: str | None) -> tuple[RateCard, Fraction]:
        """The price list and the factor of a known or standard service tier."""
        if tier in self.service_tiers:
            return self.service_tiers[tier], _ONE
        ratio = self.multipliers.get(SERVICE_TIER, {}).get(tier or "", (1, 1))
        return self, Fraction(*ratio)

    def _tariff(self, served: _Asked) -> Tariff:
        tier, speed, geo = served
        offers = [self._offer(tier)]
        if tier not in self._names(SERVICE_TIER) and tier not in _STANDARD[SERVICE_TIER]:
            offers += [self._offer(known) for known in self._names(SERVICE_TIER)]
        factor = self._factor(SPEED, speed) * self._factor(GEO, geo)
        tariff = Tariff(*_dearest(offers, factor), self.web_search)
        if self.supports(*served) is None and len(self.tariffs) < _REMEMBERED:
            self.tariffs[served] = tariff
        return tariff

    def _factor(self, dimension: str, name: str | None) -> Fraction:
        ratios = self.multipliers.get(dimension, {})
        if name in ratios:
            return Fraction(*ratios[name])
        if name in _STANDARD[dimension]:
            return _ONE
        return max([_ONE, *(Fraction(*ratio) for ratio in ratios.values())])

    def _ceiling(self, asked: _Asked) -> Ceiling:
        offers = [self._offer(name) for name in self._reachable(SERVICE_TIER, asked[0])]
        factor = _ONE
        for dimension, name in ((SPEED, asked[1]), (GEO, asked[2])):
            reachable = self._reachable(dimension, name)
            factor *= max(self._factor(dimension, each) for each in reachable)
        steps, divisor = _dearest(offers, factor)
        worst = []
        top_input = top_hour = top_output = 0
        for above, fresh, read, five, hour, text, think in steps:
            top_input = max(top_input, fresh, read, five)
            top_hour = max(top_hour, top_input, hour)
            top_output = max(top_output, text, think)
            worst.append((above, top_input, top_hour, top_output))
        ceiling = Ceiling(tuple(worst), divisor, self.web_search)
        if self.supports(*asked) is None and len(self.ceilings) < _REMEMBERED:
            self.ceilings[asked] = ceiling
        return ceiling

    def _reachable(self, dimension: str, name: str | None) -> set[str | None]:
        """Every name under which a request that asks for ``name`` may be served."""
        known = self._names(dimension)
        if name in known:
            return {None, name}
        if name in _OPEN:
            return {None, *self.auto.get(dimension, ())}
        return {None} if name in _STANDARD[dimension] else {None, *known}


def _dearest(
    offers: Iterable[tuple[RateCard, Fraction]], factor: Fraction
) -> tuple[tuple[_Step, ...], int]:
    """The dearest price per bucket and prompt size among ``offers``, as integers over a divisor."""
    offers = [(card, ratio * factor) for card, ratio in offers]
    edges = sorted({0, *(tier.above for card, _ in offers for tier in card.tiers)})
    scale = lcm(*(ratio.denominator for _, ratio in offers))
    steps = []
    for edge in edges:
        rows = []
        for card, ratio in offers:
            rates, times = card.at(edge + 1), int(ratio * scale)
            rows.append(
                (
                    rates.input * times,
                    rates.cache_read * times,
                    rates.cache_write_5m * times,
                    rates.cache_write_1h * times,
                    rates.output * times,
                    rates.thinking * times,
                )
            )
        fresh, read, five, hour, text, think = (max(column) for column in zip(*rows, strict=True))
        steps.append((edge, fresh, read, five, hour, text, think))
    return tuple(steps), scale * 1000


def usd_per_million(pico: int) -> str:
    """Pico-USD per token as a decimal string in USD per million tokens, exact."""
    whole, rest = divmod(pico, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def ratio_text(ratio: Ratio) -> str:
    """A multiplier as a decimal string, or as ``n/d`` when no decimal says it exactly."""
    numerator, denominator = ratio
    if 10**9 % denominator:
        return f"{numerator}/{denominator}"
    whole, rest = divmod(numerator * 10**9 // denominator, 10**9)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def describe(price: Price) -> dict[str, object]:
    """The price as people write it and as the price file takes it: USD per million tokens."""
    shown = _card(price)
    whole, rest = divmod(price.web_search, 10**9)
    if price.web_search:
        shown["web_search"] = f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
    if price.multipliers:
        shown["multipliers"] = {
            dimension: {name: ratio_text(ratio) for name, ratio in ratios.items()}
            for dimension, ratios in price.multipliers.items()
        }
    if price.service_tiers:
        shown["service_tiers"] = {name: _card(card) for name, card in price.service_tiers.items()}
    if price.multipliers or price.service_tiers:
        shown["auto"] = {dimension: list(names) for dimension, names in price.auto.items()}
    for limit in ("max_input_tokens", "max_output_tokens"):
        if getattr(price, limit) is not None:
            shown[limit] = getattr(price, limit)
    return shown


def _card(card: RateCard) -> dict[str, object]:
    shown: dict[str, object] = {
        name: usd_per_million(getattr(card, name)) for name in Rates.__struct_fields__
    }
    if card.tiers:
        shown["tiers"] = [
            {"above": tier.above}
            | {name: usd_per_million(getattr(tier, name)) for name in Rates.__struct_fields__}
            for tier in card.tiers
        ]
    return shown
