"""The administrator's own prices, from the price file or the store: they win over the catalogue.

Part of the metering room. The format is public (docs/prices.md); money is written as decimal
strings, so that no price passes through a float.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from bifrost.errors import ConfigError, PriceError
from bifrost.metering.prices import DIMENSIONS, Price, RateCard, Rates, Ratio, Tier

_RATES = Rates.__struct_fields__
_LIMITS = ("max_input_tokens", "max_output_tokens")
_FIELDS = (*_RATES, "tiers", "web_search", "multipliers", "service_tiers", "auto", *_LIMITS)
_DECIMAL = re.compile(r"([0-9]{1,9})(?:\.([0-9]+))?")
_FRACTION = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_WILD = re.compile(r"\[.[^]]*\]|[*?]")
_MAX_TOKENS = 1 << 40
LONGEST = 400  # characters of a pattern
LONGEST_NAME = 128  # characters of a tier, speed or region


class Override(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One entry of the price file or the store; ``given`` are the fields it wrote."""

    pattern: str
    price: Price
    given: tuple[str, ...]

    @property
    def model(self) -> str:
        """The model side of the pattern."""
        return self.pattern.partition("/")[2]

    def matches(self, provider: str, model: str) -> bool:
        """Whether the entry is about this model; ``*`` also spans slashes, case counts."""
        theirs, ids = self._sides
        return theirs.match(provider) is not None and ids.match(model) is not None

    def names(self, provider: str) -> bool:
        """Whether the entry names, without a pattern, one model that ``provider`` has."""
        return not re.search(r"[*?\[]", self.model) and self.matches(provider, self.model)

    def over(self, known: Price | None) -> Price:
        """The price to charge. Token prices are the entry's alone; search price, multipliers and
        limits that it leaves out stay as the table has them."""
        if known is None:
            return self.price
        kept: dict[str, Any] = {
            field: getattr(known, field)
            for field in ("web_search", *_LIMITS)
            if field not in self.given
        }
        if not {"multipliers", "service_tiers"}.intersection(self.given):
            kept["multipliers"] = _multipliers_of(known)
            kept["auto"] = self.price.auto if "auto" in self.given else known.auto
        return msgspec.structs.replace(self.price, **kept)

    @cached_property
    def _sides(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        provider, _, model = self.pattern.partition("/")
        return re.compile(fnmatch.translate(provider)), re.compile(fnmatch.translate(model))


def _multipliers_of(price: Price) -> dict[str, dict[str, Ratio]]:
    """The multipliers of ``price``; a service tier with prices of its own as its dearest ratio."""
    found = {dimension: dict(ratios) for dimension, ratios in price.multipliers.items()}
    for name, card in price.service_tiers.items():
        ratios = [
            Fraction(getattr(card.at(prompt), field), getattr(price.at(prompt), field))
            for prompt in (0, *(tier.above + 1 for tier in price.tiers))
            for field in _RATES
            if getattr(price.at(prompt), field)
        ]
        ratio = max(ratios, default=Fraction(1))
        found.setdefault("service_tier", {})[name] = (ratio.numerator, ratio.denominator)
    return found


def read_overrides(path: Path) -> tuple[Override, ...]:
    """The entries of a price file in their order; ConfigError names the path inside the file."""
    return overrides(read_file(path), str(path))


def read_file(path: Path) -> dict[str, Any]:
    """The entries of a price file as they are written, fields by pattern, not yet checked.

    Raises ConfigError when it is no price file.
    """
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the price file: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a JSON object: {error}") from error
    reader = _Reader(str(path))
    reader.known(document, "", ("models", "$schema"))
    if "models" not in document:
        raise ConfigError(f'{path}: expected the field "models"')
    return reader.table(document["models"], "models")


def overrides(written: Mapping[str, Any], where: str) -> tuple[Override, ...]:
    """Written entries, checked, in their order; ConfigError begins with ``where``."""
    reader = _Reader(where)
    return tuple(_override(reader, pattern, value) for pattern, value in written.items())


def narrowness(pattern: str) -> tuple[bool, int, str]:
    """Sort key of entries without an order of their own: exact names, then the longer patterns."""
    literal = _WILD.sub("", pattern)
    return literal != pattern, -len(literal), pattern


def place_of(pattern: str) -> str:
    """How a complaint names an entry."""
    return f'models["{pattern}"]'


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with the name of an entry."""
    provider, slash, model = pattern.partition("/")
    if not (provider and slash and model):
        return 'expected a name of the form "<provider>/<model>"'
    if len(pattern) > LONGEST or not pattern.isprintable():
        return f"expected at most {LONGEST} printable characters"
    return None


def _override(reader: _Reader, pattern: str, value: Any) -> Override:
    at = place_of(pattern)
    problem = pattern_problem(pattern)
    if problem is not None:
        raise reader.error(at[:LONGEST], problem)
    reader.known(value, at, _FIELDS)
    card = _card(reader, value, at)
    multipliers = _multipliers(reader, value.get("multipliers", {}), f"{at}.multipliers")
    cards = {
        name: _card(reader, one, f"{at}.service_tiers.{name}", whole=True)
        for name, one in reader.named(value.get("service_tiers", {}), f"{at}.service_tiers").items()
    }
    limits: dict[str, int] = {
        field: reader.count(value[field], f"{at}.{field}") for field in _LIMITS if field in value
    }
    # Unless "auto" says otherwise, what a request leaves open may be any of the names given.
    possible = {dimension: tuple(names) for dimension, names in multipliers.items()}
    possible["service_tier"] = (*possible.get("service_tier", ()), *cards)
    possible.pop("speed", None)
    auto = {dimension: names for dimension, names in possible.items() if names}
    if "auto" in value:
        auto = _auto(reader, value["auto"], f"{at}.auto", multipliers, tuple(cards))
    rates: dict[str, int] = {field: getattr(card, field) for field in _RATES}
    price = Price(
        **rates,
        tiers=card.tiers,
        web_search=reader.money(value.get("web_search", "0"), f"{at}.web_search", 9),
        multipliers=multipliers,
        service_tiers=cards,
        auto=auto,
        **limits,
    )
    return Override(pattern=pattern, price=price, given=tuple(value))


def _card(reader: _Reader, value: Any, at: str, *, whole: bool = False) -> RateCard:
    if whole:
        reader.known(value, at, (*_RATES, "tiers"))
    rates = _rates(reader, value, at)
    tiers = []
    written = value.get("tiers", [])
    if not isinstance(written, list):
        raise reader.error(f"{at}.tiers", "expected a list of long-context tiers")
    for index, one in enumerate(written):
        here = f"{at}.tiers[{index}]"
        reader.known(one, here, ("above", *_RATES))
        if "above" not in one:
            raise reader.error(here, 'expected the field "above" (tokens of the prompt)')
        own = _rates(reader, one, here)
        base = Rates(**rates)
        for field in ("cache_read", "cache_write_5m", "cache_write_1h", "thinking"):
            like = own["output"] if field == "thinking" else own["input"]
            own.setdefault(field, max(like, getattr(base, field) if field in rates else 0))
        tiers.append(Tier(above=reader.count(one["above"], f"{here}.above"), **own))
    tiers.sort(key=lambda tier: tier.above)
    return RateCard(**rates, tiers=tuple(tiers))


def _rates(reader: _Reader, value: dict[str, Any], at: str) -> dict[str, int]:
    for field in ("input", "output"):
        if field not in value:
            raise reader.error(at, f'expected the field "{field}" (USD per million tokens)')
    return {
        field: reader.money(value[field], f"{at}.{field}", 6) for field in _RATES if field in value
    }


def _multipliers(reader: _Reader, value: Any, at: str) -> dict[str, dict[str, Ratio]]:
    reader.known(value, at, DIMENSIONS)
    return {
        dimension: {
            name: reader.ratio(one, f"{at}.{dimension}.{name}")
            for name, one in reader.named(names, f"{at}.{dimension}").items()
        }
        for dimension, names in value.items()
    }


def _auto(
    reader: _Reader,
    value: Any,
    at: str,
    multipliers: dict[str, dict[str, Ratio]],
    cards: tuple[str, ...],
) -> dict[str, tuple[str, ...]]:
    reader.known(value, at, DIMENSIONS)
    found = {}
    for dimension, names in value.items():
        known = (*multipliers.get(dimension, ()), *(cards if dimension == "service_tier" else ()))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise reader.error(f"{at}.{dimension}", "expected a list of names")
        reader.named(dict.fromkeys(names), f"{at}.{dimension}")
        for name in names:
            if known and name not in known:
                raise reader.error(f"{at}.{dimension}", f'no price for "{name}"', name, known)
        found[dimension] = tuple(names)
    return found


class _Reader:
    """Checks values of one file and words what is wrong with them."""

    def __init__(self, file: str) -> None:
        self.file = file

    def error(
        self, at: str, text: str, name: str | None = None, known: Iterable[str] = ()
    ) -> PriceError:
        close = difflib.get_close_matches(name, list(known), 1, 0.5) if name is not None else []
        hint = f', did you mean "{close[0]}"?' if close else ""
        return PriceError(self.file, at, text + hint)

    def table(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(at, f"expected an object, found {_said(value)}")
        return value

    def named(self, value: Any, at: str) -> dict[str, Any]:
        """An object whose keys are names of tiers, speeds or regions."""
        for name in self.table(value, at):
            if len(name) > LONGEST_NAME or not name.isprintable():
                raise self.error(
                    at, f"expected names of at most {LONGEST_NAME} printable characters"
                )
        return dict(value)

    def known(self, value: Any, at: str, fields: tuple[str, ...]) -> None:
        for name in self.table(value, at):
            if name not in fields:
                where = f"{at}.{name}" if at else name
                text = f"unknown field; expected one of {', '.join(fields)}"
                raise self.error(where, text, name, fields)

    def count(self, value: Any, at: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TOKENS:
            raise self.error(at, f"expected a whole number of tokens, found {_said(value)}")
        return int(value)

    def money(self, value: Any, at: str, places: int) -> int:
        """A decimal string in USD as an integer of 10**-places USD."""
        unit = "USD per request" if places == 9 else "USD per million tokens"
        wanted = f'a decimal string in {unit}, such as "3.75"'
        if isinstance(value, int | float) and not isinstance(value, bool):
            advice = f'put it in quotes: "{value}"' if value >= 0 else "a price cannot be negative"
            raise self.error(at, f"expected {wanted}, found the number {value}; {advice}")
        match = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            negative = isinstance(value, str) and value.strip().startswith("-")
            reason = "; a price cannot be negative" if negative else ""
            raise self.error(at, f"expected {wanted}, found {_said(value)}{reason}")
        decimals = (match[2] or "").rstrip("0")
        if len(decimals) > places:
            raise self.error(at, f"expected at most {places} decimals, found {_said(value)}")
        return int(match[1] + decimals.ljust(places, "0"))

    def ratio(self, value: Any, at: str) -> Ratio:
        """A factor above zero, written "1.1" or "2/3"."""
        text = value if isinstance(value, str) else ""
        if _DECIMAL.fullmatch(text) or _FRACTION.fullmatch(text):
            try:
                exact = Fraction(text)
            except ZeroDivisionError:
                exact = Fraction(0)
            if exact > 0:
                return exact.numerator, exact.denominator
        quoted = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        advice = f'; put it in quotes: "{value}"' if quoted else ""
        raise self.error(at, f'expected a factor such as "1.1", found {_said(value)}{advice}')


def _said(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:37]}..."
