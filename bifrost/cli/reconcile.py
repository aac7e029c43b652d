"""``bifrost reconcile``: the true cost of requests whose worker died."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from bifrost.admin.objects import whole as timestamp
from bifrost.audit.events import ModelAccess
from bifrost.audit.policy import actor
from bifrost.cli.store import data_dir_option, json_option, print_json, recorded, table
from bifrost.config.load import default_settings, load, with_default_providers
from bifrost.config.settings import nano_usd
from bifrost.errors import BifrostError, ConfigError, Conflict, NotFound, StoreError
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.usage import from_message
from bifrost.money import dollars, usd
from bifrost.pricing import Pricing
from bifrost.reconciliation import Reconciliation, alone
from bifrost.standin import catch_up

CATCH_UP_S = 5.0


class Amount(click.ParamType[int]):
    """An amount in USD, as nano-USD."""

    name = "usd"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The amount; fails with what was expected."""
        try:
            return value if isinstance(value, int) else nano_usd(value)
        except ValueError as error:
            self.fail(f"{error}, got {value!r}", param, ctx)


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One request and what it truly cost: exactly one of ``cost``, ``usage``, ``not_billed``."""

    request: str
    cost: str | None = None
    usage: dict[str, Any] | None = None
    not_billed: bool = False
    at: int | None = None
    reason: str | None = None


@click.command("reconcile")
@click.argument("request", required=False)
@click.option("--cost", type=Amount(), help="What the provider billed, in USD.")
@click.option("--usage", help="Or the provider's usage object (Anthropic's JSON), to be priced.")
@click.option("--not-billed", is_flag=True, help="Or: the provider billed nothing.")
@click.option("--at", type=int, help="The request's time in ns, where several have this id.")
@click.option("--reason", default="", help="Kept with the correction.")
@click.option(
    "--file",
    "batch",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Many at once: lines of {"request", "cost" or "usage" or "not_billed"}.',
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="BIFROST_CONFIG",
    help="Prices --usage where the price table of the request is not kept.",
)
@json_option
@data_dir_option
def reconcile(
    request: str | None,
    cost: int | None,
    usage: str | None,
    not_billed: bool,
    at: int | None,
    reason: str,
    batch: Path | None,
    config_file: Path | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """List requests charged in full because their worker died, or book their true cost.

    The signed difference is booked at the key, its user, team and customer, in the request's own
    window, each request once. Without arguments those still open are listed.

    \b
    Example:
      bifrost reconcile
      bifrost reconcile req_0123 --cost 0.0123 --reason 'invoice of November'
      bifrost reconcile --file corrections.jsonl
    """
    given = (cost is not None) + (usage is not None) + not_billed
    if given != (request is not None) or (request is not None and batch is not None):
        raise click.UsageError(
            "give REQUEST with one of --cost, --usage and --not-billed, or --file alone, "
            "or nothing for a list"
        )
    with recorded(data_dir) as (directory, gate, recorder), alone(data_dir):
        if not catch_up(data_dir, gate, directory, CATCH_UP_S):
            click.echo("The steward is behind; the newest requests are not known here.", err=True)
        books = Reconciliation(data_dir, gate, directory)
        with _progress(as_json) as told:
            books.read(told)
        pricing = _Pricing(config_file, Pricing(directory.prices))
        failed: list[dict[str, Any]] = []
        if request is not None:
            line = Line(request, usage=_object(usage), not_billed=not_billed, at=at, reason=reason)
            booked = [_booked(books, line, cost, reason, pricing)]
        elif batch is not None:
            booked, failed = _file(books, batch, reason, pricing)
        else:
            _list(books.open(), as_json)
            return
        try:
            recorder.assure(gate.newest)
        except StoreError:  # the outbox has them, also over the death of every process
            click.echo("Booked, but the records are not on the disk yet.", err=True)
        _show(booked, failed, as_json)


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal while the log is read."""
    if as_json or not sys.stderr.isatty():
        yield lambda done, whole: None
        return
    with click.progressbar(length=1, label="Reading the audit log", file=sys.stderr) as bar:

        def told(done: int, whole: int) -> None:
            bar.length = whole
            bar.update(done - bar.pos)

        yield told


