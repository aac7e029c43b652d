from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bifrost.errors import ConfigError
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.prices import Price, describe
from bifrost.metering.usage import Iteration, Usage

CATALOGUE = Catalogue.load()
WHEN = datetime(2026, 11, 24, 12, tzinfo=UTC)
# Our provider type -> the id genai-prices gives the same provider.
GENAI = {
    "anthropic": "anthropic",
    "openai": "openai",
    "gemini": "google",
    "azure": "azure",
    "bedrock": "aws",
    "cerebras": "cerebras",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "groq": "groq",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "together": "together",
    "vertex": "google",
    "xai": "x-ai",
    "zai": "zai",
}
# Models on which LiteLLM 1.109.1 and genai-prices 0.2.3 disagree, with the reason: none.
KNOWN_DISAGREEMENTS: dict[str, str] = {}


def price(provider: str, model: str, catalogue: Catalogue = CATALOGUE) -> Price:
    found = catalogue.price(provider, model)
    assert found is not None, f"{provider}/{model} has no price"
    return found


def overridden(tmp_path: Path, models: Any) -> Catalogue:
    path = tmp_path / "prices.local.json"
    path.write_text(json.dumps({"models": models}))
    return Catalogue.load(path)


def second_opinion(provider: str, model: str) -> Any:
    """genai-prices' calculation at 1,000 tokens each way, or None when it does not know it."""
    from genai_prices import Usage as Theirs
    from genai_prices import calc_price

    tokens = Theirs(input_tokens=1000, output_tokens=1000)
    try:
        return calc_price(tokens, model, provider_id=GENAI[provider], genai_request_timestamp=WHEN)
    except LookupError:
        return None


def compare(provider: str) -> tuple[int, list[str]]:
    compared, different = 0, []
    for model, ours in CATALOGUE.provider(provider).items():
        theirs = second_opinion(provider, model)
        if theirs is None:
            continue
        compared += 1
        mine = (Decimal(ours.input).scaleb(-9), Decimal(ours.output).scaleb(-9))
        if mine != (theirs.input_price, theirs.output_price):
            said = f"{theirs.input_price}/{theirs.output_price}"
            different.append(f"{provider}/{model}: {mine[0]}/{mine[1]} here, {said} there")
    return compared, different


@pytest.mark.parametrize("provider, at_least", [("anthropic", 19), ("openai", 86), ("gemini", 20)])
def test_a_second_source_agrees_on_the_first_party_prices(provider: str, at_least: int) -> None:
    compared, different = compare(provider)
    unexplained = [line for line in different if line.split(":")[0] not in KNOWN_DISAGREEMENTS]
    assert not unexplained
    assert compared >= at_least


def test_a_second_source_agrees_on_the_cache_prices_of_anthropic() -> None:
    compared = 0
    for model, ours in CATALOGUE.provider("anthropic").items():
        theirs = second_opinion("anthropic", model)
        if theirs is None:
            continue
        compared += 1
        for mine, name in (
            (ours.cache_read, "cache_read_mtok"),
            (ours.cache_write_5m, "cache_write_mtok"),
            (ours.cache_write_1h, "cache_write_1h_mtok"),
        ):
            said = getattr(theirs.model_price, name)
            assert Decimal(mine).scaleb(-6) == getattr(said, "base", said), (model, name)
    assert compared >= 19


def test_a_second_source_on_everyone_else() -> None:
    for provider in sorted({*GENAI} - {"anthropic", "openai", "gemini"}):
        compared, different = compare(provider)
        print(f"{provider}: {compared - len(different)} of {compared} agree")
        print(*different, sep="\n")
        assert compared


def test_the_table_says_where_it_comes_from() -> None:
    assert CATALOGUE.source.startswith("litellm ")
    assert datetime.fromisoformat(CATALOGUE.date)
    assert len(CATALOGUE.digest) == 64
    assert CATALOGUE.digest == Catalogue.load().digest


