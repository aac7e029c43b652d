"""``bifrost prices``: what models cost here, and setting it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from bifrost.admin.objects import whole as timestamp
from bifrost.cli.store import data_dir_option, json_option, opened, print_json, table
from bifrost.errors import NotFound
from bifrost.governance.directory import Directory
from bifrost.metering.build import build as build_catalogue
from bifrost.metering.catalogue import Catalogue, Origin
from bifrost.metering.prices import describe
from bifrost.pricing import Pricing

F = TypeVar("F", bound=Callable[..., Any])
# The order in which a price is shown and set: the field of the price file, its option's help.
MONEY = {
    "input": "Tokens of the prompt.",
    "output": "Tokens of the answer.",
    "cache_read": "Tokens read from the cache.  [default: as input]",
    "cache_write_5m": "Tokens written to the 5-minute cache.  [default: as input]",
    "cache_write_1h": "Tokens written to the 1-hour cache.  [default: as input]",
    "thinking": "Thinking tokens.  [default: as output]",
    "web_search": "USD per web search.  [default: as in the catalogue]",
}
LIMITS = {
    "max_input_tokens": "Context window of the model, in tokens.",
    "max_output_tokens": "Longest answer of the model, in tokens.",
}


@click.group("prices")
def prices() -> None:
    """Show and set what models cost. Own prices win over the price file, it over the catalogue.

    \b
    Example:
      bifrost prices show claude-sonnet-4-5
      bifrost prices set 'anthropic/claude-opus-*' --input 3.60 --output 18
      bifrost prices list --overrides
    """


@contextmanager
def reading(data_dir: Path) -> Iterator[Pricing | None]:
    """The prices of a data directory, None where there is no such directory."""
    if not (data_dir / "config").is_dir():
        yield None
        return
    directory = Directory(data_dir)
    try:
        yield Pricing(directory.prices)
    finally:
        directory.close()


def _catalogue(pricing: Pricing | None, file: Path | None) -> Catalogue:
    """The catalogue in use; with ``file`` as if that were the price file."""
    if pricing is None:
        return Catalogue.load(file)
    return pricing.supposing(file) if file is not None else pricing.current()


# -- showing -------------------------------------------------------------------------------------


@prices.command("show")
@click.argument("model")
@click.option("--file", type=click.Path(path_type=Path), help="As if this were the price file.")
@json_option
@data_dir_option
def show(model: str, file: Path | None, as_json: bool, data_dir: Path) -> None:
    """The price of MODEL (``provider/model`` or a plain name) in USD per million tokens.

    \b
    Example:
      bifrost prices show anthropic/claude-opus-5-5
    """
    with reading(data_dir) as pricing:
        catalogue = _catalogue(pricing, file)
        found = {
            name: (describe(price), _told(origin, catalogue, pricing))
            for name, price, origin in _priced(catalogue, model)
        }
    if as_json:
        print_json(
            {
                "models": {name: card for name, (card, _) in found.items()},
                "from": {name: told for name, (_, told) in found.items()},
                "digest": catalogue.digest,
                "source": catalogue.source,
            }
        )
    else:
        for name, (card, told) in found.items():
            click.echo(name)
            for key, value in card.items():
                if value not in (None, [], {}):
                    click.echo(f"  {key}: {value}")
            click.echo(f"  from: {_sentence(told)}")
        _say_table(catalogue)
    if not found:
        click.echo(f"No price is known for {model!r}; requests for it are refused.", err=True)
        sys.exit(1)


def _priced(catalogue: Catalogue, model: str) -> Iterator[tuple[str, Any, Origin]]:
    """Every priced model that is meant: ``provider/model``, or a plain name at each provider."""
    provider, slash, rest = model.partition("/")
    wanted = [(provider, rest)] if slash else []
    if not slash or catalogue.price(provider, rest) is None:
        wanted = [(name, model) for name in catalogue.providers() if name != "mock"]
    for name, one in wanted:
        price, origin = catalogue.price(name, one), catalogue.origin(name, one)
        if price is not None and origin is not None:
            yield f"{name}/{one}", price, origin


def _told(origin: Origin, catalogue: Catalogue, pricing: Pricing | None) -> dict[str, str]:
    """Where a price is from, as data."""
    told: dict[str, str] = {"origin": origin.kind, "pattern": origin.pattern}
    if origin.kind == "catalogue":
        told |= {"source": catalogue.source, "date": catalogue.date}
    if origin.kind == "store" and pricing is not None:
        entry = pricing.get(origin.pattern)
        told |= {"actor": entry.actor, "at": timestamp(entry.at), "reason": entry.reason}
    return told


def _sentence(told: dict[str, str]) -> str:
    match told["origin"]:
        case "catalogue":
            return f"the catalogue ({told['source']}, {told['date']})"
        case "file":
            return f"the price file, {told['pattern']!r}"
        case _:
            why = f": {told['reason']}" if told.get("reason") else ""
            return f"the store, {told['pattern']!r} set by {told['actor']} at {told['at']}{why}"


def _say_table(catalogue: Catalogue) -> None:
    source = f"{catalogue.source}, {catalogue.date}"
    click.echo(f"\ncatalogue: {source}; price table {catalogue.digest[:16]}")


@prices.command("list")
@click.option("--overrides", "own", is_flag=True, help="Only prices of the store and the file.")
@json_option
@data_dir_option
def list_prices(own: bool, as_json: bool, data_dir: Path) -> None:
    """Every priced model, or every price of your own, in the order in which they are tried.

    \b
    Example:
      bifrost prices list --overrides
    """
    with reading(data_dir) as pricing:
        catalogue = _catalogue(pricing, None)
        rows = _own(pricing) if own else _every(catalogue)
    if as_json:
        print_json({"prices": rows, "digest": catalogue.digest, "source": catalogue.source})
        return
    columns = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    table(
        [
            (row["pattern"] if own else row["model"], row["from"],
             *(str(row["fields"].get(column, "")) for column in columns))
            for row in rows
        ],
        ("PATTERN" if own else "MODEL", "FROM", "INPUT", "OUTPUT", "CACHE READ", "WRITE 5M",
         "WRITE 1H"),
        right=2,
    )  # fmt: skip
    _say_table(catalogue)


def _own(pricing: Pricing | None) -> list[dict[str, Any]]:
    if pricing is None:
        return []
    stored = [
        {"pattern": entry.pattern, "from": "store", "fields": entry.fields, "actor": entry.actor,
         "at": timestamp(entry.at), "reason": entry.reason}
        for entry in pricing.entries()
    ]  # fmt: skip
    return stored + [
        {"pattern": pattern, "from": "file", "fields": fields}
        for pattern, fields in pricing.file().items()
    ]


def _every(catalogue: Catalogue) -> list[dict[str, Any]]:
    found = []
    for provider in catalogue.providers():
        for model, price in sorted(catalogue.provider(provider).items()):
            origin = catalogue.origin(provider, model)
            if provider != "mock" and origin is not None:
                found.append({"model": f"{provider}/{model}", "from": origin.kind,
                              "fields": describe(price)})  # fmt: skip
    return found


@prices.command("table")
@click.argument("digest", required=False)
@json_option
@data_dir_option
def show_table(digest: str | None, as_json: bool, data_dir: Path) -> None:
    """The tables that were in use, or what DIGEST (as usage rows name it) stands for.

    With a DIGEST it prints the own prices as a price file; the models they do not name had the
    prices of the catalogue that is told beside it.

    \b
    Example:
      bifrost prices table 0123456789abcdef > prices.then.json
    """
    with reading(data_dir) as pricing:
        tables = pricing.tables() if pricing is not None else []
        if digest is None:
            rows = [
                {"digest": one.digest, "since": timestamp(one.at), "source": one.source,
                 "date": one.date, "store": len(one.store), "file": len(one.file)}
                for one in tables
            ]  # fmt: skip
            if as_json:
                print_json({"tables": rows})
            else:
                table([tuple(str(value) for value in row.values()) for row in rows],
                      ("DIGEST", "SINCE", "CATALOGUE", "OF", "STORE", "FILE"), right=4)  # fmt: skip
            return
        if pricing is None:
            raise NotFound(f"{data_dir} is not a data directory of Bifrost; name it: --data-dir.")
        found = pricing.table(digest)
    if as_json:
        print_json(msgspec.structs.asdict(found) | {"at": timestamp(found.at)})
        return
    print_json({"models": found.store | {k: v for k, v in found.file.items()
                                         if k not in found.store}})  # fmt: skip
    click.echo(f"over the catalogue {found.source} of {found.date}, {found.package[:16]}", err=True)


# -- setting -------------------------------------------------------------------------------------


def _price_options(function: F) -> F:
    """An option for every plain field of a price."""
    for field, text in reversed((MONEY | LIMITS).items()):
        kind, unit = (int, "TOKENS") if field in LIMITS else (str, "USD")
        option = f"--{field.replace('_', '-')}"
        function = click.option(option, field, type=kind, metavar=unit, help=text)(function)
    return function


@prices.command("set")
@click.argument("pattern", required=False)
@_price_options
@click.option("--from-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSON: the fields of PATTERN; without PATTERN a whole price file.")  # fmt: skip
@click.option("--reason", default="", help="Why; recorded with the change.")
@json_option
@data_dir_option
def set_price(
    pattern: str | None,
    from_file: Path | None,
    reason: str,
    as_json: bool,
    data_dir: Path,
    **given: Any,
) -> None:
    """Store the price of PATTERN, ``<provider>/<model>`` with * and ?, in USD per million tokens.

    It replaces what was stored for PATTERN and holds at once, in every worker, for requests that
    begin afterwards; requests under way are billed as they were admitted.

    \b
    Example:
      bifrost prices set 'anthropic/claude-opus-*' --input 3.60 --output 18 --cache-read 0.18
      bifrost prices set --from-file prices.json --reason 'contract of 2026-11'
    """
    fields = {name: value for name, value in given.items() if value is not None}
    if pattern is None and (from_file is None or fields):
        raise click.UsageError("give PATTERN with its prices, or --from-file alone")
    wanted = _written(from_file) if from_file is not None else {}
    if pattern is not None:
        wanted = {pattern: wanted | fields}
    else:
        wanted = _models(from_file, wanted)
    with opened(data_dir, create=True, reason=reason) as (directory, gate):
        catalogue = Pricing(directory.prices, gate).change(wanted)
    if as_json:
        print_json({"set": wanted, "digest": catalogue.digest})
        return
    for name in wanted:
        click.echo(f"Price of {name} set.")
    _say_table(catalogue)


def _written(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise click.BadParameter(f"{file}: {error}", param_hint="--from-file") from None


def _models(file: Path | None, document: dict[str, Any]) -> dict[str, Any]:
    models = document.get("models")
    if not isinstance(models, dict) or not models:
        raise click.BadParameter(
            f'{file}: expected a price file, {{"models": {{"<provider>/<model>": …}}}}',
            param_hint="--from-file",
        )
    return models


@prices.command("unset")
@click.argument("pattern")
@click.option("--reason", default="", help="Why; recorded with the change.")
@json_option
@data_dir_option
def unset(pattern: str, reason: str, as_json: bool, data_dir: Path) -> None:
    """Remove the stored price of PATTERN: the price file and the catalogue hold again.

    \b
    Example:
      bifrost prices unset 'anthropic/claude-opus-*'
    """
    with opened(data_dir, reason=reason) as (directory, gate):
        catalogue = Pricing(directory.prices, gate).change({pattern: None})
    if as_json:
        print_json({"unset": pattern, "digest": catalogue.digest})
        return
    click.echo(f"Price of {pattern} removed.")
    _say_table(catalogue)


@prices.command("build")
@click.argument("litellm_json", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="The catalogue to write.")  # fmt: skip
@click.option("--source", required=True, help="What the input is, e.g. 'litellm 1.109.1'.")
@click.option("--date", help="Its date, YYYY-MM-DD.  [default: today]")
def build(litellm_json: Path, out: Path, source: str, date: str | None) -> None:
    """Build the catalogue from LiteLLM's model_prices_and_context_window_backup.json.

    \b
    Example:
      bifrost prices build backup.json --out prices.json --source 'litellm 1.109.1'
    """
    day = date or datetime.now(UTC).strftime("%Y-%m-%d")
    report = build_catalogue(litellm_json, out, source=source, date=day)
    click.echo(f"Wrote {out}: {report}")
