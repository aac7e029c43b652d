"""``bifrost customers|teams|users``: who is governed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bifrost.cli.options import Governed, governed
from bifrost.cli.store import (
    data_dir_option,
    json_option,
    limited,
    opened,
    print_json,
    shown,
    spent,
    table,
    told,
)
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

    def example(text: str, command: str) -> str:
        return f"{text}\n\n\b\nExample:\n  bifrost {plural} {command}"

    parents = [
        click.option(f"--{parent}", help=f"The {parent} it belongs to (name or id, '' for none).")
        for parent in PARENTS[kind]
    ]

    def with_parents(function: Any) -> Any:
        for option in parents:
            function = option(function)
        return function

    @click.group(plural, help=example(what, f"create --name {some}"))
    def group() -> None:
        pass

    @group.command(
        "create", help=example(f"Create a {kind}.", f"create --name {some} --budget 500/1M")
    )
    @click.option("--name", required=True, help="Unique name.")
    @with_parents
    @governed(update=False)
    @json_option
    @data_dir_option
    def create(name: str, given: Governed, as_json: bool, data_dir: Path, **owner: Any) -> None:
        with opened(data_dir, create=True) as (directory, gate):
            entity = directory.create(kind, name, **given.changes(None), **owner)
            if as_json:
                print_json(shown(entity, gate))
            else:
                click.echo(f"Created {kind} {name!r} ({entity.id}).")

    @group.command("list", help=example(f"List {plural} with what they have spent.", "list --json"))
    @json_option
    @data_dir_option
    def listing(as_json: bool, data_dir: Path) -> None:
        with opened(data_dir) as (directory, gate):
            found = [shown(entity, gate) for entity in directory.all(kind)]
        if as_json:
            print_json(found)
        else:
            rows = [
                (
                    e["name"],
                    e["id"],
                    "yes" if e["is_active"] else "no",
                    spent(e["budgets"]),
                    limited(e["rate_limits"]),
                )
                for e in found
            ]
            table(rows, ("NAME", "ID", "ACTIVE", "SPENT", "LIMITS"))

    @group.command("show", help=example(f"Show one {kind}.", f"show {some}"))
    @click.argument("reference", metavar="NAME-OR-ID")
    @json_option
    @data_dir_option
    def show(reference: str, as_json: bool, data_dir: Path) -> None:
        with opened(data_dir) as (directory, gate):
            entity = shown(directory.get(kind, reference), gate)
        describe(entity, as_json)

    @group.command(
        "update",
        help=example(
            f"Change a {kind}. What is not named stays; budgets given replace the old ones, a "
            "rate limit given replaces the one that counts the same ('none' removes it).",
            f"update {some} --budget 900/1M --concurrency 20",
        ),
    )
    @click.argument("reference", metavar="NAME-OR-ID")
    @with_parents
    @governed(update=True)
    @json_option
    @data_dir_option
    def update(
        reference: str, given: Governed, as_json: bool, data_dir: Path, **owner: str
    ) -> None:
        changes: dict[str, Any] = {k: v for k, v in owner.items() if v is not None}
        with opened(data_dir) as (directory, gate):
            changes |= given.changes(directory.get(kind, reference))
            describe(shown(directory.update(kind, reference, **changes), gate), as_json)

    @group.command(
        "delete", help=example(f"Delete a {kind} nobody belongs to any more.", f"delete {some}")
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
                click.echo(f"budget: {told(budget)}")
        elif name == "rate_limits":
            for limit in value:
                click.echo(f"rate limit: {limited([limit])}")
        elif name == "provider_configs":
            for rule in value:
                click.echo(f"may use: {_rule(rule)}")
        elif value not in (None, [], ""):
            click.echo(f"{name}: {value}")


def _rule(rule: dict[str, Any]) -> str:
    """A provider rule as a person reads it."""
    models = ", ".join(rule["allowed_models"]) or "no model"
    blocked = f" except {', '.join(rule['blocked_models'])}" if rule["blocked_models"] else ""
    return f"{models}{blocked} of provider {rule['provider']}"


customers = _group("customer", "The organisations that pay.")
teams = _group("team", "Parts of a customer.")
users = _group("user", "People and services.")
