from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.metering.catalogue import Catalogue
from bifrost.metering.prices import Price, RateCard, Tier, describe
from bifrost.metering.usage import Iteration, Usage

CATALOGUE = Catalogue.load()
CLAUDES = sorted(CATALOGUE.provider("anthropic"))
EVERY = [
    (provider, model)
    for provider in CATALOGUE.providers()
    for model in CATALOGUE.provider(provider)
]


def claude(model: str) -> Price:
    price = CATALOGUE.price("anthropic", model)
    assert price is not None
    return price


FLAT = Price(input=3_000_000, output=15_000_000)
RICH = Price(
    input=1_000_000,
    output=5_000_000,
    cache_read=100_000,
    cache_write_5m=1_250_000,
    cache_write_1h=2_000_000,
    thinking=7_000_000,
    tiers=(Tier(above=100, input=4_000_000, output=9_000_000), Tier(above=50, input=2, output=2)),
    web_search=10_000_000,
    multipliers={
        "service_tier": {"priority": (7, 4), "batch": (1, 2)},
        "speed": {"fast": (2, 1)},
        "inference_geo": {"us": (11, 10), "eu": (4, 3)},
    },
    service_tiers={
        "flex": RateCard(
            input=600_000,
            output=2_500_000,
            cache_read=100_000,
            tiers=(Tier(above=80, input=5_000_000, output=9_000_001),),
        )
    },
    auto={"service_tier": ("priority",), "inference_geo": ("us",)},
)


def bound(price: Price, input_tokens: int, max_tokens: int, **more: Any) -> int:
    return price.bound(input_tokens=input_tokens, max_tokens=max_tokens, **more)


def test_the_cached_turn_of_the_comparison_costs_what_the_provider_bills() -> None:
    usage = Usage(in_fresh=412, in_cache_w5m=1024, in_cache_read=12288, out_text=287)
    assert claude("claude-sonnet-4-5").cost(usage) == 13_067_400  # $0.0130674


@pytest.mark.parametrize(
    "model, prices",
    [
        ("claude-opus-5-5", ("4", "20", "0.2", "5", "8")),
        ("claude-sonnet-5-5", ("2", "10", "0.1", "2.5", "4")),
        ("claude-haiku-5-5", ("0.1", "0.5", "0.01", "0.125", "0.2")),
        ("claude-sonnet-4-5", ("3", "15", "0.3", "3.75", "6")),
    ],
)
def test_todays_list_prices(model: str, prices: tuple[str, ...]) -> None:
    shown = describe(claude(model))
    fields = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    assert tuple(shown[field] for field in fields) == prices


def test_each_bucket_has_its_own_price() -> None:
    million = 10**6
    for bucket, dollars in {
        "in_fresh": 4,
        "in_cache_read": Fraction("0.2"),
        "in_cache_w5m": 5,
        "in_cache_w1h": 8,
        "in_tool": 4,
        "out_text": 20,
        "out_think": 20,
    }.items():
        usage = Usage(**{bucket: million})
        assert claude("claude-opus-5-5").cost(usage) == dollars * 10**9


def test_a_long_context_reprices_the_whole_request() -> None:
    haiku = claude("claude-haiku-5-5")
    at = Usage(in_fresh=40_000, in_cache_read=50_000, in_cache_w5m=10_000, out_text=1_000)
    above = Usage(in_fresh=40_001, in_cache_read=50_000, in_cache_w5m=10_000, out_text=1_000)
    assert haiku.cost(at) == 4_000_000 + 500_000 + 1_250_000 + 500_000
    assert haiku.cost(above) == 20_000_500 + 2_500_000 + 6_250_000 + 2_500_000


def test_the_output_does_not_count_towards_the_long_context() -> None:
    haiku = claude("claude-haiku-5-5")
    assert haiku.cost(Usage(in_fresh=100_000, out_text=128_000)) == 10_000_000 + 64_000_000


