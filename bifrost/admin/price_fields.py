"""The fields of a price as the API and the price file have them, for the OpenAPI document.

What they mean and every further rule is the metering room's.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from bifrost.config.settings import Spec

MOST_TOKENS = 1 << 40
PerMillion = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]+)?$",
        description="USD per million tokens, at most 6 decimals.",
    ),
]
PerRequest = Annotated[
    str,
    Meta(pattern=r"^[0-9]{1,9}(\.[0-9]+)?$", description="USD per search, at most 9 decimals."),
]
Factor = Annotated[
    str,
    Meta(pattern=r"^([0-9]{1,9}(\.[0-9]+)?|[0-9]{1,9}/[0-9]{1,9})$", description="1.1, or 2/3."),
]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Tokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class RateFields(Spec, frozen=True, kw_only=True):
    """Prices per token; a cache price left out is the input price, thinking the output price."""

    input: PerMillion
    output: PerMillion
    cache_read: PerMillion | UnsetType = UNSET
    cache_write_5m: PerMillion | UnsetType = UNSET
    cache_write_1h: PerMillion | UnsetType = UNSET
    thinking: PerMillion | UnsetType = UNSET


class TierFields(RateFields, frozen=True, kw_only=True):
    """Prices of requests whose prompt has more than ``above`` tokens."""

    above: Tokens


class CardFields(RateFields, frozen=True, kw_only=True):
    """A service tier's own prices."""

    tiers: tuple[TierFields, ...] | UnsetType = UNSET


class FactorFields(Spec, frozen=True, kw_only=True):
    """Factors on all token prices, by the name of the tier, speed or region."""

    service_tier: dict[str, Factor] | UnsetType = UNSET
    speed: dict[str, Factor] | UnsetType = UNSET
    inference_geo: dict[str, Factor] | UnsetType = UNSET


class AutoFields(Spec, frozen=True, kw_only=True):
    """What a provider may apply unasked."""

    service_tier: tuple[Name, ...] | UnsetType = UNSET
    speed: tuple[Name, ...] | UnsetType = UNSET
    inference_geo: tuple[Name, ...] | UnsetType = UNSET


class PriceFields(CardFields, frozen=True, kw_only=True):
    """A price in the form of the price file (docs/prices.md)."""

    web_search: PerRequest | UnsetType = UNSET
    multipliers: FactorFields | UnsetType = UNSET
    service_tiers: dict[str, CardFields] | UnsetType = UNSET
    auto: AutoFields | UnsetType = UNSET
    max_input_tokens: Tokens | UnsetType = UNSET
    max_output_tokens: Tokens | UnsetType = UNSET
