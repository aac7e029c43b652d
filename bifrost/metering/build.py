"""Makes the price table of the package from LiteLLM's model list.

Part of the metering room; runs when prices are refreshed, never while serving. The list is
``model_prices_and_context_window_backup.json`` of the ``litellm`` wheel; its numbers are USD per
token. Every number is read as a decimal, so nothing is rounded on the way in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec

from bifrost.errors import ConfigError
from bifrost.metering.catalogue import FORMAT, Model, Table
from bifrost.metering.prices import (
    GEO,
    SERVICE_TIER,
    SPEED,
    Price,
    RateCard,
    Rates,
    Ratio,
    Tier,
)

# LiteLLM's provider -> ours, and the key prefixes that are no part of the provider's model id.
# Where two of theirs are one of ours the earlier line wins and the later fills what it lacks.
PROVIDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "anthropic": ("anthropic", ()),
    "bedrock_converse": ("bedrock", ("bedrock/",)),
    "bedrock": ("bedrock", ("bedrock/",)),
    "bedrock_mantle": ("bedrock_mantle", ("bedrock_mantle/",)),
    "vertex_ai": ("vertex", ("vertex_ai/",)),
    "openai": ("openai", ()),
    "azure": ("azure", ("azure/",)),
    "azure_ai": ("azure", ("azure_ai/",)),
    "gemini": ("gemini", ("gemini/",)),
    "groq": ("groq", ("groq/",)),
    "openrouter": ("openrouter", ("openrouter/",)),
    "mistral": ("mistral", ("mistral/",)),
    "deepseek": ("deepseek", ("deepseek/",)),
    "xai": ("xai", ("xai/",)),
    "moonshot": ("moonshot", ("moonshot/",)),
    "zai": ("zai", ("zai/",)),
    "minimax": ("minimax", ("minimax/",)),
    "cerebras": ("cerebras", ("cerebras/",)),
    "fireworks_ai": ("fireworks", ("fireworks_ai/",)),
    "together_ai": ("together", ("together_ai/",)),
}
MODES = frozenset({"chat", "responses", "embedding"})
# Not model ids of the provider: LiteLLM's own routing words, committed capacity, size classes.
_NO_MODEL = re.compile(r"(^|/)(invoke|\*|\d+-month-commitment)/|^(fireworks|together)-ai-")

_INPUT, _OUTPUT = "input_cost_per_token", "output_cost_per_token"
_FIELDS = {
    "input": (_INPUT,),
    "output": (_OUTPUT,),
    "cache_read": ("cache_read_input_token_cost",),
    "cache_write_5m": ("cache_creation_input_token_cost",),
    "cache_write_1h": (
        "cache_creation_input_token_cost_above_1hr",
        "cache_creation_input_token_cost_above_12hr",
    ),
    "thinking": ("output_cost_per_reasoning_token",),
}
_SERVICE_TIERS = {
    "batches": "batch",
    "flex": "flex",
    "priority": "priority",
    "ultrafast": "ultrafast",
    "balanced": "balanced",
}
# The request value "fast" of OpenAI's newest models is billed as priority (LiteLLM's ServiceTier).
_ALSO = {"priority": "fast"}
# With `service_tier` absent or "auto" OpenAI uses the tier of the project's settings, which may be
# priority; Anthropic's "auto" uses committed capacity at the list price, which needs no entry.
_AUTO_TIERS = {"openai": ("priority",), "azure": ("priority",)}
# xAI reprices from the threshold on, everyone else above it (LiteLLM's inclusive list).
_INCLUSIVE = frozenset({"xai"})
# What translation between dialects asks a model's entry, as "name" or "!name".
_FEATURES = (
    "adaptive_thinking assistant_prefill forced_tool_use function_calling max_reasoning_effort "
    "mid_conversation_system native_structured_output output_config pdf_input prompt_caching "
    "reasoning sampling_params vision web_search xhigh_reasoning_effort"
).split()

_Entry = dict[str, Any]


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a build did: models per provider, and every key it left out, rounded or filled in."""

    models: dict[str, int]
    input_sha256: str
    skipped: dict[str, str]
    rounded: tuple[str, ...]
    assumed: dict[str, str]
    disagreeing: tuple[str, ...]


