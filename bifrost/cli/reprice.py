"""``bifrost usage --reprice``: what the same usage would have cost under another price table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from bifrost.audit.log import Reader
from bifrost.cli.prices import reading
from bifrost.cli.store import print_json, table
from bifrost.errors import Conflict, NotFound, StoreError
from bifrost.metering.catalogue import Catalogue
from bifrost.money import dollars, usd
from bifrost.pricing import Pricing, package
from bifrost.usage.reprice import Repriced, Repricer, Sums, reprice
from bifrost.usage.view import UsageView

HEADER = ("REQUESTS", "COST", "REPRICED", "DIFFERENCE", "LEFT OUT", "THEIR COST")


def show_repriced(
    data_dir: Path,
    wanted: str,
    groups: tuple[str, ...],
    since: int,
    until: int,
    said: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Prints costs as booked beside costs under ``wanted``: a price file, a digest, ``current``,
    or ``catalogue``. ``said``: since and until as people read them."""
    with closing(UsageView(data_dir, read_only=True)) as view:
        names = dict(view.names())
    with reading(data_dir) as pricing:
        if pricing is None:  # somebody removed it this moment
            raise StoreError(f"{data_dir} is not a data directory of Bifrost.")
        catalogue = _catalogue(pricing, wanted)
        repricer = Repricer(catalogue, groups, names, lambda digest: _then(pricing, digest))
        found = _read(data_dir, repricer, since, until)
    if as_json:
        print_json(_document(catalogue, groups, found, said))
    else:
        _print(catalogue, groups, found, said)


def _catalogue(pricing: Pricing, wanted: str) -> Catalogue:
    if wanted == "current":
        return pricing.current()
    if wanted == "catalogue":
        return package()
    file = Path(wanted)
    if file.is_file() or file.suffix or len(file.parts) > 1:
        return pricing.supposing(file, above=True)
    return pricing.catalogue(wanted)


def _then(pricing: Pricing, digest: str) -> Catalogue | None:
    try:
        return pricing.catalogue(digest)
    except (NotFound, Conflict):
        return None


def _read(data_dir: Path, repricer: Repricer, since: int, until: int) -> Repriced:
    """With a progress bar on a terminal."""
    entries = Reader(data_dir)
    length = entries.end() - entries.oldest()
    if not sys.stderr.isatty():
        return reprice(data_dir, repricer, since, until)
    with click.progressbar(length=length, label="Reading the audit log", file=sys.stderr) as bar:
        update: Callable[[int], None] = bar.update
        return reprice(data_dir, repricer, since, until, update)


def _sums(sums: Sums) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "cost_usd": usd(sums.cost),
        "repriced_usd": usd(sums.repriced),
        "difference_usd": usd(sums.repriced - sums.cost),
        "left_out": sums.left_out,
        "left_out_usd": usd(sums.left_cost),
    }


def _document(
    catalogue: Catalogue, groups: tuple[str, ...], found: Repriced, said: dict[str, Any]
) -> dict[str, Any]:
    return {
        **said,
        "price_table": {"digest": catalogue.digest, "source": catalogue.source,
                        "date": catalogue.date},
        "rows": [dict(zip(groups, names, strict=True)) | _sums(sums) for names, sums in found.rows],
        "total": _sums(found.total),
        "left_out": [
            {"reason": one.reason, "provider": one.provider, "model": one.model,
             "requests": one.requests, "cost_usd": usd(one.cost)}
            for one in found.left_out
        ],
        "unproven_requests": found.unproven,
    }  # fmt: skip


def _print(
    catalogue: Catalogue, groups: tuple[str, ...], found: Repriced, said: dict[str, Any]
) -> None:
    table(
        [
            (*names, f"{sums.requests:,}", "$" + usd(sums.cost), "$" + usd(sums.repriced),
             usd(sums.repriced - sums.cost), f"{sums.left_out:,}", "$" + usd(sums.left_cost))
            for names, sums in found.rows
        ],
        (*(group.upper() for group in groups), *HEADER),
        right=len(groups),
    )  # fmt: skip
    total = found.total
    click.echo(
        f"\nTotal {dollars(total.cost)} since {said['since']}, {dollars(total.repriced)} under "
        f"price table {catalogue.digest[:16]}. Nothing was changed."
    )
    for one in found.left_out:
        click.echo(
            f"left out: {one.requests:,} requests for {one.provider}/{one.model}, "
            f"${usd(one.cost)}: {one.reason}",
            err=True,
        )
    if found.unproven:
        click.echo(
            f"{found.unproven:,} requests were billed by price tables that are not kept here; "
            "whether their records give their costs exactly is not known.",
            err=True,
        )
