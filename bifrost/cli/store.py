"""What commands share: the data directory they work on and how they show what they find."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from bifrost._fast.gate import Gate
from bifrost.admin import objects
from bifrost.admin.objects import whole as timestamp
from bifrost.audit.policy import acting
from bifrost.core import recording
from bifrost.errors import StoreError
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, Entity
from bifrost.governance.environment import make_folder
from bifrost.recorder import Recorder

F = TypeVar("F", bound=Callable[..., Any])


def data_dir_option(function: F) -> F:
    """``--data-dir``, with the environment variable BIFROST_DATA_DIR and ./data behind it."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("data"),
        envvar="BIFROST_DATA_DIR",
        show_default=True,
        help="Where the gateway keeps its state.",
    )(function)


def json_option(function: F) -> F:
    """``--json``: data instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@contextmanager
def opened(
    data_dir: Path, *, create: bool = False, reason: str = ""
) -> Iterator[tuple[Directory, Gate]]:
    """The directory and the gate of a data directory; raises StoreError when there is none.

    ``reason`` is recorded with every change made in the block.
    """
    with recorded(data_dir, create=create, reason=reason) as (directory, gate, _):
        yield directory, gate


@contextmanager
def recorded(
    data_dir: Path, *, create: bool = False, reason: str = ""
) -> Iterator[tuple[Directory, Gate, Recorder]]:
    """The same, and what records."""
    if not create and not (data_dir / "config").is_dir():
        raise StoreError(
            f"{data_dir} is not a data directory of Bifrost; name one with --data-dir, "
            "or start `bifrost serve` once to make it."
        )
    make_folder(data_dir)
    with recording(data_dir) as found, acting(f"cli:{_user()}", reason):
        yield found


def _user() -> str:
    """Who works at this terminal, by the operating system's word."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return str(os.getuid())


def budgets_shown(budgets: Sequence[Budget], gate: Gate) -> list[dict[str, Any]]:
    """Budgets in the contract's form with what is spent and held in their present windows."""
    return [msgspec.to_builtins(budget) for budget in objects.budgets(budgets, gate)]


def shown(entity: Entity, gate: Gate) -> dict[str, Any]:
    """An entity as JSON data: the contract's object, without anything secret."""
    data: dict[str, Any] = msgspec.to_builtins(entity)
    data["budgets"] = budgets_shown(entity.budgets, gate)
    if data.pop("digest", None) is not None:
        data["mcp_configs"] = []  # nothing of that kind exists yet
    for name in ("created_at", "updated_at", "expires_at"):
        if data.get(name):
            data[name] = timestamp(data[name])
    return data


def print_json(value: object) -> None:
    """Data on standard output, indented for people who look."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(rows: Sequence[Sequence[str]], header: Sequence[str], *, right: int = 99) -> None:
    """A plain table; columns from number ``right`` on are aligned to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if i >= right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def spent(budgets: Sequence[dict[str, Any]]) -> str:
    """Budgets in one cell of a table: ``$1.25 of $75.00 / 1M``."""
    return (
        ", ".join(f"${b['current_usage']} of ${limit(b)} / {b['reset_duration']}" for b in budgets)
        or "no budget"
    )


def limit(budget: dict[str, Any]) -> str:
    """The limit in USD that holds now."""
    override = budget["override"]
    return str(override["max_limit"] if override is not None else budget["max_limit"])


def told(budget: dict[str, Any]) -> str:
    """A shown budget in one line that a person reads."""
    line = (
        f"${budget['current_usage']} of ${limit(budget)} per {budget['reset_duration']}, "
        f"${budget['reserved']} reserved, resets {budget['resets_at']}"
    )
    more = []
    if budget["provider"]:
        more.append(f"only provider {budget['provider']}")
    if budget["overdraft"] != "none":
        more.append("the last request may pass it")
    if budget["override"] is not None:
        override = budget["override"]
        more.append(
            f"instead of ${budget['max_limit']} until {override['end_at']}: {override['reason']}"
        )
    if budget["reset_at"]:
        more.append(f"last reset {budget['reset_at']}: {budget['reset_reason']}")
    return line + "".join(f"; {one}" for one in more)


def limited(rates: Sequence[dict[str, Any]]) -> str:
    """Rate limits in one cell of a table: ``60 requests / 1m``."""
    return ", ".join(map(_rate, rates)) or "none"


def _rate(rate: dict[str, Any]) -> str:
    if rate["metric"] == "concurrency":
        text = f"{rate['max_limit']} at the same time"
    else:
        text = f"{rate['max_limit']} {rate['metric'].replace('_', ' ')} / {rate['window']}"
    narrow = [f"{name} {rate[name]}" for name in ("provider", "model") if rate[name]]
    return f"{text} ({', '.join(narrow)})" if narrow else text
