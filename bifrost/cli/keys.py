"""``bifrost keys``: the virtual keys engineers use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from bifrost.cli.entities import describe
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
from bifrost.config.settings import BudgetSpec, instant_ns
from bifrost.errors import Conflict
from bifrost.governance.declared import budgets as made
from bifrost.governance.entities import ProviderRule, VirtualKey

ONCE = "This is the only time the key is shown; keep it safe."


@click.group("keys")
def keys() -> None:
    """Virtual keys: create, list, show, update, rotate, revoke.

    \b
    Example:
      bifrost keys create --name alice-dev --user alice --budget 75/1M
    """


def _changes(
    models: str | None,
    blocked: str | None,
    provider: str | None,
    expires: str | None,
    old: tuple[ProviderRule, ...] = (ProviderRule(),),
) -> dict[str, Any]:
    """What the options say of the key's only rule; what they leave out stays as it was."""
    changes: dict[str, Any] = {}
    given = {
        "provider": provider,
        "allowed_models": _patterns(models) or ("*",) if models is not None else None,
        "blocked_models": _patterns(blocked) if blocked is not None else None,
    }
    given = {field: value for field, value in given.items() if value is not None}
    if given:
        if len(old) != 1:
            raise Conflict("This key has several provider rules; change them in the configuration.")
        changes["provider_configs"] = (msgspec.structs.replace(old[0], **given),)
    if expires is not None:
        try:
            changes["expires_at"] = instant_ns(expires) if expires != "never" else None
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--expires") from None
    return changes


def _patterns(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _rules(function: Any) -> Any:
    for option in (
        click.option("--expires", help="RFC 3339 time, e.g. 2027-01-31T00:00:00Z, or 'never'."),
        click.option("--provider", help="Only this provider (name or glob)."),
        click.option("--blocked-models", "blocked", help="Globs never allowed, comma-separated."),
        click.option("--models", help="Globs allowed, e.g. 'claude-haiku-*,claude-sonnet-*'."),
        click.option(
            "--budget", "budgets", type=BUDGET, multiple=True, help="E.g. 75/1M; may repeat."
        ),
        click.option("--customer", help="Owner: a customer (name or id, '' for none)."),
        click.option("--team", help="Owner: a team (name or id, '' for none)."),
        click.option("--user", help="Owner: a user (name or id, '' for none)."),
    ):
        function = option(function)
    return function


@keys.command("create")
@click.option("--name", required=True, help="Unique name.")
@_rules
@json_option
@data_dir_option
def create(
    name: str,
    budgets: tuple[BudgetSpec, ...],
    models: str | None,
    blocked: str | None,
    provider: str | None,
    expires: str | None,
    as_json: bool,
    data_dir: Path,
    **owner: str | None,
) -> None:
    """Create a virtual key and show its secret once.

    \b
    Example:
      bifrost keys create --name alice-dev --user alice --budget 75/1M --models 'claude-haiku-*'
    """
    changes = _changes(models, blocked, provider, expires)
    with opened(data_dir, create=True) as (directory, gate):
        key, secret = directory.create_key(name, budgets=made(budgets), **changes, **owner)
        data = shown(key, gate)
    if as_json:
        print_json({**data, "value": secret})
    else:
        click.echo(f"Created virtual key {name!r} ({key.id}).\n\n  {secret}\n\n{ONCE}")


@keys.command("list")
@json_option
@data_dir_option
def listing(as_json: bool, data_dir: Path) -> None:
    """List virtual keys with what they have spent.

    \b
    Example:
      bifrost keys list --json
    """
    with opened(data_dir) as (directory, gate):
        found = [shown(key, gate) for key in directory.all("virtual_key")]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            key["name"],
            key["id"],
            f"…{key['hint']}" if key["hint"] else "revoked",
            "yes" if key["is_active"] else "no",
            spent(key["budgets"]),
        )
        for key in found
    ]
    table(rows, ("NAME", "ID", "KEY", "ACTIVE", "SPENT"))


@keys.command("show")
@click.argument("reference", metavar="NAME-OR-ID")
@json_option
@data_dir_option
def show(reference: str, as_json: bool, data_dir: Path) -> None:
    """Show one virtual key (never its secret).

    \b
    Example:
      bifrost keys show alice-dev
    """
    with opened(data_dir) as (directory, gate):
        data = shown(directory.get("virtual_key", reference), gate)
    describe(data, as_json)


@keys.command("update")
@click.argument("reference", metavar="NAME-OR-ID")
@click.option("--name", help="New name.")
@click.option("--active/--inactive", default=None, help="Inactive keys are refused at once.")
@click.option("--no-budget", is_flag=True, help="Remove every budget.")
@_rules
@json_option
@data_dir_option
def update(
    reference: str,
    name: str | None,
    active: bool | None,
    no_budget: bool,
    budgets: tuple[BudgetSpec, ...],
    models: str | None,
    blocked: str | None,
    provider: str | None,
    expires: str | None,
    as_json: bool,
    data_dir: Path,
    **owner: str | None,
) -> None:
    """Change a virtual key; works at once in every worker.

    \b
    Example:
      bifrost keys update alice-dev --budget 100/1M --inactive
    """
    changes: dict[str, Any] = {k: v for k, v in owner.items() if v is not None}
    if name is not None:
        changes["name"] = name
    if active is not None:
        changes["is_active"] = active
    with opened(data_dir) as (directory, gate):
        old = directory.get("virtual_key", reference)
        assert isinstance(old, VirtualKey)
        changes |= _changes(models, blocked, provider, expires, old.provider_configs)
        if budgets or no_budget:
            changes["budgets"] = made(budgets, old.budgets)
        data = shown(directory.update("virtual_key", reference, **changes), gate)
    describe(data, as_json)


@keys.command("rotate")
@click.argument("reference", metavar="NAME-OR-ID")
@json_option
@data_dir_option
def rotate(reference: str, as_json: bool, data_dir: Path) -> None:
    """Give a key a new secret; the old one stops working at once.

    \b
    Example:
      bifrost keys rotate alice-dev
    """
    with opened(data_dir) as (directory, gate):
        key, secret = directory.rotate(reference)
        data = shown(key, gate)
    if as_json:
        print_json({**data, "value": secret})
    else:
        click.echo(f"New secret of virtual key {key.name!r}:\n\n  {secret}\n\n{ONCE}")


@keys.command("revoke")
@click.argument("reference", metavar="NAME-OR-ID")
@json_option
@data_dir_option
def revoke(reference: str, as_json: bool, data_dir: Path) -> None:
    """Make a key unknown for ever; its history stays.

    \b
    Example:
      bifrost keys revoke alice-dev
    """
    with opened(data_dir) as (directory, gate):
        data = shown(directory.revoke(reference), gate)
    if as_json:
        print_json(data)
    else:
        click.echo(f"Revoked virtual key {data['name']!r} ({data['id']}).")
