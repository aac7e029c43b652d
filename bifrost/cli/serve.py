"""``bifrost serve``: run the gateway."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import click
import msgspec

from bifrost.audit.policy import acting
from bifrost.cli.connect import snippet
from bifrost.config.load import Stamp, default_settings, load, with_default_providers
from bifrost.config.settings import Settings, nano_usd
from bifrost.core import stores
from bifrost.governance import admin_token
from bifrost.governance.declared import Minted
from bifrost.governance.directory import Directory
from bifrost.governance.entities import Budget, new_id
from bifrost.governance.environment import make_folder
from bifrost.supervisor import Supervisor, configure_logs

DEMO_BUDGETS = {"customer": "100", "team": "50", "user": "20", "virtual_key": "10"}


@click.command("serve")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="BIFROST_CONFIG",
    help="bifrost.json, .toml or .yaml.",
)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path),
              envvar="BIFROST_DATA_DIR", help="State directory.  [default: data]")  # fmt: skip
@click.option("--host", help="Address to bind.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port.  [default: 8080]")
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes.  [default: 1]")
@click.option("--uds", help="Listen on a Unix socket instead.")
@click.option("--listener", type=click.Choice(["native", "asgi"]), default="native",
              envvar="BIFROST_LISTENER", show_default=True,
              help="native: the compiled one; asgi: uvicorn's own.")  # fmt: skip
def serve(
    config_file: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    uds: str | None,
    listener: str,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    SIGHUP reads the configuration again; SIGUSR2 starts the installed program anew on the same
    socket, while what is under way is finished by the old one (`bifrost reload`).

    \b
    Example:
      bifrost serve --config bifrost.json --port 8080 --workers 2
    """
    read: Stamp = None
    if config_file is None:
        settings = default_settings()
    else:
        loaded = load(config_file)
        settings, read = with_default_providers(loaded.settings), loaded.stamp
    given = {"host": host, "port": port, "workers": workers, "uds": uds}
    server = msgspec.structs.replace(
        settings.server, **{name: value for name, value in given.items() if value is not None}
    )
    settings = msgspec.structs.replace(settings, server=server)
    data = data_dir or Path(settings.data_dir or "data")
    configure_logs(settings)
    supervisor = Supervisor(settings, data, config_file, read, listener=listener)
    with supervisor.bind() as sock:
        make_folder(data)
        minted = supervisor.declare(settings)
        demo = first_start(settings, data)
        where = _address(sock)

        def ready() -> None:
            if supervisor.succeeds:
                click.echo(f"Bifrost was restarted on {where}  (process {os.getpid()})")
                show_minted(minted)
            else:
                announce(where, data, minted, demo)

        sys.exit(supervisor.run(sock, ready))


def _address(sock: socket.socket) -> str:
    """The URL clients use, or the path of the Unix socket."""
    bound = sock.getsockname()
    if isinstance(bound, str):
        return bound
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound[0], bound[0])
    return f"http://[{host}]:{bound[1]}" if ":" in host else f"http://{host}:{bound[1]}"


class FirstStart(msgspec.Struct):
    """What is shown only once: the admin token and the demo key."""

    admin_token: str | None = None
    demo_key: str | None = None
    has_demo: bool = False


def first_start(settings: Settings, data_dir: Path) -> FirstStart:
    """Makes the admin token, and the demo entities when only the built-in mock is there."""
    shown = FirstStart()
    with stores(data_dir) as (directory, _), acting("gateway"):
        shown.admin_token = admin_token.mint(directory)
        if all(provider.type == "mock" for provider in settings.providers.values()):
            shown.has_demo = directory.find("virtual_key", "demo") is not None
            if not directory.count("virtual_key"):
                shown.demo_key = _demo(directory)
    return shown


def _demo(directory: Directory) -> str:
    """Customer, team, user and key named demo, each with a budget a month."""

    def budget(level: str) -> tuple[Budget, ...]:
        made = Budget(
            id=new_id("budget"),
            max_limit=nano_usd(DEMO_BUDGETS[level]),
            reset_duration="1M",
            calendar_aligned=True,
            created_at=0,
        )
        return (made,)

    if directory.find("customer", "demo") is None:
        directory.create("customer", "demo", budgets=budget("customer"))
    if directory.find("team", "demo") is None:
        directory.create("team", "demo", customer="demo", budgets=budget("team"))
    if directory.find("user", "demo") is None:
        directory.create("user", "demo", team="demo", budgets=budget("user"))
    _, secret = directory.create_key("demo", user="demo", budgets=budget("virtual_key"))
    return secret


def announce(where: str, data_dir: Path, minted: list[Minted], shown: FirstStart) -> None:
    """What a person needs to begin, on standard output; ``where`` is a URL or a socket's path."""
    say = click.echo
    say(f"Bifrost listens on {where}  (data: {data_dir}, process {os.getpid()})")
    if shown.admin_token:
        say("\nAdmin token for the REST API under /api, shown once:")
        say(f"  {shown.admin_token}")
    show_minted(minted)
    if shown.demo_key:
        say("\nNo provider is configured: the built-in mock provider answers.")
        say(f"\nTry it:\n{_curl(where, shown.demo_key)}")
        if where.startswith("http"):
            say(f"\nClaude Code, in ~/.claude/settings.json:\n{snippet(where, shown.demo_key)}")
    elif shown.has_demo:
        say("The demo key was shown at its creation; `bifrost keys rotate demo` makes a new one.")
    sys.stdout.flush()


def show_minted(minted: list[Minted]) -> None:
    """Virtual keys that got their secret just now; the only time it can be shown."""
    for key in minted:
        click.echo(f"\nVirtual key {key.name!r}, shown once:\n  {key.secret}")
    sys.stdout.flush()


def _curl(where: str, key: str) -> str:
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    if not where.startswith("http"):
        where = f"--unix-socket {where} http://localhost"
    return (
        f"  curl {where}/anthropic/v1/messages \\\n"
        f"    -H 'authorization: Bearer {key}' -H 'anthropic-version: 2023-06-01' \\\n"
        f"    -H 'content-type: application/json' \\\n    -d '{json.dumps(body)}'"
    )
