"""``bifrost audit status`` and ``bifrost audit hold``: how the log is kept, and what keeps it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from bifrost.admin.objects import whole as timestamp
from bifrost.audit import holds, policy
from bifrost.audit.condition import condition
from bifrost.audit.log import FOLDER
from bifrost.cli.store import data_dir_option, json_option, print_json, recorded, table

MIB = 1 << 20


@click.command("status")
@json_option
@data_dir_option
def status(as_json: bool, data_dir: Path) -> None:
    """Show how many entries are where, which holds there are, and what is in the way.

    \b
    Example:
      bifrost audit status
    """
    found = condition(data_dir / FOLDER)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [
        ("entries", f"{found.oldest} to {found.end - 1}" if found.end else "none"),
        ("removed", f"0 to {found.minimum - 1}" if found.minimum else "none"),
        ("here", f"{found.local} segments, {found.local_bytes / MIB:.1f} MiB"),
        ("archived", f"{found.archived} segments, {found.archived_bytes / MIB:.1f} MiB packed"),
        *(("archive", depot) for depot in found.depots),
    ]
    if found.doomed:
        rows.append(("locked", f"{found.doomed} removed segments are still in the archive"))
    if found.sealed_at:
        rows.append(("oldest here", f"sealed {timestamp(found.sealed_at)}"))
    rows += [("hold", f"{one.name} by {one.actor}: {one.reason or '-'}") for one in found.holds]
    if found.trouble:
        rows.append(("TROUBLE", found.trouble))
    for name, text in rows:
        click.echo(f"{name:<12}{text}")


@click.group("hold")
def hold() -> None:
    """Legal holds: while there is one, no entry is removed, however old it is.

    \b
    Example:
      bifrost audit hold add case-7 --reason "discovery, Smith v. Acme"
      bifrost audit hold list
      bifrost audit hold remove case-7
    """


@hold.command("add")
@click.argument("name")
@click.option("--reason", default="", help="Why; it is recorded.")
@data_dir_option
def add(name: str, reason: str, data_dir: Path) -> None:
    """Set a hold. When the command returns nothing is removed any more.

    \b
    Example:
      bifrost audit hold add case-7 --reason "discovery, Smith v. Acme"
    """
    with recorded(data_dir, reason=reason) as (_, _, recorder):
        holds.add(
            data_dir / FOLDER, name, policy.actor(), reason,
            lambda: recorder.hold("hold", name),
        )  # fmt: skip
    click.echo(f"Hold {name} is set: no entry of the audit log is removed.")


@hold.command("remove")
@click.argument("name")
@click.option("--reason", default="", help="Why; it is recorded.")
@data_dir_option
def remove(name: str, reason: str, data_dir: Path) -> None:
    """End a hold. Entries whose time is over are then removed.

    \b
    Example:
      bifrost audit hold remove case-7
    """
    with recorded(data_dir, reason=reason) as (_, _, recorder):
        holds.release(data_dir / FOLDER, name, lambda: recorder.hold("release", name))
    click.echo(f"Hold {name} is ended.")


@hold.command("list")
@json_option
@data_dir_option
def list_holds(as_json: bool, data_dir: Path) -> None:
    """List the holds.

    \b
    Example:
      bifrost audit hold list
    """
    found = holds.holds(data_dir / FOLDER)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [(one.name, timestamp(one.at), one.actor, one.reason) for one in found]
    table(rows, ("NAME", "SINCE", "BY", "REASON"))
