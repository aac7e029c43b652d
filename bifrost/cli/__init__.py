"""The command ``bifrost``: one file per command group, imported when it is used."""

from __future__ import annotations

import importlib
import sys

import click

from bifrost.errors import BifrostError

COMMANDS = {
    "serve": "bifrost.cli.serve:serve",
    "reload": "bifrost.cli.reload:reload",
    "mock": "bifrost.cli.mock:mock",
    "config": "bifrost.cli.config:config",
    "keys": "bifrost.cli.keys:keys",
    "customers": "bifrost.cli.entities:customers",
    "teams": "bifrost.cli.entities:teams",
    "users": "bifrost.cli.entities:users",
    "budgets": "bifrost.cli.budgets:budgets",
    "alerts": "bifrost.cli.alerts:alerts",
    "webhooks": "bifrost.cli.webhooks:webhooks",
    "usage": "bifrost.cli.usage:usage",
    "logs": "bifrost.cli.logs:logs",
    "reconcile": "bifrost.cli.reconcile:reconcile",
    "prices": "bifrost.cli.prices:prices",
    "audit": "bifrost.cli.audit:audit",
    "admin-token": "bifrost.cli.admin_token:admin_token",
    "connect": "bifrost.cli.connect:connect",
    "doctor": "bifrost.cli.doctor:doctor",
}


class Commands(click.Group):
    """A group that imports a command's module only when that command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, _, name = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bifrost-gateway")
def cli() -> None:
    """Bifrost puts coding agents under governance.

    \b
    Example:
      bifrost serve --config bifrost.json
      bifrost keys create --name alice --budget 75/1M
    """


def main() -> None:
    """Runs the command line; a failure is one line on standard error and exit code 1."""
    try:
        cli()
    except (BifrostError, OSError) as error:
        click.echo(f"bifrost: {error}", err=True)
        sys.exit(1)
