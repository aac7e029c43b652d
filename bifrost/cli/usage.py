"""``bifrost usage``: who spent what."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from bifrost.cli.store import data_dir_option, json_option, opened, print_json, table, timestamp
from bifrost.money import dollars, usd
from bifrost.steward import catch_up
from bifrost.usage.view import GROUPS, UsageView

SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
COLUMNS = ("requests", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
CATCH_UP_S = 5.0
LAST_S = 9_223_372_036  # the last second whose nanoseconds fit into 63 bits


class Moment(click.ParamType[int]):
    """``30d`` ago, or an RFC 3339 date or time, as nanoseconds."""

    name = "time"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The moment in ns; fails with what was expected."""
        if isinstance(value, int):
            return value
        span = re.fullmatch(r"(\d{1,5})([mhdw])", value)
        if span:
            return max(0, time.time_ns() - int(span[1]) * SECONDS[span[2]] * 1_000_000_000)
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            self.fail(f"expected 30d, 12h or a time such as 2026-11-01, got {value!r}", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return min(max(0, int(moment.timestamp())), LAST_S) * 1_000_000_000


@click.command("usage")
@click.option("--by", multiple=True, type=click.Choice(GROUPS), help="Group by; may repeat.")
@click.option("--since", type=Moment(), default="30d", show_default=True, help="From when.")
@click.option("--until", type=Moment(), help="To when.  [default: now]")
@json_option
@data_dir_option
def usage(
    by: tuple[str, ...], since: int, until: int | None, as_json: bool, data_dir: Path
) -> None:
    """What was used and what it cost, from the usage view.

    \b
    Example:
      bifrost usage --by team --by model --since 7d --json
    """
    groups = tuple(dict.fromkeys(by)) or ("key",)
    until = until if until is not None else time.time_ns() + 1_000_000_000
    _catch_up(data_dir)
    view = UsageView(data_dir, read_only=True)
    try:
        found = view.totals(groups, since, until)
    finally:
        view.close()
    rows = [
        {
            **dict(zip(groups, names, strict=True)),
            **dict(zip(COLUMNS, sums[:5], strict=True)),
            "cost_usd": usd(sums[5]),
        }
        for names, sums in found
    ]
    total = sum(sums[5] for _, sums in found)
    if as_json:
        print_json(
            {
                "since": timestamp(since),
                "until": timestamp(until),
                "rows": rows,
                "total_cost_usd": usd(total),
            }
        )
        return
    header = [group.upper() for group in groups]
    table(
        [(*names, *(f"{n:,}" for n in sums[:5]), "$" + usd(sums[5])) for names, sums in found],
        (*header, "REQUESTS", "INPUT", "CACHE READ", "CACHE WRITE", "OUTPUT", "COST"),
        right=len(header),
    )
    click.echo(f"\nTotal {dollars(total)} since {timestamp(since)}.")


def _catch_up(data_dir: Path) -> None:
    """Brings the view up to date, or says that it is not."""
    with opened(data_dir) as (directory, gate):
        if not catch_up(data_dir, gate, directory, CATCH_UP_S):
            click.echo("The steward is behind; the newest requests are missing here.", err=True)
