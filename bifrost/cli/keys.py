"""``bifrost keys``: the virtual keys engineers use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bifrost.cli.entities import describe
from bifrost.cli.imports import import_keys
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
)
from bifrost.config.settings import instant_ns
from bifrost.governance.entities import ProviderRule

ONCE = "This is the only time the key is shown; keep it safe."


@click.group("keys")
def keys() -> None:
    """Virtual keys: create, import, list, show, update, rotate, revoke.

    \b
    Example:
      bifrost keys create --name alice-dev --user alice --budget 75/1M
    """


keys.add_command(import_keys)

OWN = (
    click.option("--user", help="Owner: a user (name or id, '' for none)."),
    click.option("--team", help="Owner: a team (name or id, '' for none)."),
    click.option("--customer", help="Owner: a customer (name or id, '' for none)."),
    click.option("--expires", help="RFC 3339 time, e.g. 2027-01-31T00:00:00Z, or 'never'."),
    click.option(
        "--audit-content",
        "content",
        type=click.Choice(["none", "hash", "full", "default"]),
        help="What the audit log keeps of what it says; default: as configured.",
    ),
)


def _own_options(function: Any) -> Any:
    """The options that only virtual keys have."""
    for option in reversed(OWN):
        function = option(function)
    return function


def _own(expires: str | None, content: str | None) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if content is not None:
        own["audit_content"] = content if content != "default" else None
    if expires is None:
        return own
    try:
        return own | {"expires_at": instant_ns(expires) if expires != "never" else None}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expires") from None


@keys.command("create")
@click.option("--name", required=True, help="Unique name.")
@_own_options
@governed(update=False)
@json_option
@data_dir_option
def create(
    name: str,
    given: Governed,
    expires: str | None,
    content: str | None,
    as_json: bool,
    data_dir: Path,
    **owner: Any,
) -> None:
    """Create a virtual key and show its secret once.

    \b
    Example:
      bifrost keys create --name alice-dev --user alice --budget 75/1M --rpm 60 \\
        --models 'claude-haiku-*,claude-sonnet-*'
    """
    changes = given.changes(None, (ProviderRule(),)) | _own(expires, content)
    with opened(data_dir, create=True) as (directory, gate):
        key, secret = directory.create_key(name, **changes, **owner)
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
            limited(key["rate_limits"]),
        )
        for key in found
    ]
    table(rows, ("NAME", "ID", "KEY", "ACTIVE", "SPENT", "LIMITS"))


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
@_own_options
@governed(update=True)
@json_option
@data_dir_option
def update(
    reference: str,
    given: Governed,
    expires: str | None,
    content: str | None,
    as_json: bool,
    data_dir: Path,
    **owner: str | None,
) -> None:
    """Change a virtual key; works at once in every worker.

    What is not named stays; budgets given replace the old ones, a rate limit given replaces the
    one that counts the same ('none' removes it).

    \b
    Example:
      bifrost keys update alice-dev --budget 100/1M --rpm 120 --concurrency none
    """
    changes: dict[str, Any] = {k: v for k, v in owner.items() if v is not None}
    changes |= _own(expires, content)
    with opened(data_dir) as (directory, gate):
        changes |= given.changes(directory.get("virtual_key", reference))
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
