"""``bifrost admin-token``: the token of the REST API."""

from __future__ import annotations

from pathlib import Path

import click

from bifrost.cli.store import data_dir_option, json_option, opened, print_json
from bifrost.governance import admin_token as tokens


@click.command("admin-token")
@click.option("--rotate", is_flag=True, help="Make a new one; the old one stops working at once.")
@json_option
@data_dir_option
def admin_token(rotate: bool, as_json: bool, data_dir: Path) -> None:
    """Make the token that the REST API asks for, if there is none or it was lost.

    \b
    Example:
      bifrost admin-token --rotate
    """
    with opened(data_dir, create=True) as (directory, _):
        token = tokens.replace(directory) if rotate else tokens.mint(directory)
    if as_json:
        print_json({"admin_token": token})
    elif token is not None:
        click.echo(f"Admin token, shown once:\n\n  {token}")
    else:
        click.echo("There is an admin token; only its digest is kept. --rotate makes a new one.")
