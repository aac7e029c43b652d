"""``bifrost prices``: what models cost here."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from bifrost.cli.store import json_option, print_json
from bifrost.metering.build import build as build_catalogue
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.prices import describe


@click.group("prices")
def prices() -> None:
    """Show a model's price, or build the catalogue.

    \b
    Example:
      bifrost prices show claude-sonnet-4-5
    """


@prices.command("show")
@click.argument("model")
@click.option("--file", "override", type=click.Path(path_type=Path), help="Your price file.")
@json_option
def show(model: str, override: Path | None, as_json: bool) -> None:
    """The price of MODEL (``provider/model`` or a plain name) in USD per million tokens.

    \b
    Example:
      bifrost prices show anthropic/claude-opus-5-5
    """
    catalogue = Catalogue.load(override)
    provider, slash, rest = model.partition("/")
    found = {}
    if slash and (price := catalogue.price(provider, rest)) is not None:
        found[model] = describe(price)
    else:
        for name in catalogue.providers():
            price = catalogue.price(name, model)
            if price is not None and name != "mock":
                found[f"{name}/{model}"] = describe(price)
    if as_json:
        print_json({"models": found, "digest": catalogue.digest, "source": catalogue.source})
    else:
        for name, card in found.items():
            click.echo(name)
            for key, value in card.items():
                if value not in (None, [], {}):
                    click.echo(f"  {key}: {value}")
        source = f"{catalogue.source}, {catalogue.date}, sha256 {catalogue.digest[:16]}"
        click.echo(f"\ncatalogue: {source}")
    if not found:
        click.echo(f"No price is known for {model!r}; requests for it are refused.", err=True)
        sys.exit(1)


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
