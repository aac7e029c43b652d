"""``bifrost usage``: who spent what, and the view that knows it."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from bifrost.admin.objects import whole as timestamp
from bifrost.audit.log import Reader
from bifrost.cli.reprice import show_repriced
from bifrost.cli.store import data_dir_option, json_option, opened, print_json, table
from bifrost.governance.entities import Kind
from bifrost.money import dollars, usd
from bifrost.standin import catch_up
from bifrost.stewardship import Stewardship
from bifrost.usage.rebuild import rebuild, waiting
from bifrost.usage.view import FAR_BEHIND, GROUPS, INTERVALS, Row, UsageView

SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
COLUMNS = ("requests", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
CATCH_UP_S = 5.0
KINDS: tuple[Kind, ...] = ("customer", "team", "user", "virtual_key")
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


@click.group("usage", invoke_without_command=True)
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(GROUPS),
    help="Group by; may repeat.  [default: key; with --reprice: model]",
)
@click.option("--since", type=Moment(), default="30d", show_default=True, help="From when.")
@click.option("--until", type=Moment(), help="To when.  [default: now]")
@click.option("--interval", type=click.Choice(INTERVALS), help="Sums per hour, day, week or month.")
@click.option(
    "--time-zone", default="UTC", show_default=True, help="Whose calendar, e.g. Asia/Tokyo."
)
@click.option("--reprice", metavar="FILE|DIGEST|current|catalogue",
              help="What it would have cost under another price table.")  # fmt: skip
@json_option
@data_dir_option
@click.pass_context
def usage(
    context: click.Context,
    by: tuple[str, ...],
    since: int,
    until: int | None,
    interval: str | None,
    time_zone: str,
    reprice: str | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """What was used and what it cost, from the usage view.

    \b
    Example:
      bifrost usage --by team --by model --since 7d --json
      bifrost usage --by team --interval 1d --time-zone Europe/Berlin
      bifrost usage --by model --reprice prices.new.json
      bifrost usage rebuild
    """
    if context.invoked_subcommand is not None:
        context.obj = data_dir
        return
    groups = tuple(dict.fromkeys(by)) or (("key",) if reprice is None else ("model",))
    until = until if until is not None else time.time_ns() + 1_000_000_000
    said: dict[str, Any] = {"since": timestamp(since), "until": timestamp(until)}
    catch_up_view(data_dir)
    if reprice is not None:
        if interval is not None:
            raise click.UsageError("--reprice gives sums without an --interval", context)
        show_repriced(data_dir, reprice, groups, since, until, said, as_json=as_json)
        return
    view = UsageView(data_dir, read_only=True)
    try:
        if interval is None:
            parts: list[tuple[str | None, Row]] = [
                (None, row) for row in view.totals(groups, since, until)
            ]
        else:
            said |= {"interval": interval, "time_zone": time_zone}
            parts = [
                (_local(bucket.start, time_zone), row)
                for bucket in view.series(groups, since, until, interval, time_zone)
                for row in bucket.rows
            ]
    except ValueError as error:
        raise click.UsageError(f"{error}.", context) from error
    finally:
        view.close()
    show(groups, parts, said, as_json=as_json)


def show(
    groups: tuple[str, ...],
    parts: list[tuple[str | None, Row]],
    said: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Prints rows of sums, each with the start of its interval if it has one."""
    total = sum(sums[5] for _, (_, sums) in parts)
    if as_json:
        rows = [
            {
                **({"start": start} if start else {}),
                **dict(zip(groups, names, strict=True)),
                **dict(zip(COLUMNS, sums[:5], strict=True)),
                "cost_usd": usd(sums[5]),
            }
            for start, (names, sums) in parts
        ]
        print_json({**said, "rows": rows, "total_cost_usd": usd(total)})
        return
    header = [*(["START"] if "interval" in said else []), *(group.upper() for group in groups)]
    table(
        [
            (*([start] if start else []), *names, *(f"{n:,}" for n in sums[:5]), "$" + usd(sums[5]))
            for start, (names, sums) in parts
        ],
        (*header, "REQUESTS", "INPUT", "CACHE READ", "CACHE WRITE", "OUTPUT", "COST"),
        right=len(header),
    )
    click.echo(f"\nTotal {dollars(total)} since {said['since']}.")


def _local(ns: int, time_zone: str) -> str:
    """A moment as RFC 3339 in a time zone."""
    return datetime.fromtimestamp(ns // 1_000_000_000, ZoneInfo(time_zone)).isoformat()


@usage.command("rebuild")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the gateway keeps its state.  [default: as for usage]",
)
@click.pass_obj
def rebuild_view(given: Path, data_dir: Path | None) -> None:
    """Build the usage view anew from the audit log. The gateway may run meanwhile.

    \b
    Example:
      bifrost usage rebuild --data-dir /var/lib/bifrost
    """
    data_dir = data_dir or given
    done = built(data_dir)
    catch_up_view(data_dir)
    click.echo(f"Built the usage view anew from {done:,} entries of the log.")


def built(data_dir: Path) -> int:
    """Rebuilds the view with a progress bar on a terminal; returns the number of entries."""
    with opened(data_dir) as (directory, _):
        names = [(entity.id, entity.name) for kind in KINDS for entity in directory.each(kind)]
    entries = Reader(data_dir)
    length = entries.end() - entries.oldest()
    if not sys.stderr.isatty():
        return rebuild(data_dir, names)
    with click.progressbar(length=length, label="usage view", file=sys.stderr) as bar:
        return rebuild(data_dir, names, bar.update)


def catch_up_view(data_dir: Path) -> None:
    """Brings the view up to date, or says that it is not."""
    with opened(data_dir) as (directory, gate):
        lock = Stewardship(data_dir)
        unattended = lock.take()
        lock.give_up()
        if not unattended or waiting(data_dir) < FAR_BEHIND:
            if not catch_up(data_dir, gate, directory, CATCH_UP_S):
                click.echo("The steward is behind; the newest requests are missing here.", err=True)
            return
    built(data_dir)
    with opened(data_dir) as (directory, gate):
        catch_up(data_dir, gate, directory, CATCH_UP_S)
