"""``bifrost config``: check a configuration file, print its schema."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bifrost.cli.store import json_option, print_json
from bifrost.config.findings import inside
from bifrost.config.load import load
from bifrost.config.schema import json_schema
from bifrost.config.settings import Settings
from bifrost.errors import BifrostError
from bifrost.metering.catalogue import Catalogue


@click.group("config")
def config() -> None:
    """Check a configuration file or print its JSON Schema.

    \b
    Example:
      bifrost config check bifrost.json
    """


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Say whether a configuration can be used; exit code 1 and every problem if not.

    \b
    Example:
      bifrost config check bifrost.json
    """
    problems: list[str] = []
    warnings: tuple[str, ...] = ()
    told = ""
    try:
        loaded = load(file)
        prices = loaded.settings.prices.file
        catalogue = Catalogue.load(Path(prices) if prices else None)
        warnings = (*loaded.warnings, *_unpriced(loaded.settings, catalogue))
    except BifrostError as error:
        told = str(error)
        head, *lines = told.splitlines()
        problems = lines or [head]
    if as_json:
        print_json({"file": str(file), "ok": not problems, "problems": problems,
                    "warnings": list(warnings)})  # fmt: skip
    elif problems:
        click.echo(told, err=True)
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        click.echo(f"{file} can be used.")
    sys.exit(1 if problems else 0)


def _unpriced(settings: Settings, catalogue: Catalogue) -> Iterator[str]:
    """Warnings of targets that nobody priced; those with a pattern for a name cannot be known."""
    for name, targets in settings.models.items():
        for number, target in enumerate(targets):
            model, provider = target.model or name, settings.providers.get(target.provider)
            if provider is None or set(model) & set("*?"):
                continue
            if catalogue.price(provider.type, model, name=target.provider) is None:
                place = inside(inside("models", name), number)
                yield (
                    f"{place}: neither the catalogue nor the price file has a price for "
                    f"{target.provider}/{model}; requests for it are refused unless "
                    "`bifrost prices set` stored one"
                )


@config.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration file.

    \b
    Example:
      bifrost config schema > bifrost.schema.json
    """
    print_json(json_schema())
