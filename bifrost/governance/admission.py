"""Admission: allowlists, then the reservation at every level; settlement and release.

Knows models, fields and money, nothing of HTTP or prices: the amount to reserve is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from bifrost._fast.gate import Exhausted, Gate, GateError
from bifrost.errors import (
    BudgetExceeded,
    ConcurrencyLimited,
    FieldBlocked,
    GatewayUnavailable,
    ModelBlocked,
    ProviderBlocked,
    Refusal,
    RequestLimited,
    TokenLimited,
)
from bifrost.governance.entities import Budget, Entity, ProviderRule, RateLimit, VirtualKey
from bifrost.money import dollars
from bifrost.patterns import any_matches

# Fields that change the price by a known factor, or whose use the bound covers: a key may use them
# unless its allowed_fields says otherwise.
PRICED_FIELDS = frozenset({"service_tier", "speed", "inference_geo", "container"})
# Fields the bound covers too, but that let the provider act on the outside world: by grant only.
GRANTABLE_FIELDS = PRICED_FIELDS | {"mcp_servers"}
# Fields that let a request run on another model, bill another account or use a context that is not
# in the body: no reservation can cover them, so no key may use them.
UNBOUNDED_FIELDS = frozenset(
    {"fallbacks", "fallback_credit_token", "billing_policy", "thread", "advisor"}
)


RETRY_SOON_S = 60  # a client is told to come back by itself; longer waits are a person's matter


class LevelLike(Protocol):
    """What a refusal must know of a budget or limit: whose it is and which."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def budget(self) -> Budget | None: ...
    @property
    def rate(self) -> RateLimit | None: ...


def check_model(
    chain: Sequence[tuple[str, Entity]], provider: str, asked: str, upstream: str
) -> Refusal | None:
    """Why a model of a provider may not be used under a key, or None if it may.

    ``chain`` is (level, entity) from the key outwards. The name asked for or the upstream's name
    must be allowed at every level that has rules; a deny of either name at any level wins.
    """
    for level, entity in chain:
        rules = entity.provider_configs
        if rules or level == "virtual key":
            refusal = _check(f"{level} {entity.name!r}", rules, provider, asked, upstream)
            if refusal is not None:
                return refusal
    return None


def _check(
    whose: str, configs: Sequence[ProviderRule], provider: str, asked: str, upstream: str
) -> Refusal | None:
    who = whose[0].upper() + whose[1:]
    rules = [rule for rule in configs if any_matches(provider, (rule.provider,))]
    if not rules:
        allowed = ", ".join(sorted({rule.provider for rule in configs})) or "none"
        return ProviderBlocked(f"{who} may not use provider {provider!r}; allowed: {allowed}.")
    names = (asked, upstream)
    denied = any(any_matches(name, rule.blocked_models) for rule in rules for name in names)
    if not denied and any(
        any_matches(name, rule.allowed_models) for rule in rules for name in names
    ):
        return None
    allowed = ", ".join(sorted({model for rule in rules for model in rule.allowed_models}))
    blocked = ", ".join(sorted({model for rule in rules for model in rule.blocked_models}))
    return ModelBlocked(
        f"{who} may not use model {asked!r}; allowed: {allowed or 'none'}"
        + (f" except {blocked}" if blocked else "")
        + "."
    )


def share(rules: Sequence[ProviderRule], provider: str) -> float:
    """A provider's share of a key's traffic among providers: of the rule that names it, else of the
    first one that fits."""
    fitting = [rule for rule in rules if any_matches(provider, (rule.provider,))]
    named = [rule for rule in fitting if rule.provider == provider]
    return next((rule.weight for rule in (*named, *fitting)), 1.0)


def check_fields(key: VirtualKey, fields: frozenset[str]) -> None:
    """Raises FieldBlocked for the first governed request field this key may not use."""
    allowed = PRICED_FIELDS if key.allowed_fields is None else frozenset(key.allowed_fields)
    for field in sorted(fields):
        if field in UNBOUNDED_FIELDS:
            raise FieldBlocked(
                f"The request field {field!r} could spend beyond what a budget can reserve, "
                "so this gateway does not forward it; remove it from the request."
            )
        if field not in allowed:
            raise FieldBlocked(
                f"Virtual key {key.name!r} may not use the request field {field!r}; "
                "remove it or ask your platform team."
            )


class Treasury:
    """The gate of a process, and its failures as refusals that a person can read."""

    def __init__(self, gate: Gate, help_url: str | None = None) -> None:
        self.gate = gate
        self.help_url = help_url

    def refusal(
        self, levels: Sequence[LevelLike], error: Exhausted | GateError, amount: int
    ) -> Refusal:
        """Why a request of at most ``amount`` nano-USD was not let in under these levels."""
        if isinstance(error, GateError):
            return GatewayUnavailable(
                f"The gateway cannot record spending right now ({error}); try again shortly."
            )
        level = levels[error.slot]
        if level.budget is not None:
            return self._exceeded(level, level.budget, error, amount)
        assert level.rate is not None
        if level.rate.metric == "concurrency":
            return ConcurrencyLimited(
                f"The concurrency limit of {level.kind} {level.name!r} is reached: "
                f"{error.limit} requests at the same time; try again when one has ended.",
                retry_after=1,
                level=level.kind,
            )
        return _rate_limited(level, level.rate, error)

    def _exceeded(
        self, level: LevelLike, budget: Budget, found: Exhausted, amount: int
    ) -> BudgetExceeded:
        resets = datetime.fromtimestamp(found.end_ns // 1_000_000_000, UTC)
        flight = f", {dollars(found.reserved)} held by requests in flight" if found.reserved else ""
        whom = f" ({self.help_url})" if self.help_url else ""
        return BudgetExceeded(
            f"The budget of {level.kind} {level.name!r} cannot cover this request: "
            f"{dollars(found.limit)} per {budget.reset_duration}, "
            f"{dollars(found.settled)} spent{flight}, "
            f"and this request may cost up to {dollars(amount)}; "
            f"it resets at {resets:%Y-%m-%d %H:%M} UTC, "
            f"ask your platform team{whom} to raise it or lower max_tokens.",
            level=level.kind,
            resets_at=found.end_ns // 1_000_000_000,
        )


def _rate_limited(level: LevelLike, rate: RateLimit, found: Exhausted) -> RequestLimited:
    """The refusal of a request or token limit; ``retry_after`` is when the window lets it in."""
    what = rate.metric.replace("_", " ")
    limit = f"The {what.removesuffix('s')} limit of {level.kind} {level.name!r}"
    counted = what.removesuffix("s") if rate.max_limit == 1 else what
    allowed = f"{rate.max_limit} {counted} per {rate.window}"
    kind = RequestLimited if rate.metric == "requests" else TokenLimited
    if found.retry_ns < 0:
        refusal = kind(
            f"{limit} cannot cover this request: {allowed}, and this request may use up to "
            f"{found.reserved}; lower max_tokens or send less.",
            level=level.kind,
        )
        refusal.retryable = False
        return refusal
    seconds = max(-(-found.retry_ns // 1_000_000_000), 1)
    used = f", {found.settled} used or reserved"
    more = f", and this request may use up to {found.reserved}" if kind is TokenLimited else ""
    refusal = kind(
        f"{limit} is reached: {allowed}{used}{more}; try again in {seconds} s.",
        retry_after=seconds,
        level=level.kind,
    )
    refusal.retryable = seconds <= RETRY_SOON_S
    return refusal
