"""What requests can be sent to: providers, models with their prices; and the configuration."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bifrost.admin.problems import Problem
from bifrost.admin.queries import PageQuery
from bifrost.admin.table import Ask, House, NoQuery, Operation, Reply
from bifrost.config import settings
from bifrost.config.findings import meant
from bifrost.config.load import public
from bifrost.lanes import Lanes
from bifrost.metering.prices import describe

HIDDEN = "***"
LEAST_HINTED = 16  # a secret shorter than this would be given away by its last characters


class ProviderKey(msgspec.Struct, frozen=True, kw_only=True):
    """A credential of a provider without its secret; ``hint`` are its last four characters."""

    name: str
    weight: float
    hint: str | None


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A host that answers requests."""

    name: str
    type: str
    base_url: str
    keys: tuple[ProviderKey, ...]
    timeout_s: float
    max_retries: int
    max_connections: int
    has_proxy: bool


class Providers(msgspec.Struct, frozen=True, kw_only=True):
    """All providers."""

    items: tuple[Provider, ...]
    total: int


class ProviderKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of one provider."""

    items: tuple[ProviderKey, ...]
    total: int


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests for a configured name go."""

    provider: str
    model: str | None
    weight: float
    standby: bool


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a provider, or a configured name with its ``targets`` (then no provider).

    ``price`` is USD per million tokens as decimal text, in the form of the price file, and
    ``price_from`` who set it; null is a model without a price, which is refused.
    """

    name: str
    provider: str | None
    display_name: str | None
    line: str | None
    max_input_tokens: int | None
    max_output_tokens: int | None
    targets: tuple[Target, ...]
    price: dict[str, Any] | None
    price_from: Literal["store", "file", "catalogue"] | None


class RoutingRule(msgspec.Struct, frozen=True, kw_only=True):
    """Sends requests elsewhere while a condition holds."""

    name: str
    when: str
    models: tuple[str, ...]
    targets: tuple[Target, ...]


class RoutingRules(msgspec.Struct, frozen=True, kw_only=True):
    """All rules, in the order in which they are asked."""

    items: tuple[RoutingRule, ...]
    total: int


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """Which prices hold: settled rows name the first 16 digits of the digest."""

    digest: str
    source: str
    date: str


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """A page of models, by name."""

    items: tuple[Model, ...]
    total: int
    limit: int
    offset: int
    price_table: PriceTable


def _keys(provider: settings.Provider) -> tuple[ProviderKey, ...]:
    return tuple(
        ProviderKey(
            name=key.name,
            weight=key.weight,
            hint=key.value[-4:] if len(key.value) >= LEAST_HINTED else None,
        )
        for key in provider.keys
    )


def _provider(house: House, name: str) -> Provider:
    provider = house.settings().providers[name]
    hosts = house.lanes().hosts
    network = provider.network
    return Provider(
        name=name,
        type=provider.type,
        base_url=hosts[name][0].base_url if name in hosts else network.base_url or "",
        keys=_keys(provider),
        timeout_s=network.timeout_s,
        max_retries=network.max_retries,
        max_connections=network.max_connections,
        has_proxy=network.proxy is not None,
    )


def _named(house: House, ask: Ask) -> str:
    name, known = ask.params["name"], house.settings().providers
    if name not in known:
        raise Problem(404, f"There is no provider {name!r}{meant(name, known)}.")
    return name


def providers(house: House, ask: Ask) -> Reply:
    """All providers, by name."""
    items = tuple(_provider(house, name) for name in sorted(house.settings().providers))
    return Reply(value=Providers(items=items, total=len(items)))


def provider(house: House, ask: Ask) -> Reply:
    """One provider."""
    return Reply(value=_provider(house, _named(house, ask)))


def provider_keys(house: House, ask: Ask) -> Reply:
    """The names of a provider's credentials."""
    items = _keys(house.settings().providers[_named(house, ask)])
    return Reply(value=ProviderKeys(items=items, total=len(items)))


