"""The options that customers, teams, users and virtual keys share: budgets, limits, models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click
import msgspec

from bifrost.config.settings import BudgetSpec, RateLimitSpec, nano_usd, span_ns
from bifrost.errors import Conflict
from bifrost.governance import declared
from bifrost.governance.entities import Entity, ProviderRule, RateLimit
from bifrost.governance.windows import parse_duration, window

METRICS = ("requests", "tokens", "input_tokens", "output_tokens", "concurrency")
MOST_RATE = 2**32 - 1
BUDGET_HELP = (
    "USD/WINDOW, e.g. 75/1M; may repeat. Behind it: ,aligned ,tz=ZONE ,fiscal=MONTH "
    ",provider=NAME ,overdraft=last_request ,tight=wait+clamp|wait|clamp|refuse."
)
RATE_HELP = (
    "METRIC=MOST/WINDOW, e.g. tokens=100000/1h; may repeat. Behind it: ,model=GLOB "
    ",provider=GLOB. Metrics: requests, tokens, input_tokens, output_tokens, concurrency."
)


class BudgetType(click.ParamType[BudgetSpec]):
    """``75/1M``: an amount in USD, a slash, the window; options behind commas."""

    name = "usd/window"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BudgetSpec:
        """The parsed budget; fails with what was expected."""
        if isinstance(value, BudgetSpec):
            return value
        try:
            return budget_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def budget_of(text: str) -> BudgetSpec:
    """The budget written as ``75/1M,aligned,tz=Europe/Berlin``; ValueError says what is wrong."""
    first, *options = text.split(",")
    amount, slash, duration = first.partition("/")
    if not slash:
        raise ValueError(f"expected AMOUNT/WINDOW such as 75/1M, got {text!r}")
    nano_usd(amount)
    parse_duration(duration)
    more = _budget_options(options)
    spec = BudgetSpec(max_limit=amount, reset_duration=duration, **more)
    if spec.fiscal_start != 1 and (duration[-1] not in "QY" or not spec.calendar_aligned):
        raise ValueError(
            "fiscal= is for aligned quarters and years, such as 900/1Q,aligned,fiscal=4"
        )
    window(  # the time zone exists
        duration, now_ns=0, created_ns=0, calendar_aligned=spec.calendar_aligned,
        time_zone=spec.time_zone, fiscal_start=spec.fiscal_start,
    )  # fmt: skip
    return spec


def _budget_options(options: Sequence[str]) -> dict[str, Any]:
    """The fields of a budget that ``name=value`` options say."""
    more: dict[str, Any] = {}
    for option in options:
        name, _, value = option.strip().partition("=")
        match name:
            case "aligned" if not value:
                more["calendar_aligned"] = True
            case "tz" if value:
                window("1d", now_ns=0, created_ns=0, calendar_aligned=True, time_zone=value)
                more["time_zone"] = value
            case "fiscal":
                if value not in map(str, range(1, 13)):
                    raise ValueError(f"fiscal= takes a month from 1 to 12, got {value!r}")
                more["fiscal_start"] = int(value)
            case "provider" if value:
                more["provider"] = value
            case "overdraft":
                more["overdraft"] = _one_of("overdraft", value, ("none", "last_request"))
            case "tight":
                tight = _one_of("tight", value, ("wait+clamp", "wait", "clamp", "refuse"))
                more["tight"] = tight.replace("+", ",")
            case _:
                raise ValueError(
                    "a budget's options are aligned, tz=, fiscal=, provider=, overdraft= and "
                    f"tight=, got {option.strip()!r}"
                )
    return more


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name}= takes {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
    return value


class RateType(click.ParamType[RateLimitSpec]):
    """``tokens=100000/1h``: a metric, the most there may be, the window; options behind commas."""

    name = "metric=most/window"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> RateLimitSpec:
        """The parsed limit; fails with what was expected."""
        if isinstance(value, RateLimitSpec):
            return value
        try:
            return rate_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def rate_of(text: str) -> RateLimitSpec:
    """The rate limit written as ``tokens=100000/1h,model=claude-opus-*``; ValueError if none is."""
    first, *options = text.split(",")
    metric, equals, rest = first.partition("=")
    if not equals or metric not in METRICS:
        raise ValueError(f"expected METRIC=MOST/WINDOW such as tokens=100000/1h, got {text!r}")
    most, slash, span = rest.partition("/")
    if not most.isascii() or not most.isdigit() or int(most) > MOST_RATE:
        raise ValueError(f"expected a number from 0 to {MOST_RATE}, got {most!r}")
    if metric == "concurrency" and slash:
        raise ValueError("a concurrency limit has no window: write concurrency=8")
    if slash:
        span_ns(span)
    more: dict[str, Any] = {}
    for option in options:
        name, _, value = option.strip().partition("=")
        if name not in ("model", "provider") or not value:
            raise ValueError(
                f"a rate limit's options are model= and provider=, got {option.strip()!r}"
            )
        more[name] = value
    return RateLimitSpec(
        metric=metric,  # type: ignore[arg-type]
        max_limit=int(most),
        window=span if slash else None,
        **more,
    )


class MostType(click.ParamType[int]):
    """A whole number, or ``none`` (as -1) to take the limit away."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; fails with what was expected."""
        text = str(value)
        if text == "none" or value == -1:
            return -1
        if not text.isascii() or not text.isdigit() or int(text) > MOST_RATE:
            self.fail(f"expected a number from 0 to {MOST_RATE}, or none, got {text!r}", param, ctx)
        return int(text)


