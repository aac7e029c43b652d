"""``bifrost customers|teams|users``: who is governed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bifrost.cli.store import (
    BUDGET,
    data_dir_option,
    json_option,
    opened,
    print_json,
    shown,
    spent,
    table,
)
from bifrost.config.settings import BudgetSpec
from bifrost.governance.declared import budgets as made
from bifrost.governance.entities import Kind

PARENTS: dict[Kind, tuple[str, ...]] = {
    "customer": (),
    "team": ("customer",),
    "user": ("team", "customer"),
}


EXAMPLE: dict[Kind, str] = {"customer": "acme", "team": "core", "user": "alice"}


def _group(kind: Kind, what: str) -> click.Group:
    """The five commands of one kind of entity."""
    plural, some = f"{kind}s", EXAMPLE[kind]

    def told(text: str, example: str) -> str:
        return f"{text}\n\n\b\nExample:\n  bifrost {plural} {example}"

    parents = [
        click.option(f"--{parent}", help=f"The {parent} it belongs to (name or id, '' for none).")
        for parent in PARENTS[kind]
    ]
    budget = click.option(
        "--budget",
        "budgets",
        type=BUDGET,
        multiple=True,
        help="USD/WINDOW, e.g. 500/1M; may repeat.",
    )

    def with_parents(function: Any) -> Any:
        for option in parents:
            function = option(function)
        return function

    @click.group(plural, help=told(what, f"create --name {some}"))
    def group() -> None:
        pass

    @group.command(
        "create", help=told(f"Create a {kind}.", f"create --name {some} --budget 500/1M")
    )
    @click.option("--name", required=True, help="Unique name.")
    @with_parents
    @budget
    @json_option
    @data_dir_option
    def create(
        name: str, budgets: tuple[BudgetSpec, ...], as_json: bool, data_dir: Path, **owner: str
    ) -> None:
        with opened(data_dir, create=True) as (directory, gate):
            entity = directory.create(kind, name, budgets=made(budgets), **owner)
            if as_json:
                print_json(shown(entity, gate))
            else:
                click.echo(f"Created {kind} {name!r} ({entity.id}).")

    @group.command("list", help=told(f"List {plural} with what they have spent.", "list --json"))
    @json_option
    @data_dir_option
    def listing(as_json: bool, data_dir: Path) -> None:
        with opened(data_dir) as (directory, gate):
            found = [shown(entity, gate) for entity in directory.all(kind)]
        if as_json:
            print_json(found)
        else:
            rows = [
                (e["name"], e["id"], "yes" if e["is_active"] else "no", spent(e["budgets"]))
                for e in found
            ]
            table(rows, ("NAME", "ID", "ACTIVE", "SPENT"))

    @group.command("show", help=told(f"Show one {kind}.", f"show {some}"))
    @click.argument("reference", metavar="NAME-OR-ID")
    @json_option
    @data_dir_option
    def show(reference: str, as_json: bool, data_dir: Path) -> None:
        with opened(data_dir) as (directory, gate):
            entity = shown(directory.get(kind, reference), gate)
        describe(entity, as_json)

    @group.command(
        "update",
        help=told(
            f"Change a {kind}; budgets given replace the old ones.",
            f"update {some} --budget 900/1M",
        ),
    )
    @click.argument("reference", metavar="NAME-OR-ID")
    @click.option("--name", help="New name.")
    @click.option("--active/--inactive", default=None, help="Inactive refuses all below it.")
    @click.option("--no-budget", is_flag=True, help="Remove every budget.")
    @with_parents
    @budget
    @json_option
    @data_dir_option
    def update(
        reference: str,
        name: str | None,
        active: bool | None,
        no_budget: bool,
        budgets: tuple[BudgetSpec, ...],
        as_json: bool,
        data_dir: Path,
        **owner: str | None,
    ) -> None:
        changes: dict[str, Any] = {k: v for k, v in owner.items() if v is not None}
        with opened(data_dir) as (directory, gate):
            old = directory.get(kind, reference)
            if name is not None:
                changes["name"] = name
            if active is not None:
                changes["is_active"] = active
            if budgets or no_budget:
                changes["budgets"] = made(budgets, old.budgets)
            describe(shown(directory.update(kind, reference, **changes), gate), as_json)

    @group.command(
        "delete", help=told(f"Delete a {kind} nobody belongs to any more.", f"delete {some}")
    )
    @click.argument("reference", metavar="NAME-OR-ID")
    @json_option
    @data_dir_option
    def delete(reference: str, as_json: bool, data_dir: Path) -> None:
        with opened(data_dir) as (directory, _):
            entity = directory.delete(kind, reference)
        if as_json:
            print_json({"id": entity.id, "name": entity.name, "deleted": True})
        else:
            click.echo(f"Deleted {kind} {entity.name!r} ({entity.id}).")

    return group


def describe(entity: dict[str, Any], as_json: bool) -> None:
    """One entity, as JSON or as lines a person reads."""
    if as_json:
        print_json(entity)
        return
    for name, value in entity.items():
        if name == "budgets":
            for budget in value:
                click.echo(
                    f"budget: ${budget['current_usage']} of ${budget['max_limit']} per "
                    f"{budget['reset_duration']}, ${budget['reserved']} reserved, "
                    f"resets {budget['resets_at']}"
                )
        elif value not in (None, [], ""):
            click.echo(f"{name}: {value}")


customers = _group("customer", "The organisations that pay.")
teams = _group("team", "Parts of a customer.")
users = _group("user", "People and services.")