def _targets(targets: tuple[settings.Target, ...]) -> tuple[Target, ...]:
    return tuple(Target(**msgspec.structs.asdict(target)) for target in targets)


def rules(house: House, ask: Ask) -> Reply:
    """The rules that send requests elsewhere."""
    items = tuple(
        RoutingRule(name=one.name, when=one.when, models=one.models, targets=_targets(one.targets))
        for one in house.settings().routing.rules
    )
    return Reply(value=RoutingRules(items=items, total=len(items)))


def models(house: House, ask: Ask) -> Reply:
    """Models of the configured providers and configured names."""
    query, lanes = ask.query, house.lanes()
    found = [
        Model(
            name=name, provider=None, display_name=None, line=None, max_input_tokens=None,
            max_output_tokens=None, price=None, price_from=None,
            targets=_targets(targets),
        )
        for name, targets in house.settings().models.items()
    ]  # fmt: skip
    for name, (host, _) in lanes.hosts.items():
        for info in lanes.catalogue.models(host.kind):
            price = lanes.catalogue.price(host.kind, info.id, name=name)
            found.append(
                Model(
                    name=info.id, provider=name, display_name=info.display_name, line=info.line,
                    max_input_tokens=info.max_input_tokens,
                    max_output_tokens=info.max_output_tokens, targets=(),
                    price=describe(price) if price is not None else None, price_from=None,
                )
            )  # fmt: skip
    wanted = query.q.casefold()
    fitting = [model for model in found if wanted in model.name.casefold()]
    fitting.sort(key=lambda model: (model.name, model.provider or ""))
    page, catalogue = fitting[query.offset : query.offset + query.limit], lanes.catalogue
    return Reply(
        value=Models(
            items=tuple(_sourced(lanes, model) for model in page),
            total=len(fitting),
            limit=query.limit,
            offset=query.offset,
            price_table=PriceTable(
                digest=catalogue.digest, source=catalogue.source, date=catalogue.date
            ),
        )
    )


def _sourced(lanes: Lanes, model: Model) -> Model:
    """The model with who set its price."""
    if model.provider is None:
        return model
    kind = lanes.hosts[model.provider][0].kind
    origin = lanes.catalogue.origin(kind, model.name, name=model.provider)
    return msgspec.structs.replace(model, price_from=origin.kind if origin is not None else None)


def configuration(house: House, ask: Ask) -> Reply:
    """The running configuration."""
    return Reply(value=public(house.settings(), hidden=HIDDEN))


def operations() -> list[Operation]:
    """The rows of providers, models and the configuration."""
    return [
        Operation(method="GET", path="/api/providers", name="list_providers",
                  summary="List providers, without their secrets.", permission="providers:read",
                  handler=providers, query=NoQuery, answer=Providers),
        Operation(method="GET", path="/api/providers/{name}", name="get_provider",
                  summary="Read a provider, without its secrets.", permission="providers:read",
                  handler=provider, answer=Provider, refuses=(404,)),
        Operation(method="GET", path="/api/providers/{name}/keys", name="list_provider_keys",
                  summary="List the credentials of a provider, without their secrets.",
                  permission="providers:read", handler=provider_keys, answer=ProviderKeys,
                  refuses=(404,)),
        Operation(method="GET", path="/api/models", name="list_models",
                  summary="List models and configured names with their prices.",
                  permission="models:read", handler=models, query=PageQuery, answer=Models),
        Operation(method="GET", path="/api/routing/rules", name="list_routing_rules",
                  summary="List the rules that send requests elsewhere, in their order.",
                  permission="config:read", handler=rules, query=NoQuery, answer=RoutingRules),
        Operation(method="GET", path="/api/config", name="get_config",
                  summary="The running configuration; secrets are shown as ***.",
                  permission="config:read", handler=configuration, answer=dict[str, Any]),
    ]  # fmt: skip
