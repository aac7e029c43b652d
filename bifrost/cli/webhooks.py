"""``bifrost webhooks``: who is told of events by HTTP, what was delivered, and trying again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bifrost.admin.objects import whole as timestamp
from bifrost.cli.store import data_dir_option, json_option, print_json, table
from bifrost.config.load import load
from bifrost.config.settings import Webhook
from bifrost.errors import NotFound, StoreError
from bifrost.webhooks import messages
from bifrost.webhooks.queue import FILE, Delivery, Queue, State

STATES: tuple[State, ...] = ("waiting", "delivered", "parked")


@click.group("webhooks")
def webhooks() -> None:
    """Webhooks: how they stand, what was delivered, retry, test.

    \b
    Example:
      bifrost webhooks list
    """


@contextmanager
def _queue(data_dir: Path) -> Iterator[Queue]:
    if not (data_dir / FILE).exists():
        raise StoreError(
            f"No webhook has been configured for {data_dir} yet; name some under `webhooks` in "
            "the configuration and start `bifrost serve`."
        )
    queue = Queue(data_dir)
    try:
        yield queue
    finally:
        queue.close()


@webhooks.command("list")
@json_option
@data_dir_option
def listing(as_json: bool, data_dir: Path) -> None:
    """List the configured webhooks with how many messages wait, are parked or were delivered.

    \b
    Example:
      bifrost webhooks list --json
    """
    with _queue(data_dir) as queue:
        found = queue.standings()
    if as_json:
        print_json(
            [
                {"name": one.name, "receiver": one.receiver,
                 "state": "gone" if one.gone_at else "active",
                 "gone_at": timestamp(one.gone_at) if one.gone_at else None,
                 "waiting": one.waiting, "parked": one.parked, "delivered": one.delivered}
                for one in found
            ]
        )  # fmt: skip
        return
    rows = [
        (one.name, one.receiver, "gone" if one.gone_at else "active", f"{one.waiting:,}",
         f"{one.parked:,}", f"{one.delivered:,}")
        for one in found
    ]  # fmt: skip
    table(rows, ("NAME", "RECEIVER", "STATE", "WAITING", "PARKED", "DELIVERED"), right=3)


@webhooks.command("deliveries")
@click.option("--webhook", help="Only of this webhook.")
@click.option("--state", type=click.Choice(STATES), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
@data_dir_option
def deliveries(
    webhook: str | None, state: State | None, limit: int, as_json: bool, data_dir: Path
) -> None:
    """List messages, newest first: delivered, waiting for their next attempt, or parked.

    \b
    Example:
      bifrost webhooks deliveries --state parked
    """
    with _queue(data_dir) as queue:
        found = queue.deliveries(webhook, state, limit)
    if as_json:
        print_json([_document(one) for one in found])
        return
    rows = [
        (shown["created_at"], one.webhook, one.type, one.state, str(one.attempts),
         shown["next_attempt_at"] or "-", one.error or "-", one.id)
        for one in found
        for shown in (_document(one),)
    ]  # fmt: skip
    table(rows, ("TIME", "WEBHOOK", "TYPE", "STATE", "ATTEMPTS", "NEXT", "ERROR", "ID"))


def _document(one: Delivery) -> dict[str, Any]:
    return {
        "id": one.id,
        "webhook": one.webhook,
        "type": one.type,
        "state": one.state,
        "created_at": timestamp(one.created_at),
        "attempts": one.attempts,
        "next_attempt_at": timestamp(one.next_at) if one.state == "waiting" else None,
        "ended_at": timestamp(one.ended_at) if one.ended_at else None,
        "last_status": one.status or None,
        "last_error": one.error or None,
    }


@webhooks.command("retry")
@click.argument("name", required=False)
@click.option("--id", "message_id", help="Only this message, even if it was delivered.")
@json_option
@data_dir_option
def retry(name: str | None, message_id: str | None, as_json: bool, data_dir: Path) -> None:
    """Try parked and waiting messages now, of one webhook or of all; one that was gone is back.

    The running gateway sends them; they keep their ids.

    \b
    Example:
      bifrost webhooks retry finance
      bifrost webhooks retry finance --id msg_0123456789abcdef0123456789abcdef
    """
    with _queue(data_dir) as queue:
        count = queue.retry(name, message_id, time.time_ns())
    if message_id is not None and not count:
        raise NotFound(f"There is no message {message_id!r}; see `bifrost webhooks deliveries`.")
    if as_json:
        print_json({"retried": count})
    else:
        click.echo(f"{count} message{'' if count == 1 else 's'} will be tried now.")


@webhooks.command("test")
@click.argument("name")
@click.option("--config", "config_file", required=True, envvar="BIFROST_CONFIG",
              type=click.Path(dir_okay=False, path_type=Path),
              help="The configuration that names the webhook.")  # fmt: skip
@json_option
def test(name: str, config_file: Path, as_json: bool) -> None:
    """Send a test message from here to a configured webhook, once; exit code 1 if not taken.

    \b
    Example:
      bifrost webhooks test finance --config bifrost.json
    """
    hooks = {hook.name: hook for hook in load(config_file).settings.webhooks}
    if name not in hooks:
        known = ", ".join(map(repr, hooks)) or "none"
        raise NotFound(f"{config_file} has no webhook {name!r} (it has {known}).")
    data = asyncio.run(_send(hooks[name]))
    if as_json:
        print_json(data)
    elif data["delivered"]:
        click.echo(f"{name} took message {data['id']} (HTTP {data['status']}).")
    else:
        click.echo(f"{name} did not take it: {data['error']}.", err=True)
    sys.exit(0 if data["delivered"] else 1)


async def _send(hook: Webhook) -> dict[str, Any]:
    from bifrost.webhooks.delivery import Sender  # brings in aiohttp

    message = messages.trial(time.time_ns())
    sender = Sender(hook)
    try:
        outcome = await sender.send(message)
    finally:
        await sender.close()
    return {
        "webhook": hook.name,
        "id": message.id,
        "delivered": outcome.delivered,
        "status": outcome.status or None,
        "error": outcome.error or None,
    }