class _Pricing:
    """Prices a provider's usage as the gateway would have, if it is asked to."""

    def __init__(self, config_file: Path | None, prices: Pricing) -> None:
        self._file = config_file
        self._prices = prices
        self._catalogue: Catalogue | None = None
        self._kinds: dict[str, str] = {}

    def cost(self, event: ModelAccess, usage: dict[str, Any]) -> int:
        """Nano-USD; raises Conflict for a model without a price here or usage without tokens."""
        name = event.provider or ""
        catalogue = self._of(event)
        kind = event.provider_type or self._kinds.get(name, name)
        model = event.priced or event.model or ""
        price = catalogue.price(kind, model, name=name)
        if price is None:
            raise Conflict(
                f"Model {model!r} of provider {name!r} has no price here; "
                "name your configuration with --config, or give --cost."
            )
        read = from_message(msgspec.json.encode(usage), None)
        if read.source != "reported" or not read.input_tokens + read.output_tokens:
            raise Conflict(
                f"The usage of request {event.request!r} holds no tokens that can be read; give "
                "the provider's usage object, --cost or --not-billed."
            )
        return catalogue.cost(kind, read, price, name=name)

    def _of(self, event: ModelAccess) -> Catalogue:
        """The prices the request was admitted under, else the configuration's."""
        if event.prices is not None:
            with suppress(NotFound, Conflict):
                return self._prices.catalogue(event.prices)
        if self._catalogue is None:
            loaded = load(self._file).settings if self._file is not None else None
            settings = with_default_providers(loaded) if loaded else default_settings()
            override = Path(settings.prices.file) if settings.prices.file else None
            self._catalogue = Catalogue.load(override)
            self._kinds = {name: one.type for name, one in settings.providers.items()}
        return self._catalogue


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise click.BadParameter(f"not a JSON object: {error}", param_hint="--usage") from None


def _booked(
    books: Reconciliation, line: Line, cost: int | None, reason: str, pricing: _Pricing
) -> dict[str, Any]:
    """Books one request and returns what was done, as data."""
    event = books.find(line.request, line.at)
    if line.usage is not None:
        cost = pricing.cost(event, line.usage)
    elif line.not_billed:
        cost = 0
    assert cost is not None
    before = event.cost
    difference = books.book(event, cost, line.reason or reason, actor())
    return {
        "request": event.request, "at": timestamp(event.at), "before_usd": usd(before),
        "cost_usd": usd(cost), "difference_usd": usd(difference),
    }  # fmt: skip


def _file(
    books: Reconciliation, path: Path, reason: str, pricing: _Pricing
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Books every line that can be; returns what was done and what was not.

    A file with a line that is none is refused as a whole, before anything is booked.
    """
    lines = [
        (number, *_line(path, number, raw))
        for number, raw in enumerate(path.read_bytes().splitlines(), 1)
        if raw.strip()
    ]
    done, refused = [], []
    for number, line, cost in lines:
        try:
            done.append(_booked(books, line, cost, reason, pricing))
        except (NotFound, Conflict) as error:
            refused.append({"line": number, "request": line.request, "error": str(error)})
    return done, refused


def _line(path: Path, number: int, raw: bytes) -> tuple[Line, int | None]:
    try:
        line = msgspec.json.decode(raw, type=Line)
        if (line.cost is not None) + (line.usage is not None) + line.not_billed != 1:
            raise ValueError("exactly one of cost, usage and not_billed is needed")
        return line, nano_usd(line.cost) if line.cost is not None else None
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}: {error}; nothing was booked.") from None


def _show(done: list[dict[str, Any]], refused: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"reconciled": done, "refused": refused})
    else:
        for one in done:
            click.echo(
                f"{one['request']}: ${one['before_usd']} charged, ${one['cost_usd']} true; "
                f"{one['difference_usd']} booked."
            )
        for one in refused:
            click.echo(f"line {one['line']}: {one['error']}", err=True)
    if refused:
        raise BifrostError(f"{len(refused)} of {len(done) + len(refused)} lines were not booked.")


def _list(found: list[ModelAccess], as_json: bool) -> None:
    rows = [
        {
            "request": event.request,
            "at": timestamp(event.at),
            "at_ns": event.at,
            "key": event.key,
            "user": event.user,
            "team": event.team,
            "customer": event.customer,
            "provider": event.provider,
            "model": event.model,
            "charged_usd": usd(event.cost),
        }
        for event in found
    ]
    total = sum(event.cost for event in found)
    if as_json:
        print_json({"unsettled": rows, "total_charged_usd": usd(total)})
        return
    table(
        [
            (event.request, timestamp(event.at), event.key, f"{event.provider}/{event.model}",
             "$" + usd(event.cost))
            for event in found
        ],
        ("REQUEST", "AT", "KEY", "MODEL", "CHARGED"),
        right=4,
    )  # fmt: skip
    click.echo(f"\n{len(found)} unsettled, {dollars(total)} charged in full.")