def test_everything_in_the_table_costs_something() -> None:
    total = 0
    for provider in CATALOGUE.providers():
        for model, each in CATALOGUE.provider(provider).items():
            total += 1
            assert each.input > 0, (provider, model)
            for rates in (each, *each.tiers, *each.service_tiers.values()):
                shown = (rates.cache_read, rates.cache_write_5m, rates.cache_write_1h)
                assert min(shown) > 0, (provider, model)
            for tier in each.auto.get("service_tier", ()):
                assert each.supports(tier, None, None) is None
    assert total > 1500


def test_only_exact_ids_have_a_price() -> None:
    assert CATALOGUE.price("anthropic", "claude-haiku-4-5-20251001") is not None
    assert CATALOGUE.price("vertex", "claude-opus-5-5@default") is not None
    assert CATALOGUE.price("anthropic", "claude-haiku-4-5-20990101") is None
    assert CATALOGUE.price("anthropic", "claude-haiku-4") is None
    assert CATALOGUE.price("anthropic", "Claude-Haiku-4-5") is None
    assert CATALOGUE.price("nobody", "claude-haiku-4-5") is None
    assert CATALOGUE.price("openai_compatible", "gpt-5.4") is None


def test_regions_have_their_own_prices() -> None:
    plain = price("bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0")
    us = price("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert us.input * 10 == plain.input * 11
    assert price("vertex", "claude-opus-5-5").multipliers["inference_geo"]["regional"] == (11, 10)


def test_xai_reprices_at_the_threshold_itself() -> None:
    grok = price("xai", "grok-4.3")
    assert grok.cost(Usage(in_fresh=199_999)) < grok.cost(Usage(in_fresh=200_000)) * 6 // 10


def test_the_mock_provider_charges_like_anthropic() -> None:
    assert price("mock", "claude-opus-5-5") == price("anthropic", "claude-opus-5-5")
    assert price("mock", "gpt-5.4") == price("anthropic", "claude-sonnet-4-5")
    assert CATALOGUE.models("mock") == CATALOGUE.models("anthropic")


def test_models_tell_what_a_model_list_needs() -> None:
    by_id = {model.id: model for model in CATALOGUE.models("anthropic")}
    assert list(by_id) == sorted(by_id)
    haiku = by_id["claude-haiku-4-5-20251001"]
    assert (haiku.display_name, haiku.line) == ("Claude Haiku 4.5", "haiku")
    assert (haiku.max_input_tokens, haiku.max_output_tokens) == (200_000, 64_000)
    opus = by_id["claude-opus-5-5"]
    assert opus.features["thinking_always_on"] is True
    assert opus.features["forced_tool_use"] is False
    assert "forced_tool_use" not in haiku.features
    bedrock = {model.id: model for model in CATALOGUE.models("bedrock")}
    assert bedrock["us.anthropic.claude-sonnet-4-5-20250929-v1:0"].line == "sonnet"
    assert CATALOGUE.models("nobody") == []


def test_iterations_cost_what_their_own_model_costs() -> None:
    haiku, opus = (price("anthropic", f"claude-{name}-5-5") for name in ("haiku", "opus"))
    mine = Iteration(in_fresh=1000, out_text=100)
    advice = Iteration(in_fresh=5000, out_text=10, model="claude-opus-5-5", kind="advisor_message")
    usage = Usage(in_fresh=1000, out_text=100, web_searches=1, iterations=(mine, advice))
    apart = haiku.cost(Usage(in_fresh=1000, out_text=100, web_searches=1))
    assert CATALOGUE.cost("anthropic", usage, haiku) == apart + opus.cost(
        Usage(in_fresh=5000, out_text=10)
    )
    single = Usage(in_fresh=1000, out_text=100)
    assert CATALOGUE.cost("anthropic", single, haiku) == haiku.cost(single)


def test_an_iteration_of_an_unknown_model_costs_the_dearest() -> None:
    haiku = price("anthropic", "claude-haiku-5-5")
    usage = Usage(iterations=(Iteration(in_fresh=1000, model="claude-next"),))
    dearest = max(each.input for each in CATALOGUE.provider("anthropic").values())
    assert CATALOGUE.cost("anthropic", usage, haiku) == dearest
    own = Price(input=10**9, output=10**9)
    assert CATALOGUE.cost("anthropic", usage, own) == 10**9
    assert CATALOGUE.cost("nobody", usage, own) == 10**9


def test_own_prices_win_and_keep_what_they_do_not_mention(tmp_path: Path) -> None:
    mine = overridden(
        tmp_path,
        {"anthropic/claude-opus-5-5": {"input": "3.00", "output": "15", "cache_read": "0"}},
    )
    own, listed = price("anthropic", "claude-opus-5-5", mine), price("anthropic", "claude-opus-5-5")
    assert (own.input, own.output, own.cache_read) == (3_000_000, 15_000_000, 0)
    assert (own.cache_write_5m, own.cache_write_1h, own.thinking) == (
        3_000_000,
        3_000_000,
        15_000_000,
    )
    assert own.web_search == listed.web_search
    assert own.multipliers == listed.multipliers and own.auto == listed.auto
    assert own.max_output_tokens == listed.max_output_tokens
    assert price("anthropic", "claude-opus-5", mine) == price("anthropic", "claude-opus-5")
    assert price("mock", "claude-opus-5-5", mine) == own
    assert mine.digest != CATALOGUE.digest


def test_the_first_match_in_the_file_wins(tmp_path: Path) -> None:
    flat = {"input": "1", "output": "1"}
    mine = overridden(
        tmp_path,
        {
            "groq/openai/*": {"input": "7", "output": "7"},
            "*/claude-haiku-*": {"input": "5", "output": "5"},
            "anthropic/*": {"input": "6", "output": "6"},
            "anthropic/claude-haiku-5-5": flat,
            "local/*": flat,
            "openai_compatible/llama": {"input": "0", "output": "0"},
        },
    )
    assert price("groq", "openai/gpt-oss-120b", mine).input == 7_000_000
    assert price("anthropic", "claude-haiku-5-5", mine).input == 5_000_000
    assert price("vertex", "claude-haiku-5-5", mine).input == 5_000_000
    assert price("anthropic", "anything", mine).input == 6_000_000
    assert mine.price("openai_compatible", "llama", name="local") == price("local", "x", mine)
    assert price("openai_compatible", "llama", mine).cost(Usage(in_fresh=5)) == 0
    assert [model.id for model in mine.models("openai_compatible")] == ["llama"]
    assert mine.price("openai_compatible", "other") is None


def test_a_described_price_can_be_put_into_the_file(tmp_path: Path) -> None:
    chosen = [
        ("anthropic", "claude-haiku-5-5"),
        ("anthropic", "claude-opus-5-5"),
        ("openai", "gpt-5.4"),
        ("gemini", "gemini-2.5-pro"),
        ("bedrock", "mistral.mistral-large-3-675b-instruct"),
        ("bedrock", "apac.amazon.nova-micro-v1:0"),
    ]
    models = {f"copy/{model}": describe(price(provider, model)) for provider, model in chosen}
    mine = overridden(tmp_path, json.loads(json.dumps(models)))
    for provider, model in chosen:
        copy, original = price("copy", model, mine), price(provider, model)
        assert copy == original


def test_extra_fields_of_the_file(tmp_path: Path) -> None:
    entry = {
        "input": "3",
        "output": "15",
        "cache_read": "0.3",
        "thinking": "20",
        "web_search": "0.0125",
        "tiers": [{"above": 200_000, "input": "6", "output": "22.5"}],
        "multipliers": {
            "speed": {"fast": "2"},
            "inference_geo": {"us": "1.1"},
            "service_tier": {"batch": "1/2"},
        },
        "max_input_tokens": 1_000_000,
        "max_output_tokens": 64_000,
    }
    own = price("x", "y", overridden(tmp_path, {"x/y": entry}))
    assert (own.thinking, own.web_search) == (20_000_000, 12_500_000)
    (tier,) = own.tiers
    assert (tier.above, tier.input, tier.cache_read, tier.thinking) == (
        200_000,
        6_000_000,
        6_000_000,
        22_500_000,
    )
    assert own.multipliers["inference_geo"] == {"us": (11, 10)}
    assert own.multipliers["service_tier"] == {"batch": (1, 2)}
    assert own.auto["inference_geo"] == ("us",)
    assert (own.max_input_tokens, own.max_output_tokens) == (1_000_000, 64_000)


GOOD = {"input": "1", "output": "1"}


@pytest.mark.parametrize(
    "models, says",
    [
        ({"a/b": GOOD | {"input": 3.5}}, ['["a/b"].input', "decimal string", 'quotes: "3.5"']),
        ({"a/b": GOOD | {"input": 3}}, ['quotes: "3"']),
        ({"a/b": GOOD | {"output": "-1"}}, ['["a/b"].output', "negative"]),
        ({"a/b": GOOD | {"output": -1.5}}, ["negative"]),
        ({"a/b": GOOD | {"cache_read": None}}, [".cache_read", "found null"]),
        ({"a/b": GOOD | {"cache_read": "1e-3"}}, ['found "1e-3"']),
        ({"a/b": GOOD | {"cache_read": "0.0000001"}}, ["at most 6 decimals"]),
        ({"a/b": GOOD | {"web_search": "0.0000000001"}}, ["at most 9 decimals", ".web_search"]),
        ({"a/b": GOOD | {"cache_raed": "1"}}, [".cache_raed", 'did you mean "cache_read"?']),
        ({"a/b": {"input": "1"}}, ['expected the field "output"']),
        ({"a/b": "free"}, ["expected an object", '"free"']),
        ({"nothing": GOOD}, ['["nothing"]', "<provider>/<model>"]),
        ({"a/": GOOD}, ["<provider>/<model>"]),
        ({"a/b": GOOD | {"tiers": [GOOD]}}, ["tiers[0]", '"above"']),
        ({"a/b": GOOD | {"tiers": [GOOD | {"above": "5"}]}}, ["tiers[0].above", "whole number"]),
        ({"a/b": GOOD | {"tiers": {}}}, [".tiers", "list"]),
        ({"a/b": GOOD | {"max_output_tokens": True}}, ["max_output_tokens", "true"]),
        ({"a/b": GOOD | {"multipliers": {"sped": {}}}}, [".multipliers.sped", '"speed"']),
        ({"a/b": GOOD | {"multipliers": {"speed": {"fast": 2}}}}, [".speed.fast", 'quotes: "2"']),
        ({"a/b": GOOD | {"multipliers": {"speed": {"fast": "0"}}}}, ["factor"]),
        ({"a/b": GOOD | {"multipliers": {"speed": {"fast": "1/0"}}}}, ["factor"]),
        ({"a/b": GOOD | {"service_tiers": {"flex": {"input": "1"}}}}, ["service_tiers.flex"]),
        (
            {
                "a/b": GOOD
                | {"multipliers": {"speed": {"fast": "2"}}, "auto": {"speed": ["fats"]}}
            },
            ["auto.speed", 'did you mean "fast"?'],
        ),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_precisely(tmp_path: Path, models: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        overridden(tmp_path, models)
    for part in ["prices.local.json: models", *says]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "expected a JSON object"),
        ("[]", "expected an object"),
        ("{}", '"models"'),
        ('{"model": {}}', 'did you mean "models"?'),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.local.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Catalogue.load(path)
    assert says in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read"):
        Catalogue.load(tmp_path / "missing.json")
