"""What a well-formed configuration must also obey: references, names, budgets, addresses."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from zoneinfo import ZoneInfo, available_timezones

from bifrost.config.clouds import check_cloud
from bifrost.config.conditions import condition
from bifrost.config.evidence import check_evidence
from bifrost.config.findings import Findings, inside, meant
from bifrost.config.hosts import TABLE, Api, address, beside
from bifrost.config.settings import (
    DURATION,
    BudgetSpec,
    Governance,
    Governed,
    Hedging,
    Network,
    Provider,
    ProviderRule,
    RateLimitSpec,
    RuleSpec,
    Settings,
    Target,
    TeamSpec,
    UserSpec,
    VirtualKeySpec,
    Webhook,
    instant_ns,
    span_ns,
)
from bifrost.config.signing import check_signing
from bifrost.config.values import VISIBLE, is_address, is_local
from bifrost.patterns import matches
from bifrost.proxies import network

# Made by the gateway itself when the file names no provider.
BUILT_IN_PROVIDERS = ("anthropic", "mock")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MODEL = re.compile(r"[A-Za-z0-9._:/@+~=-]+")
_PATTERN = re.compile(r"[A-Za-z0-9._:/@+~=*?-]+")
_VIRTUAL_KEY = re.compile(r"sk-bf-[A-Za-z0-9_-]{32,}")
# The APIs that a host must have for a quirk to mean something.
_QUIRKS: dict[str, frozenset[Api]] = {
    "streams_only": frozenset({"chat", "responses"}),
    **dict.fromkeys(("reasoning_field", "reasoning_due", "short_call_ids"), frozenset({"chat"})),
}
_PROXY = "expected an http or https address, such as 'http://host:3128'"


def check(settings: Settings, findings: Findings) -> None:
    """Report every rule the settings break; empty texts are places reported already."""
    for name, provider in settings.providers.items():
        _provider(name, provider, findings)
    _trusted(settings.server.trusted_proxies, findings)
    known = tuple(settings.providers) or BUILT_IN_PROVIDERS
    for pattern, targets in settings.models.items():
        _route(pattern, targets, known, findings)
    _conditions(settings.routing.rules, known, findings)
    _hedging(settings.routing.hedge, findings)
    _governance(settings.governance, known, findings)
    _alerts(settings.alerts.budget_thresholds, findings)
    _webhooks(settings.webhooks, findings)
    check_evidence(settings.audit_logs, settings.enterprise, findings)
    if settings.help_url and not is_address(settings.help_url, query=True):
        findings.add("help_url", "expected an http or https address")


def _provider(name: str, provider: Provider, findings: Findings) -> None:
    place = inside("providers", name)
    if not _PROVIDER.fullmatch(name):
        findings.add(place, "expected a name of letters, digits and . _ - only")
    keys = inside(place, "keys")
    kind = TABLE.get(provider.type)  # none: the type itself is reported already
    if kind and kind.needs_key and not provider.keys and keys not in findings.places:
        findings.add(keys, f"a provider of type {provider.type!r} needs at least one key")
    if kind:
        _address(place, provider, findings)
        base_url = provider.network.base_url
        check_cloud(place, provider.type, provider, bool(provider.keys), base_url, findings)
    if provider.keys and not any(key.weight for key in provider.keys):
        findings.add(keys, "at least one weight must be above 0")
    _names(keys, provider.keys, findings)
    for index, key in enumerate(provider.keys):
        if key.value and not VISIBLE.fullmatch(key.value):
            findings.add(
                f"{keys}[{index}].value",
                "holds a space, a control character or a character beyond ASCII, which no header"
                " can carry",
            )
    _network(inside(place, "network"), provider.network, bool(provider.keys), findings)


def _address(place: str, provider: Provider, findings: Findings) -> None:
    """The API that was chosen is there, and somewhere."""
    try:
        _, url = address(provider.type, provider.api, provider.network.base_url, provider.place)
    except ValueError as error:
        findings.add(inside(place, "api"), str(error))
        return
    apis = beside(provider.type, provider.api)
    for quirk, those in _QUIRKS.items():
        if getattr(provider.quirks, quirk) and not apis & those:
            found = inside(inside(place, "quirks"), quirk)
            findings.add(found, f"only for hosts of the {' or '.join(sorted(those))} API")
    base_url = inside(inside(place, "network"), "base_url")
    own = provider.type == "mock" or TABLE[provider.type].needs
    if url is None and not own and base_url not in findings.places:
        findings.add(base_url, f"missing; type {provider.type!r} has no address of its own")


def _network(place: str, network: Network, keys: bool, findings: Findings) -> None:
    if network.base_url and not is_address(network.base_url):
        findings.add(
            inside(place, "base_url"),
            "expected an http or https address without user, password, query or fragment",
        )
    elif network.base_url and keys and network.base_url.lower().startswith("http:"):
        if not is_local(network.base_url):
            findings.warn(inside(place, "base_url"), "http sends the provider's keys in the clear")
    if network.proxy and not is_address(network.proxy, user=True):
        findings.add(inside(place, "proxy"), _PROXY)
    if not network.verify:
        findings.warn(inside(place, "verify"), "the provider's certificate is not checked")


def _trusted(proxies: tuple[str, ...], findings: Findings) -> None:
    for index, text in enumerate(proxies):
        place = f"server.trusted_proxies[{index}]"
        if not text:
            continue
        try:
            network(text)
        except ValueError as error:
            findings.add(place, f"expected an address, a network or 'unix': {error}")
        else:
            if text.endswith("/0"):
                findings.warn(place, "anybody can claim to be any client")


def _alerts(percents: tuple[int, ...], findings: Findings) -> None:
    place = "alerts.budget_thresholds"
    for index, percent in enumerate(percents):
        if percent in percents[:index] and inside(place, index) not in findings.places:
            findings.add(inside(place, index), f"{percent} is given more than once")


def _webhooks(webhooks: tuple[Webhook, ...], findings: Findings) -> None:
    _names("webhooks", webhooks, findings)
    for index, hook in enumerate(webhooks):
        place = f"webhooks[{index}]"
        if hook.url and not is_address(hook.url, query=True):
            findings.add(f"{place}.url", "expected an http or https address without user, password")
        elif hook.url.lower().startswith("http:"):
            if not is_local(hook.url):
                findings.warn(f"{place}.url", "http lets others read what is told")
        if hook.proxy and not is_address(hook.proxy, user=True):
            findings.add(f"{place}.proxy", _PROXY)
        if not hook.events and f"{place}.events" not in findings.places:
            findings.add(f"{place}.events", "needs at least one event")
        check_signing(place, hook.secret, hook.old_secrets, findings)


def _route(
    pattern: str, targets: tuple[Target, ...], known: tuple[str, ...], findings: Findings
) -> None:
    place = inside("models", pattern)
    if not _PATTERN.fullmatch(pattern):
        findings.add(place, "expected a model name or a pattern with only * and ? as wildcards")
    _targets(place, targets, known, findings)


def _conditions(rules: tuple[RuleSpec, ...], known: tuple[str, ...], findings: Findings) -> None:
    _names("routing.rules", rules, findings)
    for index, rule in enumerate(rules):
        place = f"routing.rules[{index}]"
        if rule.when:
            try:
                condition(rule.when)
            except ValueError as error:
                findings.add(f"{place}.when", str(error))
        for number, pattern in enumerate(rule.models):
            _model_pattern(f"{place}.models[{number}]", pattern, findings)
        _targets(f"{place}.targets", rule.targets, known, findings)


def _hedging(hedge: Hedging | None, findings: Findings) -> None:
    for number, pattern in enumerate(hedge.models if hedge is not None else ()):
        _model_pattern(f"routing.hedge.models[{number}]", pattern, findings)


def _targets(
    place: str, targets: tuple[Target, ...], known: tuple[str, ...], findings: Findings
) -> None:
    if not targets and place not in findings.places:
        findings.add(place, "needs at least one target")
    if targets and not any(target.weight for target in targets):
        findings.add(place, "at least one weight must be above 0")
    for index, target in enumerate(targets):
        here = inside(place, index)
        _refers(inside(here, "provider"), target.provider, "provider", known, findings)
        if target.model and not _MODEL.fullmatch(target.model):
            shown = findings.shown(inside(here, "model"), target.model)
            findings.add(
                inside(here, "model"), f"expected the name of one model, no pattern, got {shown}"
            )


def _governance(governance: Governance, known: tuple[str, ...], findings: Findings) -> None:
    groups: dict[str, tuple[Governed, ...]] = {
        "customers": governance.customers,
        "teams": governance.teams,
        "users": governance.users,
        "virtual_keys": governance.virtual_keys,
    }
    for group, specs in groups.items():
        place = f"governance.{group}"
        _names(place, specs, findings)
        for index, spec in enumerate(specs):
            check_governed(f"{place}[{index}]", spec, known, findings)
    teams = {team.name: team for team in governance.teams}
    options = {
        "customer": [customer.name for customer in governance.customers],
        "team": list(teams),
        "user": [user.name for user in governance.users],
    }
    for group, specs in groups.items():
        for index, spec in enumerate(specs):
            for kind in ("user", "team", "customer"):
                place = f"governance.{group}[{index}].{kind}"
                _refers(place, getattr(spec, kind, None), kind, options[kind], findings)
    for index, user in enumerate(governance.users):
        _membership(f"governance.users[{index}]", user, teams, findings)
    values: dict[str, str] = {}
    for index, key in enumerate(governance.virtual_keys):
        place = f"governance.virtual_keys[{index}]"
        if key.value and values.setdefault(key.value, place) != place:
            findings.add(f"{place}.value", f"the same value as {values[key.value]}")


def check_governed(place: str, spec: Governed, known: tuple[str, ...], findings: Findings) -> None:
    """Report every rule that one customer, team, user or key breaks by itself."""
    _budgets(inside(place, "budgets"), spec.budgets, known, findings)
    _rate_limits(inside(place, "rate_limits"), spec.rate_limits, known, findings)
    _allowances(inside(place, "provider_configs"), spec.provider_configs, known, findings)
    if isinstance(spec, VirtualKeySpec):
        _virtual_key(place, spec, findings)


def _names(place: str, specs: Iterable[object], findings: Findings) -> None:
    """Names are unique in their list."""
    seen: dict[str, str] = {}
    for index, spec in enumerate(specs):
        name, here = getattr(spec, "name", ""), f"{place}[{index}]"
        if name != name.strip():
            findings.add(f"{here}.name", "expected no space at either end")
        elif name and seen.setdefault(name, here) != here:
            shown = findings.shown(f"{here}.name", name)
            findings.add(f"{here}.name", f"{shown} is already the name of {seen[name]}")


def _refers(
    place: str, name: str | None, kind: str, options: Iterable[str], findings: Findings
) -> None:
    options = list(options)
    if name and name not in options and f"governance.{kind}s" not in findings.places:
        shown = findings.shown(place, name)
        findings.add(place, f"no {kind} named {shown}{meant(name, options)}")


def _membership(
    place: str, user: UserSpec, teams: Mapping[str, TeamSpec], findings: Findings
) -> None:
    team = teams.get(user.team or "")
    if team is None or not user.customer or team.customer in (user.customer, ""):
        return
    belongs = "no customer" if team.customer is None else f"customer {team.customer!r}"
    findings.add(
        f"{place}.customer",
        f"the user's team belongs to {belongs}, not to"
        f" {findings.shown(f'{place}.customer', user.customer)}; a user in a team takes the team's"
        " customer, so leave this out",
    )


def key_value_fault(value: str) -> str | None:
    """Why a virtual key cannot have this value, or None."""
    if _VIRTUAL_KEY.fullmatch(value):
        return None
    return "expected 'sk-bf-' and 32 or more characters of A-Z a-z 0-9 _ -"


def _virtual_key(place: str, key: VirtualKeySpec, findings: Findings) -> None:
    owners = [kind for kind in ("user", "team", "customer") if getattr(key, kind)]
    if len(owners) > 1:
        findings.add(place, f"expected one owner, got {' and '.join(owners)}; keep one of them")
    if key.value and (fault := key_value_fault(key.value)):
        findings.add(inside(place, "value"), fault)
    if key.expires_at:
        try:
            if instant_ns(key.expires_at) <= time.time_ns():
                findings.warn(inside(place, "expires_at"), "has passed; the key is refused")
        except ValueError as error:
            here = inside(place, "expires_at")
            shown = findings.shown(here, key.expires_at)
            findings.add(here, f"{error}, got {shown}")


def _allowances(
    place: str, rules: tuple[ProviderRule, ...], known: tuple[str, ...], findings: Findings
) -> None:
    for index, rule in enumerate(rules):
        here = f"{place}[{index}]"
        _refers(f"{here}.provider", rule.provider, "provider", ("*", *known), findings)
        patterns = {"allowed_models": rule.allowed_models, "blocked_models": rule.blocked_models}
        for field, values in patterns.items():
            for number, value in enumerate(values):
                _model_pattern(f"{here}.{field}[{number}]", value, findings)


def _model_pattern(place: str, value: str, findings: Findings) -> None:
    if value and not _PATTERN.fullmatch(value):
        findings.add(
            place,
            "expected one model name or pattern with only * and ? as wildcards,"
            f" got {findings.shown(place, value)}",
        )


def _budgets(
    place: str, budgets: tuple[BudgetSpec, ...], known: tuple[str, ...], findings: Findings
) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for index, budget in enumerate(budgets):
        here = inside(place, index)
        duration, zone = budget.reset_duration, budget.time_zone
        if duration and not DURATION.fullmatch(duration):
            findings.add(
                f"{here}.reset_duration",
                "expected a number from 1 to 1000 and one of m h d w M Q Y, such as '1M' for a"
                f" month, got {findings.shown(f'{here}.reset_duration', duration)}",
            )
        if zone and not _is_zone(zone):
            shown = findings.shown(f"{here}.time_zone", zone)
            findings.add(
                f"{here}.time_zone",
                f"no time zone named {shown}{meant(zone, available_timezones())}",
            )
        _counted(f"{here}.provider", budget.provider, known, findings)
        windows = (duration, budget.calendar_aligned, zone, budget.fiscal_start, budget.provider)
        if duration and seen.setdefault(windows, here) != here:
            findings.add(here, f"a second limit on the same windows as {seen[windows]}")


def _counted(place: str, provider: str | None, known: tuple[str, ...], findings: Findings) -> None:
    """A provider's name, or a pattern that at least one provider fits."""
    if provider and not any(matches(name, provider) for name in known):
        shown = findings.shown(place, provider)
        findings.add(place, f"no provider fits {shown}{meant(provider, known)}")


def _rate_limits(
    place: str, limits: tuple[RateLimitSpec, ...], known: tuple[str, ...], findings: Findings
) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for index, limit in enumerate(limits):
        here = inside(place, index)
        if limit.metric == "concurrency" and limit.window is not None:
            findings.add(f"{here}.window", "a concurrency limit has no window; leave it out")
        elif limit.window:
            try:
                span_ns(limit.window)
            except ValueError as error:
                findings.add(f"{here}.window", str(error))
        _counted(f"{here}.provider", limit.provider, known, findings)
        if limit.model:
            _model_pattern(f"{here}.model", limit.model, findings)
        same = (limit.metric, limit.window or "1m", limit.provider, limit.model)
        if limit.metric and seen.setdefault(same, here) != here:
            findings.add(here, f"a second limit on the same requests as {seen[same]}")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