class _Notes:
    """The report while it is being written."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        self.rounded: list[str] = []
        self.assumed: dict[str, str] = {}
        self.disagreeing: list[str] = []


def build(litellm_json: Path, out: Path, *, source: str, date: str) -> BuildReport:
    """Writes the price table ``out``; raises ConfigError when the list cannot be read."""
    try:
        raw = litellm_json.read_bytes()
        listing = json.loads(raw, parse_float=Decimal)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{litellm_json}: expected LiteLLM's model list: {error}") from error
    if not isinstance(listing, dict):
        raise ConfigError(f"{litellm_json}: expected an object of models, found another value")
    notes = _Notes()
    chosen = sorted(_chosen(listing, notes).items())
    models = {name: _model(name, entry, notes) for name, entry in chosen}
    digest = hashlib.sha256(raw).hexdigest()
    table = Table(format=FORMAT, source=source, date=date, input_sha256=digest, models=models)
    out.write_bytes(_lines(table))
    counts: dict[str, int] = {}
    for name in models:
        provider = name.partition("/")[0]
        counts[provider] = counts.get(provider, 0) + 1
    return BuildReport(
        models=counts,
        input_sha256=digest,
        skipped=notes.skipped,
        rounded=tuple(dict.fromkeys(notes.rounded)),
        assumed=notes.assumed,
        disagreeing=tuple(notes.disagreeing),
    )


def _lines(table: Table) -> bytes:
    """The table as JSON with one model a line, so that a refresh reads well as a diff."""
    head = msgspec.json.encode(msgspec.structs.replace(table, models={}), order="deterministic")
    rows = [
        msgspec.json.encode(name) + b":" + msgspec.json.encode(model, order="deterministic")
        for name, model in table.models.items()
    ]
    return head.replace(b'"models":{}', b'"models":{\n' + b",\n".join(rows) + b"\n}") + b"\n"


def _chosen(listing: dict[str, Any], notes: _Notes) -> dict[str, _Entry]:
    """Our name -> entry for everything that is priced per token by a provider we know."""
    ranks = list(PROVIDERS)
    found: list[tuple[int, bool, str, str, _Entry]] = []
    for key, entry in listing.items():
        theirs = str(entry.get("litellm_provider", "")).partition("-")[0]
        if theirs not in PROVIDERS or entry.get("mode") not in MODES:
            continue
        ours, prefixes = PROVIDERS[theirs]
        prefix = next((each for each in prefixes if key.startswith(each)), "")
        name = f"{ours}/{key.removeprefix(prefix)}"
        reason = _unusable(key, entry)
        if reason is not None:
            notes.skipped[key] = reason
        else:
            found.append((ranks.index(theirs), not prefix, name, key, entry))
    chosen: dict[str, _Entry] = {}
    for _, _, name, key, entry in sorted(found, key=lambda each: each[:3]):
        before = chosen.get(name, {})
        pair = [(one.get(_INPUT), one.get(_OUTPUT)) for one in (before, entry)]
        if before and pair[0] != pair[1]:
            notes.disagreeing.append(f"{name}: {key} says {pair[1]}, kept {pair[0]}")
        chosen[name] = {**entry, **before}
    return chosen


def _unusable(key: str, entry: _Entry) -> str | None:
    """Why an entry cannot price a request by its tokens, or None when it can."""
    if _NO_MODEL.search(key):
        return "not a model id of the provider"
    if not entry.get(_INPUT):
        return "no input price per token"
    output = entry.get(_OUTPUT)
    if not output and entry["mode"] != "embedding":
        return "no output price per token"
    for medium in ("audio", "image", "video"):
        # One price per output token would bill a picture or a voice as text.
        if entry.get(f"output_cost_per_{medium}_token", 0) > (output or 0):
            return f"{medium} output is dearer than text"
    return None


def _model(name: str, entry: _Entry, notes: _Notes) -> Model:
    provider = name.partition("/")[0]
    card = _card(name, entry, notes)
    multipliers, cards = _service_tiers(name, entry, card, notes)
    auto: dict[str, tuple[str, ...]] = {}
    possible = [*multipliers.get(SERVICE_TIER, ()), *cards]
    tiers = tuple(tier for tier in _AUTO_TIERS.get(provider, ()) if tier in possible)
    if tiers:
        auto[SERVICE_TIER] = tiers
    own = entry.get("provider_specific_entry") or {}
    if "fast" in own:
        multipliers[SPEED] = {"fast": _ratio(own["fast"])}
    geos = {
        region: _ratio(entry[f"regional_processing_uplift_multiplier_{region}"])
        for region in ("eu", "us")
        if f"regional_processing_uplift_multiplier_{region}" in entry
    }
    if "us" in own:
        # A request that names no region gets the workspace's default_inference_geo.
        geos["us"], auto[GEO] = _ratio(own["us"]), ("us",)
    if "regional_endpoint_uplift_multiplier" in entry:
        geos["regional"] = _ratio(entry["regional_endpoint_uplift_multiplier"])
    if geos:
        multipliers[GEO] = geos
    searches = entry.get("search_context_cost_per_query") or {}
    price = Price(
        **_rates(card),
        tiers=card.tiers,
        web_search=_whole(name, max(searches.values(), default=0), 9, notes),
        multipliers=multipliers,
        service_tiers=cards,
        auto=auto,
        max_input_tokens=entry.get("max_input_tokens"),
        max_output_tokens=entry.get("max_output_tokens"),
    )
    mode = {} if entry["mode"] == "chat" else {"mode": entry["mode"]}
    return Model(price=price, features=_features(entry), **mode)


def _rates(card: Rates) -> dict[str, int]:
    return {field: getattr(card, field) for field in Rates.__struct_fields__}


def _card(name: str, entry: _Entry, notes: _Notes) -> RateCard:
    """The standard prices with their long-context tiers."""
    return _assemble(
        name,
        _writes(name, _found(name, entry, "", notes), notes),
        [
            (above, _writes(name, _found(name, entry, f"_above_{label}_tokens", notes), notes))
            for label, above in _thresholds(entry)
        ],
    )


def _assemble(name: str, base: dict[str, int], longs: list[tuple[int, dict[str, int]]]) -> RateCard:
    """A price list in which no bucket of a long context is cheaper than in a short one."""
    rates = Rates(**base)
    inclusive = name.partition("/")[0] in _INCLUSIVE
    tiers = []
    for above, over in longs:
        full = {"output": rates.output, **over}
        for field in ("cache_read", "cache_write_5m", "cache_write_1h", "thinking"):
            like = full["output"] if field == "thinking" else full["input"]
            full[field] = max(full.get(field, like), getattr(rates, field))
        tiers.append(Tier(above=above - inclusive, **full))
    return RateCard(**base, tiers=tuple(tiers))


def _writes(name: str, found: dict[str, int], notes: _Notes) -> dict[str, int]:
    """``found`` with the cache write prices the list lacks but the provider surely charges.

    Every Claude writes at 1.25 times (5 minutes) and twice (1 hour) its input price
    (platform.claude.com pricing page); the general rule, the input price, would be too low. A
    longer write of any other model is never cheaper than its shorter one.
    """
    for field, quarters in (("cache_write_5m", 5), ("cache_write_1h", 8)):
        if "claude" in name and field not in found:
            found[field] = -(-found["input"] * quarters // 4)
            notes.assumed[f"{name} {field}"] = f"{quarters}/4 of the input price"
    if "cache_write_5m" in found:
        found.setdefault("cache_write_1h", max(found["input"], found["cache_write_5m"]))
    return found


def _found(name: str, entry: _Entry, suffix: str, notes: _Notes) -> dict[str, int]:
    found = {}
    for field, keys in _FIELDS.items():
        for key in keys:
            value = entry.get(key + suffix)
            # A cache price of zero means that the provider reports no such tokens.
            if value or (value is not None and field == "output"):
                found[field] = _whole(f"{name} {key}{suffix}", value, 12, notes)
                break
    if "input" in found and entry["mode"] == "embedding":
        found.setdefault("output", 0)
    return found


def _thresholds(entry: _Entry) -> list[tuple[str, int]]:
    """The long contexts of an entry as (label, tokens): ("272k", 272000), smallest first."""
    found = []
    for key, value in entry.items():
        match = re.fullmatch(rf"{_INPUT}_above_(\d+)(k?)_tokens", key)
        if match and value:
            found.append((match[1] + match[2], int(match[1]) * (1000 if match[2] else 1)))
    return sorted(found, key=lambda each: each[1])


def _service_tiers(
    name: str, entry: _Entry, card: RateCard, notes: _Notes
) -> tuple[dict[str, dict[str, Ratio]], dict[str, RateCard]]:
    """Each service tier as one multiplier where all its prices agree, else as a card of its own."""
    ratios: dict[str, Ratio] = {}
    cards: dict[str, RateCard] = {}
    for ending, tier in _SERVICE_TIERS.items():
        pairs = _pairs(name, entry, card, f"_{ending}", notes)
        seen = {Fraction(own, standard) for own, standard in pairs if standard}
        if len(seen) == 1:
            ratio = seen.pop()
            ratios[tier] = (ratio.numerator, ratio.denominator)
        elif seen:
            cards[tier] = _own_card(name, entry, f"_{ending}", max(seen), notes)
    if name.startswith(("openai/", "azure/")):
        for tier, also in _ALSO.items():
            if tier in ratios:
                ratios[also] = ratios[tier]
            if tier in cards:
                cards[also] = cards[tier]
    return ({SERVICE_TIER: ratios} if ratios else {}), cards


def _pairs(
    name: str, entry: _Entry, card: RateCard, suffix: str, notes: _Notes
) -> Iterator[tuple[int, int]]:
    """(price in the service tier, standard price) for every price the tier lists."""
    for field, own in _found(name, entry, suffix, notes).items():
        yield own, getattr(card, field)
    for (label, _), standard in zip(_thresholds(entry), card.tiers, strict=True):
        for field, own in _found(name, entry, f"_above_{label}_tokens{suffix}", notes).items():
            yield own, getattr(standard, field)


def _own_card(name: str, entry: _Entry, suffix: str, ratio: Fraction, notes: _Notes) -> RateCard:
    """The prices of a tier; what it does not list is the standard price times its dearest ratio."""
    times = max(ratio, Fraction(1))

    def at(context: str) -> dict[str, int]:
        standard = _writes(name, _found(name, entry, context, notes), notes)
        scaled = {field: -int(-price * times // 1) for field, price in standard.items()}
        return {**scaled, **_found(name, entry, context + suffix, notes)}

    longs = [(above, at(f"_above_{label}_tokens")) for label, above in _thresholds(entry)]
    return _assemble(name, at(""), longs)


def _features(entry: _Entry) -> str:
    flags = {name: entry.get(f"supports_{name}") for name in _FEATURES}
    flags["thinking_always_on"] = entry.get("thinking_always_on")
    return " ".join(
        name if flag else f"!{name}" for name, flag in flags.items() if flag is not None
    )


def _ratio(value: Any) -> Ratio:
    exact = Fraction(value)
    return exact.numerator, exact.denominator


def _whole(name: str, value: Any, places: int, notes: _Notes) -> int:
    """USD as an integer of 10**-places USD, rounded up and noted when it is not whole."""
    scaled = Decimal(value).scaleb(places)
    whole = scaled.to_integral_value(ROUND_CEILING)
    if whole != scaled:
        notes.rounded.append(f"{name}: {value}")
    return int(whole)
