"""``bifrost budgets``: one budget at a time, by its id: reset, another limit, raise or lower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bifrost._fast.gate import Gate
from bifrost.cli.store import (
    budgets_shown,
    data_dir_option,
    json_option,
    opened,
    print_json,
    spent,
    table,
    told,
)
from bifrost.config.settings import nano_usd
from bifrost.governance import budgets as acts
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, Entity, Kind

LEVELS: dict[str, Kind] = {
    "customer": "customer", "team": "team", "user": "user", "key": "virtual_key"
}  # fmt: skip
Found = tuple[Kind, Entity, Budget]


@click.group("budgets")
def budgets() -> None:
    """Budgets of every level: list, show, update, reset, override.

    \b
    Example:
      bifrost budgets list --level team
    """


class UsdType(click.ParamType[int]):
    """An amount in USD as nano-USD."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The amount; fails with what was expected."""
        if isinstance(value, int):
            return value
        try:
            return nano_usd(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _shown(found: Found, gate: Gate) -> dict[str, Any]:
    """A budget with its owner, as JSON data."""
    kind, entity, budget = found
    level = next(name for name, each in LEVELS.items() if each == kind)
    owner = {"level": level, "id": entity.id, "name": entity.name}
    return {**budgets_shown([budget], gate)[0], "owner": owner}


def _act(
    data_dir: Path, as_json: bool, act: Callable[[Directory], Found], reason: str = ""
) -> None:
    """Does something to a budget and tells how it stands then."""
    with opened(data_dir, reason=reason.strip()) as (directory, gate):
        try:
            data = _shown(act(directory), gate)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    if as_json:
        print_json(data)
    else:
        owner = data["owner"]
        click.echo(f"{data['id']} of {owner['level']} {owner['name']}: {told(data)}")


REASON = click.option("--reason", required=True, help="Why; kept with the budget.")
ID = click.argument("budget_id", metavar="ID")


@budgets.command("list")
@click.option("--level", type=click.Choice(list(LEVELS)), help="Only budgets of this level.")
@json_option
@data_dir_option
def listing(level: str | None, as_json: bool, data_dir: Path) -> None:
    """List budgets with what is spent of them, customers first.

    \b
    Example:
      bifrost budgets list --level team --json
    """
    kind = LEVELS[level] if level is not None else None
    with opened(data_dir) as (directory, gate):
        found = [_shown(one, gate) for one in acts.listed(directory, kind)]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["id"],
            one["owner"]["level"],
            one["owner"]["name"],
            spent([one]),
            one["resets_at"],
            one["override"]["end_at"] if one["override"] is not None else "-",
        )
        for one in found
    ]
    table(rows, ("ID", "LEVEL", "OWNER", "SPENT", "RESETS", "OVERRIDDEN UNTIL"))


@budgets.command("show")
@ID
@json_option
@data_dir_option
def show(budget_id: str, as_json: bool, data_dir: Path) -> None:
    """Show one budget and whose it is.

    \b
    Example:
      bifrost budgets show bud_0123456789abcdef
    """
    _act(data_dir, as_json, lambda directory: acts.found(directory, budget_id))


@budgets.command("update")
@ID
@click.option("--limit", type=UsdType(), required=True, help="The new limit in USD.")
@json_option
@data_dir_option
def update(budget_id: str, limit: int, as_json: bool, data_dir: Path) -> None:
    """Raise or lower a budget for good; what is spent stays spent.

    \b
    Example:
      bifrost budgets update bud_0123456789abcdef --limit 120
    """
    _act(data_dir, as_json, lambda directory: acts.set_limit(directory, budget_id, limit))


@budgets.command("reset")
@ID
@REASON
@json_option
@data_dir_option
def reset(budget_id: str, reason: str, as_json: bool, data_dir: Path) -> None:
    """Begin the present window anew: nothing of it is spent; it ends when it would have.

    \b
    Example:
      bifrost budgets reset bud_0123456789abcdef --reason 'runaway job, credited'
    """
    _act(
        data_dir,
        as_json,
        lambda directory: acts.reset(directory, budget_id, reason=reason),
        reason,
    )


@budgets.command("override")
@ID
@click.option("--limit", type=UsdType(), required=True, help="The limit in USD for that time.")
@click.option("--cycles", type=int, default=1, show_default=True,
              help="Windows it holds for, the present one included.")  # fmt: skip
@REASON
@json_option
@data_dir_option
def override(
    budget_id: str, limit: int, cycles: int, reason: str, as_json: bool, data_dir: Path
) -> None:
    """Another limit for the present window, or for some; then the budget's own holds again.

    \b
    Example:
      bifrost budgets override bud_0123456789abcdef --limit 200 --cycles 2 --reason 'release'
    """
    _act(
        data_dir,
        as_json,
        lambda directory: acts.override(
            directory, budget_id, max_limit=limit, cycles=cycles, reason=reason
        ),
        reason,
    )


@budgets.command("clear-override")
@ID
@json_option
@data_dir_option
def clear_override(budget_id: str, as_json: bool, data_dir: Path) -> None:
    """End an override at once.

    \b
    Example:
      bifrost budgets clear-override bud_0123456789abcdef
    """
    _act(data_dir, as_json, lambda directory: acts.clear_override(directory, budget_id))
