"""``bifrost alerts``: thresholds of budgets that were reached."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bifrost.admin.alerts import shown
from bifrost.admin.objects import whole
from bifrost.cli.store import data_dir_option, json_option, print_json, table
from bifrost.cli.usage import Moment, catch_up_view
from bifrost.money import dollars
from bifrost.usage.view import UsageView


@click.command("alerts")
@click.option("--budget", help="Only of this budget, by id.")
@click.option("--owner", help="Only of this customer, team, user or key, by id or name.")
@click.option("--since", type=Moment(), default=0, help="From when: 1h, 30d or a time.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
@data_dir_option
def alerts(
    budget: str | None, owner: str | None, since: int, limit: int, as_json: bool, data_dir: Path
) -> None:
    """List thresholds that the spending of budgets reached, newest first.

    \b
    Example:
      bifrost alerts --since 30d
      bifrost alerts --owner core --json
    """
    catch_up_view(data_dir)
    view = UsageView(data_dir, read_only=True)
    try:
        found = view.thresholds(since, time.time_ns() + 1, limit, budget=budget, owner=owner)
    finally:
        view.close()
    if as_json:
        print_json([shown(*one) for one in found])
        return
    rows = [
        (whole(one.at), one.level, one.name, f"{one.threshold} %", dollars(one.settled),
         dollars(one.limit), whole(one.window_end), one.budget)
        for _, one in found
    ]  # fmt: skip
    table(rows, ("TIME", "LEVEL", "OWNER", "REACHED", "SPENT", "LIMIT", "WINDOW ENDS", "BUDGET"))
