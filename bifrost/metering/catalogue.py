"""The price table: what every known model costs, with the administrator's own prices on top.

Part of the metering room. The table of the package is made by ``build.py``, the administrator's
prices are read by ``overrides.py``. Lookups are by exact id, never by resemblance.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from importlib import resources
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import msgspec

from bifrost.errors import StoreError
from bifrost.metering.overrides import Override, read_overrides
from bifrost.metering.prices import Price
from bifrost.metering.usage import Usage

FORMAT = 1
MOCK, MOCK_LIKE, MOCK_MODEL = "mock", "anthropic", "claude-sonnet-4-5"
# Claude's own service, sold by another: its marketplace charges Anthropic's list prices.
_SOLD = {"anthropic_aws": "anthropic", "anthropic_google_cloud": "anthropic"}
_REMEMBERED = 4096
_LINE = re.compile(r"claude-(?:[\d.-]+-)?(opus|sonnet|haiku|fable|mythos)")
_NAME = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d)(?:-(\d))?(?:-\d{8})?")


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of the table. ``features`` are words, ``!word`` where the model lacks it."""

    price: Price
    features: str = ""
    mode: str = "chat"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The price table as stored: ``models`` by "<provider type>/<model id>"."""

    format: int
    source: str
    date: str
    input_sha256: str
    models: dict[str, Model]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a model list says of a model. ``line`` is the vendor's tier name (opus, sonnet, …),
    ``features`` what translation may rely on: True, False, or absent when unknown."""

    id: str
    display_name: str | None = None
    line: str | None = None
    mode: str = "chat"
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    features: dict[str, bool] = {}


class Origin(msgspec.Struct, frozen=True):
    """Who set a price: the store, the price file or the catalogue; the pattern that matched."""

    kind: Literal["store", "file", "catalogue"]
    pattern: str