def test_speed_and_region_multiply() -> None:
    opus = claude("claude-opus-5-5")
    usage = Usage(in_fresh=1000, out_text=100, tier="standard", speed="fast", geo="us")
    assert opus.cost(usage) == (4_000_000 + 2_000_000) * 2 * 11 // 10


def test_searches_are_priced_per_request_and_not_multiplied() -> None:
    usage = Usage(web_searches=3, speed="fast")
    assert claude("claude-opus-5-5").cost(usage) == 30_000_000


def test_a_cost_is_rounded_up_once() -> None:
    price = Price(input=1, output=1)  # a thousandth of a nano-USD per token
    assert price.cost(Usage()) == 0
    assert price.cost(Usage(in_fresh=1, out_text=1)) == 1
    assert price.cost(Usage(in_fresh=600, out_text=401)) == 2
    split = (Iteration(in_fresh=1), Iteration(in_fresh=1), Iteration(out_text=998))
    assert price.cost(Usage(iterations=split)) == 1


def test_what_has_no_price_of_its_own_is_never_free() -> None:
    assert (FLAT.cache_read, FLAT.cache_write_5m, FLAT.cache_write_1h) == (3_000_000,) * 3
    assert FLAT.thinking == 15_000_000
    tier = Tier(above=1, input=7, output=8)
    assert (tier.cache_read, tier.cache_write_1h, tier.thinking) == (7, 7, 8)


def test_an_explicit_zero_stays_zero() -> None:
    assert Price(input=5, output=5, cache_read=0).cost(Usage(in_cache_read=10**6)) == 0


def test_a_negative_price_is_no_price() -> None:
    with pytest.raises(ValueError, match="negative"):
        Price(input=-1, output=1)


def test_an_unknown_tier_speed_or_region_costs_the_dearest_known() -> None:
    usage = Usage(in_fresh=1000)
    assert RICH.cost(Usage(in_fresh=10, speed="warp")) == RICH.cost(
        Usage(in_fresh=10, speed="fast")
    )
    assert RICH.cost(Usage(in_fresh=10, geo="mars")) == RICH.cost(Usage(in_fresh=10, geo="eu"))
    assert RICH.cost(Usage(in_fresh=10, tier="gold")) == RICH.cost(
        Usage(in_fresh=10, tier="priority")
    )
    cheap = Price(input=1000, output=1000, multipliers={"service_tier": {"batch": (1, 2)}})
    assert cheap.cost(usage) == cheap.cost(Usage(in_fresh=1000, tier="gold")) == 1000
    assert cheap.cost(Usage(in_fresh=1000, tier="batch")) == 500
    assert FLAT.cost(Usage(in_fresh=7, tier="x", speed="y", geo="z")) == FLAT.cost(
        Usage(in_fresh=7)
    )


def test_standard_names_are_the_list_price() -> None:
    plain = RICH.cost(Usage(in_fresh=10, out_text=10))
    for tier in ("standard", "auto", "default", "standard_only", ""):
        for speed in ("standard", None):
            for geo in ("global", "not_available"):
                usage = Usage(in_fresh=10, out_text=10, tier=tier, speed=speed, geo=geo)
                assert RICH.cost(usage) == plain


def test_a_service_tier_may_have_prices_of_its_own() -> None:
    usage = Usage(in_fresh=10, in_cache_read=10, in_cache_w1h=10, out_text=10, tier="flex")
    assert RICH.cost(usage) == ceil(Fraction(10 * (600 + 100 + 600 + 2500)))
    assert RICH.cost(Usage(in_fresh=81, tier="flex")) == 81 * 5000


def test_supports_names_what_cannot_be_priced() -> None:
    opus, sonnet = claude("claude-opus-5-5"), claude("claude-sonnet-4-5")
    assert opus.supports("auto", "fast", "us") is None
    assert opus.supports(None, None, None) is None
    assert sonnet.supports("standard_only", "fast", None) == "speed"
    assert sonnet.supports(None, "standard", "us") == "inference_geo"
    assert opus.supports("priority", "fast", "us") == "service_tier"
    assert RICH.supports("flex", None, "eu") is None


