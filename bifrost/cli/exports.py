"""``bifrost audit exports``: how exports stand, what was refused, and sending again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from bifrost.admin.objects import whole as timestamp
from bifrost.audit import policy
from bifrost.audit.log import Reader
from bifrost.cli.store import data_dir_option, json_option, print_json, recorded, table
from bifrost.errors import StoreError
from bifrost.exports.progress import FILE, Progress, Standing


@contextmanager
def _progress(data_dir: Path) -> Iterator[Progress]:
    if not (data_dir / FILE).exists():
        raise StoreError(
            f"Nothing is exported from {data_dir} yet; name receivers under `audit_logs.exports` "
            "in the configuration and start `bifrost serve`."
        )
    progress = Progress(data_dir)
    try:
        yield progress
    finally:
        progress.close()


@click.group(invoke_without_command=True)
@json_option
@data_dir_option
@click.pass_context
def exports(context: click.Context, as_json: bool, data_dir: Path) -> None:
    """Show how far each export has got; below it: dead letters, replay, reset.

    \b
    Example:
      bifrost audit exports
      bifrost audit exports dead siem
      bifrost audit exports replay siem
    """
    if context.invoked_subcommand is not None:
        if context.get_parameter_source("data_dir") is ParameterSource.COMMANDLINE or as_json:
            raise click.UsageError("Give options behind the command they are for.")
        return
    with _progress(data_dir) as progress:
        found = progress.standings()
    end = Reader(data_dir).end()
    if as_json:
        print_json([_document(one, end) for one in found])
        return
    rows = [
        (one.name, one.type, one.receiver, _state(one), timestamp(one.taken_at) if one.taken_at
         else "-", one.error or "-", f"{one.position:,}", f"{_lag(one, end):,}", f"{one.dead:,}")
        for one in found
    ]  # fmt: skip
    table(rows, ("NAME", "TYPE", "RECEIVER", "STATE", "LAST TAKEN", "ERROR", "NEXT", "LAG",
                 "DEAD"), right=6)  # fmt: skip


def _lag(one: Standing, end: int) -> int:
    return max(0, end - one.position)


def _state(one: Standing) -> str:
    return "stalled" if one.stalled else "failing" if one.failures else "active"


def _document(one: Standing, end: int) -> dict[str, object]:
    age = max(0, time.time_ns() - one.waiting_since) if one.waiting_since else 0
    return {
        "name": one.name, "type": one.type, "receiver": one.receiver, "state": _state(one),
        "next_index": one.position, "lag_entries": _lag(one, end),
        "lag_seconds": round(age / 1e9, 3), "sent": one.sent, "batches": one.batches,
        "dead_letters": one.dead,
        "last_taken_at": timestamp(one.taken_at) if one.taken_at else None,
        "failing_since": timestamp(one.failing_since) if one.failing_since else None,
        "failures": one.failures, "last_error": one.error or None,
    }  # fmt: skip


@exports.command("dead")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@json_option
@data_dir_option
def dead(name: str | None, limit: int, as_json: bool, data_dir: Path) -> None:
    """List entries a receiver refused for good, and why; `bifrost audit show` shows each.

    \b
    Example:
      bifrost audit exports dead siem --json
    """
    with _progress(data_dir) as progress:
        if name is not None:
            progress.standing(name)
        found = progress.dead(name, limit=limit)
    if as_json:
        print_json(
            [
                {"sink": one.sink, "index": one.entry, "id": one.id, "reason": one.reason,
                 "refused_at": timestamp(one.refused_at), "waiting": bool(one.again)}
                for one in found
            ]
        )  # fmt: skip
        return
    rows = [(timestamp(one.refused_at), one.sink, str(one.entry), one.reason) for one in found]
    table(rows, ("REFUSED", "SINK", "INDEX", "REASON"))


@exports.command("replay")
@click.argument("name")
@click.option("--reason", default="", help="Recorded with it.")
@json_option
@data_dir_option
def replay(name: str, reason: str, as_json: bool, data_dir: Path) -> None:
    """Have a sink's dead letters sent again; recorded in the audit log.

    The running gateway sends them, under the ids they had. What is refused again stays here.

    \b
    Example:
      bifrost audit exports replay siem --reason "mapping of the index corrected"
    """
    with _progress(data_dir) as progress:
        letters = progress.dead(name)
        progress.standing(name)
        if letters:
            with recorded(data_dir, reason=reason) as (_, gate, recorder):
                recorder.assure(
                    policy.record_export(gate, "replay", name, letters[0].entry, len(letters))
                )
        count = progress.replay(name)
    if as_json:
        print_json({"sink": name, "replayed": count})
    else:
        click.echo(f"{count} dead letter{'' if count == 1 else 's'} will be sent again.")


@exports.command("reset")
@click.argument("name")
@click.option(
    "--to", "index", type=click.IntRange(0), required=True, help="The index to send next."
)
@click.option("--reason", default="", help="Recorded with it.")
@json_option
@data_dir_option
def reset(name: str, index: int, reason: str, as_json: bool, data_dir: Path) -> None:
    """Have a sink go on from another index of the log; recorded in the audit log.

    A lower index sends entries again, under the same ids; a higher one leaves entries out.

    \b
    Example:
      bifrost audit exports reset siem --to 0 --reason "the SIEM was set up anew"
    """
    with _progress(data_dir) as progress:
        was = progress.standing(name).position
        end = Reader(data_dir).end()
        if index > end:
            raise click.UsageError(f"The log has {end} entries; the next index is at most that.")
        with recorded(data_dir, reason=reason) as (_, gate, recorder):
            recorder.assure(policy.record_export(gate, "reset", name, index, abs(was - index)))
        progress.reset(name, index)
    if as_json:
        print_json({"sink": name, "was": was, "next_index": index})
    else:
        click.echo(f"{name} goes on from entry {index} (it was at {was}).")