class Governed(msgspec.Struct, kw_only=True):
    """What the shared options say; what they leave out stays as it was."""

    budgets: tuple[BudgetSpec, ...] = ()
    no_budget: bool = False
    rate_limits: tuple[RateLimitSpec, ...] = ()
    no_rate_limit: bool = False
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    models: str | None = None
    blocked: str | None = None
    provider: str | None = None
    name: str | None = None
    active: bool | None = None

    def changes(self, old: Entity | None, default: tuple[ProviderRule, ...] = ()) -> dict[str, Any]:
        """The fields to store; ``default`` are the rules of a new entity of this kind.

        Raises Conflict when one option cannot say which of several rules it means.
        """
        changes: dict[str, Any] = {}
        if self.name is not None and old is not None:
            changes["name"] = self.name
        if self.active is not None:
            changes["is_active"] = self.active
        if self.budgets or self.no_budget:
            changes["budgets"] = declared.budgets(self.budgets, old.budgets if old else ())
        limits = self._limits(old.rate_limits if old else ())
        if limits is not None:
            changes["rate_limits"] = limits
        rules = self._rules(old.provider_configs if old else default)
        if rules is not None:
            changes["provider_configs"] = rules
        return changes

    def _limits(self, old: tuple[RateLimit, ...]) -> tuple[RateLimit, ...] | None:
        """Limits that count something else stay; None if no option speaks of any."""
        specs = list(self.rate_limits)
        gone: set[tuple[object, ...]] = set()
        short = (("requests", self.rpm), ("tokens", self.tpm), ("concurrency", self.concurrency))
        for metric, most in short:
            if most is not None and most >= 0:
                specs.append(RateLimitSpec(metric=metric, max_limit=most))  # type: ignore[arg-type]
            elif most is not None:
                gone.add((metric, "1m", None, None))
        if not specs and not gone and not self.no_rate_limit:
            return None
        last = {(s.metric, s.window or "1m", s.provider, s.model): s for s in specs}
        made = {_counts(limit): limit for limit in declared.rate_limits(list(last.values()), old)}
        stay = [] if self.no_rate_limit else [one for one in old if _counts(one) not in gone]
        return (*(made.pop(_counts(limit), limit) for limit in stay), *made.values())

    def _rules(self, old: tuple[ProviderRule, ...]) -> tuple[ProviderRule, ...] | None:
        """The only rule, changed; None if no option speaks of it."""
        given = {
            "provider": self.provider,
            "allowed_models": _patterns(self.models) or ("*",) if self.models is not None else None,
            "blocked_models": _patterns(self.blocked) if self.blocked is not None else None,
        }
        given = {field: value for field, value in given.items() if value is not None}
        if not given:
            return None
        if len(old) > 1:
            raise Conflict("It has several provider rules; change them in the configuration.")
        return (msgspec.structs.replace(old[0] if old else ProviderRule(), **given),)


def _counts(limit: RateLimit) -> tuple[object, ...]:
    """What makes two limits count the same."""
    return limit.metric, limit.window, limit.provider, limit.model


def _patterns(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


_CREATE = (
    click.option("--budget", "budgets", type=BudgetType(), multiple=True, help=BUDGET_HELP),
    click.option("--rpm", type=MostType(), help="Requests in any minute."),
    click.option("--tpm", type=MostType(), help="Tokens, in and out, in any minute."),
    click.option("--concurrency", type=MostType(), help="Requests at the same time."),
    click.option("--rate-limit", "rate_limits", type=RateType(), multiple=True, help=RATE_HELP),
    click.option("--models", help="Globs allowed, e.g. 'claude-haiku-*,claude-sonnet-*'."),
    click.option("--blocked-models", "blocked", help="Globs never allowed, comma-separated."),
    click.option("--provider", help="Only this provider (name or glob)."),
)
_UPDATE = (
    click.option("--name", help="New name."),
    click.option("--active/--inactive", default=None, help="Inactive refuses all below it."),
    click.option("--no-budget", is_flag=True, help="Remove every budget."),
    click.option("--no-rate-limit", is_flag=True, help="Remove every rate limit."),
)


def governed(*, update: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The shared options, given to the command as one ``given: Governed``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        names = [name for name in Governed.__struct_fields__ if update or name != "name"]

        @wraps(command)
        def collected(**values: Any) -> Any:
            said = {name: values.pop(name) for name in names if name in values}
            return command(given=Governed(**said), **values)

        function: Callable[..., Any] = collected
        for option in reversed((*(_UPDATE if update else ()), *_CREATE)):
            function = option(function)
        return function

    return decorate