def test_the_bound_takes_the_dearest_input_that_can_apply() -> None:
    opus = claude("claude-opus-5-5")
    asked = {"geo": "global"}
    assert bound(opus, 1000, 100, **asked) == 5_000_000 + 2_000_000
    assert bound(opus, 1000, 100, cache_1h=True, **asked) == 8_000_000 + 2_000_000
    assert bound(opus, 1000, 100, speed="fast", **asked) == 2 * (5_000_000 + 2_000_000)
    assert bound(opus, 0, 0, web_searches=5, **asked) == 50_000_000


def test_a_region_left_open_may_be_the_dear_one() -> None:
    opus = claude("claude-opus-5-5")
    assert bound(opus, 1000, 100) == bound(opus, 1000, 100, geo="us") == 7_700_000
    gpt = CATALOGUE.price("openai", "gpt-5.4")
    assert gpt is not None
    assert bound(gpt, 1000, 100) == 2 * bound(gpt, 1000, 100, tier="default")


def test_the_bound_knows_the_long_context() -> None:
    haiku = claude("claude-haiku-5-5")
    assert bound(haiku, 100_000, 0, geo="global") == 12_500_000
    assert bound(haiku, 100_001, 0, geo="global") == 62_500_625


def test_a_tier_below_list_does_not_lower_the_bound() -> None:
    assert bound(RICH, 10, 10, tier="batch") == bound(RICH, 10, 10, tier="default")


SERVED: dict[str, list[str | None]] = {
    "service_tier": [None, "standard", "auto", "default"],
    "speed": [None, "standard"],
    "inference_geo": [None, "global", "not_available"],
}


@st.composite
def requests(draw: Any) -> tuple[Price, dict[str, Any], Usage]:
    """A price, the arguments of a bound and a usage that this request may produce."""
    price = draw(st.just(RICH) | st.sampled_from(EVERY).map(lambda each: CATALOGUE.price(*each)))
    asked: dict[str, str | None] = {}
    served: dict[str, str | None] = {}
    for dimension, standard in SERVED.items():
        known = [*price.multipliers.get(dimension, ())]
        known += [*price.service_tiers] if dimension == "service_tier" else []
        asked[dimension] = draw(st.sampled_from([*standard, *known, "unheard-of"]))
        ways = list(standard)
        if asked[dimension] in known:
            ways.append(asked[dimension])
        elif asked[dimension] == "unheard-of":
            ways += [*known, "unheard-of"]
        elif asked[dimension] in (None, "auto"):
            ways += price.auto.get(dimension, ())
        served[dimension] = draw(st.sampled_from(ways))
    hour = draw(st.booleans())
    size = st.sampled_from([0, 1, 7, 50, 101, 99_999, 100_000, 272_001]) | st.integers(0, 10**6)
    parts = {name: draw(size) for name in ("in_fresh", "in_cache_read", "in_cache_w5m", "in_tool")}
    parts["in_cache_w1h"] = draw(size) if hour else 0
    parts |= {name: draw(size) for name in ("out_text", "out_think")}
    usage = Usage(
        **parts,
        web_searches=draw(st.integers(0, 5)),
        tier=served["service_tier"],
        speed=served["speed"],
        geo=served["inference_geo"],
    )
    limits = {
        "input_tokens": usage.input_tokens + draw(st.integers(0, 50_000)),
        "max_tokens": usage.output_tokens + draw(st.integers(0, 1000)),
        "tier": asked["service_tier"],
        "speed": asked["speed"],
        "geo": asked["inference_geo"],
        "cache_1h": hour,
        "web_searches": usage.web_searches,
    }
    return price, limits, usage


