"""``bifrost reload``: new configuration, or a new program, without losing a request."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from bifrost.succession import supervisor_pid


@click.command("reload")
@click.option("--restart", is_flag=True, help="Start the installed program anew (an upgrade).")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default="data",
              envvar="BIFROST_DATA_DIR", help="State directory.  [default: data]")  # fmt: skip
def reload(restart: bool, data_dir: Path) -> None:
    """Tell the gateway of a data directory to read its configuration again.

    With --restart new workers take the socket and the old ones finish their streams.

    \b
    Example:
      bifrost reload --restart --data-dir data
    """
    pid = supervisor_pid(data_dir)
    os.kill(pid, signal.SIGUSR2 if restart else signal.SIGHUP)
    what = "restarts" if restart else "reads its configuration again"
    click.echo(f"The gateway (process {pid}) {what}; its log says how it went.")
