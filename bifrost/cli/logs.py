"""``bifrost logs``: the single requests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from bifrost.cli.store import data_dir_option, json_option, table
from bifrost.cli.usage import Moment, catch_up_view
from bifrost.config.settings import nano_usd
from bifrost.usage.requests import MOST, document
from bifrost.usage.view import Filters, Logged, UsageView

POLL_S = 0.25
HEADER = ("TIME", "KEY", "USER", "MODEL", "STATUS", "OUTCOME", "INPUT", "OUTPUT", "COST", "REQUEST")
LINE = "{:<27}  {:<16}  {:<16}  {:<26}  {:>6}  {:<20}  {:>9}  {:>7}  {:>12}  {}"


class Amount(click.ParamType[int]):
    """An amount in USD, as nano-USD."""

    name = "usd"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The amount; fails with what was expected."""
        if isinstance(value, int):
            return value
        try:
            return nano_usd(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("logs")
@click.option("--key", help="Virtual key, by name or id.")
@click.option("--user", help="User, by name or id.")
@click.option("--team", help="Team, by name or id.")
@click.option("--customer", help="Customer, by name or id.")
@click.option("--model", help="Model as it was sent to the provider; * and ? are wild.")
@click.option("--provider", help="Provider.")
@click.option("--status", type=int, help="HTTP status.")
@click.option("--outcome", help="ok, refused, error, cut, broken or unsettled.")
@click.option("--code", help="Why it was refused, e.g. budget_exceeded.")
@click.option("--since", type=Moment(), default=0, help="From when: 1h, 30d or a time.")
@click.option("--until", type=Moment(), help="To when.")
@click.option("--min-cost", type=Amount(), help="At least so many USD.")
@click.option("--request", help="The request's id.")
@click.option("--limit", type=click.IntRange(1, MOST), default=50, show_default=True)
@click.option("--cursor", help="Where the last list ended.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new requests as they come.")
@json_option
@data_dir_option
def logs(
    key: str | None, user: str | None, team: str | None, customer: str | None,
    model: str | None, provider: str | None, status: int | None, outcome: str | None,
    code: str | None, since: int, until: int | None, min_cost: int | None, request: str | None,
    limit: int, cursor: str | None, follow: bool, as_json: bool, data_dir: Path,
) -> None:  # fmt: skip
    """The newest requests, refused ones too; with --json one object per line.

    \b
    Example:
      bifrost logs --team core --status 529 --since 7d
      bifrost logs --min-cost 0.50 --json
      bifrost logs --follow
    """
    filters = Filters(
        key=key, user=user, team=team, customer=customer, model=model, provider=provider,
        status=status, outcome=outcome, code=code, since=since, min_cost=min_cost,
        request=request,
    )  # fmt: skip
    if until is not None:
        filters = msgspec.structs.replace(filters, until=until)
    catch_up_view(data_dir)
    view = UsageView(data_dir, read_only=True)
    try:
        position = view.last() - 1
        page = view.logs(filters, limit, cursor)
        if follow:
            _follow(view, filters, page.requests, position, as_json)
            return
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    finally:
        view.close()
    if as_json:
        _lines(page.requests, as_json)
    else:
        table([_cells(one) for one in page.requests], HEADER)
    if page.cursor is not None:
        click.echo(f"More with --cursor {page.cursor}", err=True)


def _follow(
    view: UsageView, filters: Filters, shown: list[Logged], position: int, as_json: bool
) -> None:
    """Prints what is there, oldest first, then what comes, until it is interrupted."""
    if not as_json:
        click.echo(LINE.format(*HEADER))
    _lines(reversed(shown), as_json)
    printed = {one.position for one in shown}
    try:
        while True:
            upto = view.last() - 1  # also notices a view that was built anew
            fresh = view.after(position, filters, MOST)
            _lines((one for one in fresh if one.position not in printed), as_json)
            if len(fresh) == MOST:
                position = fresh[-1].position
                continue
            position = max([upto, *(one.position for one in fresh)])
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


def _lines(found: Iterable[Logged], as_json: bool) -> None:
    for one in found:
        if as_json:
            click.echo(msgspec.json.encode(document(one)).decode())
        else:
            click.echo(LINE.format(*_cells(one)).rstrip())


def _cells(one: Logged) -> tuple[str, ...]:
    shown = document(one)
    return (
        shown["at"],
        shown["key"] or "-",
        shown["user"] or "-",
        one.model or one.asked or "-",
        str(one.status or "-"),
        one.code or one.outcome,
        f"{shown['input_tokens'] + shown['cache_read_tokens'] + shown['cache_write_tokens']:,}",
        f"{shown['output_tokens']:,}",
        "$" + shown["cost_usd"],
        one.request or "-",
    )