class Catalogue:
    """Prices by provider type and model id; immutable once made, cheap to ask.

    The administrator's ``stored`` prices win over those of his ``file``, these over the table; of
    one kind the first that matches wins.

    Attributes
    ----------
    source, date: where and when the package's table was taken.
    package: SHA-256 (hex) of that table.
    digest: SHA-256 (hex) over the table in canonical form and the administrator's prices; two
        gateways with the same digest bill alike. Settled rows name it.
    """

    def __init__(
        self, table: Table, file: Sequence[Override] = (), stored: Sequence[Override] = ()
    ) -> None:
        self.source = table.source
        self.date = table.date
        self.table = table
        self._hash = hashlib.sha256(self.listing())
        self.package = self._hash.hexdigest()
        self._models: dict[str, dict[str, Model]] = {}
        for name, model in table.models.items():
            provider, _, model_id = name.partition("/")
            self._models.setdefault(provider, {})[model_id] = model
        for seller, vendor in _SOLD.items():
            self._models.setdefault(seller, self._models.get(vendor, {}))
        self._lay(file, stored)

    def _lay(self, file: Sequence[Override], stored: Sequence[Override]) -> None:
        self._overrides = (*stored, *file)
        self._stored = len(stored)
        digest = self._hash.copy()
        if self._overrides:
            digest.update(msgspec.json.encode(self._overrides, order="deterministic"))
        self.digest = digest.hexdigest()
        self._answers: dict[tuple[str, str, str | None], Price | None] = {}

    @classmethod
    def load(cls, override: Path | None = None) -> Self:
        """The package's table under the price file ``override``; ConfigError if that is bad."""
        path = resources.files("bifrost.metering") / "data" / "prices.json"
        try:
            table = msgspec.json.decode(path.read_bytes(), type=Table)
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(f"{path}: cannot read the price table, reinstall: {error}") from error
        if table.format != FORMAT:
            raise StoreError(f"{path}: price table format {table.format}, expected {FORMAT}")
        return cls(table, read_overrides(override) if override is not None else ())

    def under(self, file: Sequence[Override] = (), stored: Sequence[Override] = ()) -> Catalogue:
        """The same table under other prices of the administrator."""
        other = copy.copy(self)
        other._lay(file, stored)
        return other

    def listing(self) -> bytes:
        """The package's models in canonical form, as ``package`` is computed of."""
        return msgspec.json.encode(self.table.models, order="deterministic")

    def price(self, provider_type: str, model: str, *, name: str | None = None) -> Price | None:
        """The price of an exact model id, or None when nobody priced it.

        The administrator's patterns see the provider as its type or as its configured ``name``.
        Provider type ``mock`` charges for a claude id what ``anthropic`` does, for any other id
        what ``anthropic`` does for claude-sonnet-4-5.
        """
        key = (provider_type, model, name)
        try:
            return self._answers[key]
        except KeyError:
            pass
        found = self._find(provider_type, model, name)
        if provider_type == MOCK and found is None:
            found = self.price(MOCK_LIKE, model) or self.price(MOCK_LIKE, MOCK_MODEL)
        if len(self._answers) >= _REMEMBERED:
            self._answers.clear()
        self._answers[key] = found
        return found

    def priced(
        self, provider_type: str, model: str, region: str | None, *, name: str | None = None
    ) -> str:
        """The id that a model's price goes by in a region of its cloud: ``<region>/<model>`` where
        the table has that and the administrator has no price of his own for the model."""
        placed = f"{region}/{model}"
        if region is None or placed not in self._models.get(provider_type, {}):
            return model
        own = any(_about(one, provider_type, model, name) for one in self._overrides)
        return model if own else placed

    def origin(self, provider_type: str, model: str, *, name: str | None = None) -> Origin | None:
        """Where ``price`` has the price of a model from, None when nobody priced it."""
        for number, override in enumerate(self._overrides):
            if _about(override, provider_type, model, name):
                kind: Literal["store", "file"] = "store" if number < self._stored else "file"
                return Origin(kind, override.pattern)
        if model in self._models.get(provider_type, {}):
            return Origin("catalogue", f"{provider_type}/{model}")
        if provider_type == MOCK:
            return self.origin(MOCK_LIKE, model) or self.origin(MOCK_LIKE, MOCK_MODEL)
        return None

    def provider(self, provider_type: str) -> Mapping[str, Price]:
        """All priced model ids of a provider type; ids that own prices name literally included."""
        source = MOCK_LIKE if provider_type == MOCK else provider_type
        ids = dict.fromkeys(self._models.get(source, ()))
        ids |= dict.fromkeys(one.model for one in self._overrides if one.names(source))
        found = {model: self.price(provider_type, model) for model in ids}
        return MappingProxyType({model: price for model, price in found.items() if price})

    def providers(self) -> list[str]:
        """The provider types the package has prices for, and ``mock``."""
        return sorted({*self._models, MOCK})

    def models(self, provider_type: str) -> list[ModelInfo]:
        """The priced models of a provider type, sorted by id."""
        source = MOCK_LIKE if provider_type == MOCK else provider_type
        rows = self._models.get(source, {})
        priced = self.provider(provider_type)
        return [_info(model, priced[model], rows.get(model)) for model in sorted(priced)]

    def features(self, provider_type: str, model: str) -> dict[str, bool]:
        """What a model of the package's table can do: True, False, or absent when unknown."""
        return _features(self._models.get(provider_type, {}).get(model))

    def mode(self, provider_type: str, model: str) -> str | None:
        """By what a model of the package's table is served: chat, responses, embedding; None when
        unknown."""
        found = self._models.get(provider_type, {}).get(model)
        return found.mode if found else None

    def cost(
        self, provider_type: str, usage: Usage, price: Price, *, name: str | None = None
    ) -> int:
        """Nano-USD of ``usage``, rounded up once; iterations at their own model's price.

        ``name`` is the provider's in the configuration. An iteration of a model nobody priced costs
        the dearest of ``price`` and all prices of the provider type.
        """
        if not usage.iterations:
            return price.cost(usage)
        total = Fraction(usage.web_searches * price.web_search)
        for iteration in usage.iterations:
            own: Price | None = price
            if iteration.model is not None:
                own = self.price(provider_type, iteration.model, name=name)
            if own is None:
                candidates = [price, *self.provider(provider_type).values()]
                total += max(each.charge(iteration, usage) for each in candidates)
            else:
                total += own.charge(iteration, usage)
        return ceil(total)

    def _find(self, provider_type: str, model: str, name: str | None) -> Price | None:
        row = self._models.get(provider_type, {}).get(model)
        known = row.price if row is not None else None
        for override in self._overrides:
            if _about(override, provider_type, model, name):
                return override.over(known)
        return known


def _about(override: Override, provider_type: str, model: str, name: str | None) -> bool:
    return override.matches(provider_type, model) or (
        name is not None and override.matches(name, model)
    )


def _info(model: str, price: Price, row: Model | None) -> ModelInfo:
    line = _LINE.search(model)
    named = _NAME.fullmatch(model)
    display = None
    if named is not None:
        version = ".".join(part for part in named.group(2, 3) if part)
        display = f"Claude {named[1].capitalize()} {version}"
    return ModelInfo(
        id=model,
        display_name=display,
        line=line[1] if line is not None else None,
        mode=row.mode if row is not None else "chat",
        max_input_tokens=price.max_input_tokens,
        max_output_tokens=price.max_output_tokens,
        features=_features(row),
    )


def _features(row: Model | None) -> dict[str, bool]:
    words = row.features.split() if row is not None else []
    return {word.removeprefix("!"): not word.startswith("!") for word in words}