@settings(max_examples=600, derandomize=True, deadline=None)
@given(requests())
def test_no_usage_of_a_request_costs_more_than_its_bound(
    request_: tuple[Price, dict[str, Any], Usage],
) -> None:
    price, limits, usage = request_
    cost, most = price.cost(usage), price.bound(**limits)
    assert type(cost) is int and type(most) is int
    assert 0 <= cost <= most


@settings(max_examples=200, derandomize=True, deadline=None)
@given(requests(), st.integers(0, 10**6))
def test_nor_do_its_iterations(request_: tuple[Price, dict[str, Any], Usage], first: int) -> None:
    price, limits, usage = request_
    taken = min(first, usage.in_fresh)
    split = (
        Iteration(in_fresh=taken, out_text=usage.out_text),
        Iteration(
            in_fresh=usage.in_fresh - taken,
            in_cache_read=usage.in_cache_read,
            in_cache_w5m=usage.in_cache_w5m,
            in_cache_w1h=usage.in_cache_w1h,
            in_tool=usage.in_tool,
            out_think=usage.out_think,
        ),
    )
    several = Usage(
        iterations=split,
        web_searches=usage.web_searches,
        tier=usage.tier,
        speed=usage.speed,
        geo=usage.geo,
    )
    assert price.cost(several) <= price.bound(**limits)


BUCKETS = (
    "in_fresh in_cache_read in_cache_w5m in_cache_w1h in_tool out_text out_think web_searches"
).split()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.sampled_from(EVERY),
    st.fixed_dictionaries({name: st.integers(0, 300_000) for name in BUCKETS}),
    st.sampled_from(BUCKETS),
    st.integers(1, 300_000),
)
def test_more_of_anything_never_costs_less(
    model: tuple[str, str], counts: dict[str, int], bucket: str, more: int
) -> None:
    price = CATALOGUE.price(*model)
    assert price is not None
    before = price.cost(Usage(**counts))
    assert before <= price.cost(Usage(**counts | {bucket: counts[bucket] + more}))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.fixed_dictionaries({name: st.integers(0, 10**7) for name in BUCKETS}))
def test_the_cost_is_the_exact_sum_rounded_up(counts: dict[str, int]) -> None:
    usage = Usage(**counts, tier="priority", speed="fast", geo="eu")
    rates = RICH.at(usage.input_tokens)
    exact = Fraction(
        (counts["in_fresh"] + counts["in_tool"]) * rates.input
        + counts["in_cache_read"] * rates.cache_read
        + counts["in_cache_w5m"] * rates.cache_write_5m
        + counts["in_cache_w1h"] * rates.cache_write_1h
        + counts["out_text"] * rates.output
        + counts["out_think"] * rates.thinking,
        1000,
    ) * Fraction(7 * 2 * 4, 4 * 1 * 3)
    assert RICH.cost(usage) == ceil(exact) + counts["web_searches"] * 10_000_000
    assert RICH.charge(usage, usage) == exact


def test_names_nobody_knows_are_not_remembered() -> None:
    price = Price(input=1, output=1)
    for number in range(1000):
        price.cost(Usage(tier=f"t{number}"))
        bound(price, 1, 1, speed=f"s{number}")
    assert len(price.tariffs) == len(price.ceilings) == 0


def test_describe_writes_exact_decimals() -> None:
    assert describe(claude("claude-haiku-5-5")) == {
        "input": "0.1",
        "output": "0.5",
        "cache_read": "0.01",
        "cache_write_5m": "0.125",
        "cache_write_1h": "0.2",
        "thinking": "0.5",
        "tiers": [
            {
                "above": 100_000,
                "input": "0.5",
                "output": "2.5",
                "cache_read": "0.05",
                "cache_write_5m": "0.625",
                "cache_write_1h": "1",
                "thinking": "2.5",
            }
        ],
        "web_search": "0.01",
        "multipliers": {"inference_geo": {"us": "1.1"}, "service_tier": {"batch": "0.5"}},
        "auto": {"inference_geo": ["us"]},
        "max_input_tokens": 1_000_000,
        "max_output_tokens": 128_000,
    }
