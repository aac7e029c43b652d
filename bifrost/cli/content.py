"""Recorded content: read by those who hold the keys, compared, and made unreadable for ever."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from bifrost.audit import content, events, extracts, policy
from bifrost.audit.events import Content
from bifrost.audit.extracts import Wanted
from bifrost.audit.log import Reader
from bifrost.cli.store import data_dir_option, json_option, print_json, recorded
from bifrost.errors import BifrostError, NotFound, StoreError
from bifrost.governance.entities import Kind
from bifrost.governance.vault import Vault

NEAR = 100_000  # entries before and after one, among which its request's content is looked for


class Found(msgspec.Struct, frozen=True):
    """One side of a request as it can be shown; ``problem`` says why there is no ``text``."""

    request: str
    side: str
    subject: str
    size: int
    mac: str
    text: str | None = None
    problem: str | None = None


def request_of(reader: Reader, index: int) -> str:
    """The id of the request an entry is about."""
    entry = next((raw for _, raw in reader.read(index, 1)), b"")
    request = (extracts.document(entry) or {}).get("request")
    if not isinstance(request, str):
        raise NotFound(f"Entry {index} is not about a request.")
    return request


def _parts(reader: Reader, request: str, near: int | None) -> list[list[Content]]:
    """The recorded sides of a request (of several, where a client gave two the same id)."""
    first, last = reader.oldest(), reader.end()
    if near is not None:
        first, last = max(first, near - NEAR), min(last, near + NEAR)
    sides: dict[tuple[str, str, str], list[Content]] = {}
    wanted = Wanted(type="content", request=request)
    for _, entry in extracts.between(reader, first, last, wanted):
        event = events.decode(entry)
        if isinstance(event, Content):
            sides.setdefault((event.mac, event.side, event.sealer), []).append(event)
    return list(sides.values())


def found(data_dir: Path, reader: Reader, request: str, near: int | None) -> list[Found]:
    """What is recorded of a request's content; raises NotFound if nothing is."""
    sides = _parts(reader, request, near)
    if not sides:
        raise NotFound(f"No content of request {request!r} is recorded.")
    vault = Vault(data_dir)
    return [_opened(vault, parts) for parts in sides]


def _opened(vault: Vault, parts: list[Content]) -> Found:
    first = parts[0]
    shown = Found(first.request, first.side, first.subject, first.size, first.mac)
    if first.sealed is None:
        return msgspec.structs.replace(shown, problem="only its digest is recorded")
    sealer = vault.find(first.subject)
    if sealer is None or sealer.name != first.sealer:
        return msgspec.structs.replace(shown, problem="the key of its subject was destroyed")
    try:
        plain = content.opened(parts, sealer)
        if plain[:2] == b"\x1f\x8b":
            plain = gzip.decompress(plain)
    except (BifrostError, OSError, EOFError) as error:
        return msgspec.structs.replace(shown, problem=str(error))
    return msgspec.structs.replace(shown, text=plain.decode("utf-8", "backslashreplace"))


def reveal(
    data_dir: Path, reader: Reader, index: int | None, request: str | None, reason: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Prints what was said in one request; that it was read is recorded first."""
    if index is not None:
        request = request_of(reader, index)
    if request is None:
        raise click.UsageError("--content needs an INDEX or --request.")
    if not (data_dir / "config").is_dir():
        raise StoreError(f"{data_dir} is a copy without keys; content is read where they are.")
    said = msgspec.json.encode({"request": request}).decode()
    with recorded(data_dir, reason=reason) as (_, _, recorder):
        recorder.access("reveal", index or 0, 1 if index is not None else 0, said)
    show(found(data_dir, reader, request, index), as_json)


def show(sides: Iterable[Found], as_json: bool) -> None:
    """Prints recorded content; exit code 1 when some of it cannot be read."""
    sides = list(sides)
    if as_json:
        print_json([msgspec.structs.asdict(side) for side in sides])
    for side in () if as_json else sides:
        click.echo(f"{side.side} {side.request} of {side.subject}, {side.size:,} bytes:", err=True)
        click.echo(side.text if side.text is not None else f"({side.problem})")
    if any(side.text is None for side in sides):
        sys.exit(1)


@click.command("compare")
@click.argument("index", type=click.IntRange(0))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_dir_option
def compare(index: int, file: Path, data_dir: Path) -> None:
    """Tell whether FILE is what entry INDEX, of type content, recorded: byte for byte.

    Works with content: hash and full, as long as the subject's key was not erased. Exit code 0: it
    is; 1: it is not; 2: nobody can say.

    \b
    Example:
      bifrost audit compare 4711 prompt.json
    """
    try:
        with recorded(data_dir) as (_, _, recorder):
            recorder.access("compare", index, 1)
        raw = next((entry for _, entry in Reader(data_dir).read(index, 1)), b"")
        event = events.decode(raw) if raw else None
        if not isinstance(event, Content):
            raise NotFound(f"Entry {index} is not of the type content.")
        sealer = Vault(data_dir).find(event.subject)
        if sealer is None or sealer.name != event.sealer:
            raise StoreError(f"The key of {event.subject} was destroyed; nobody can say any more.")
        same = content.matches(file.read_bytes(), event, sealer)
    except (BifrostError, OSError, msgspec.DecodeError) as error:
        click.echo(f"bifrost: {error}", err=True)
        sys.exit(2)
    click.echo("This is what was recorded." if same else "This is not what was recorded.")
    sys.exit(0 if same else 1)


@click.command("erase")
@click.option("--user", help="The user (name or id) whose content becomes unreadable.")
@click.option("--key", help="Or a virtual key without a user (name or id).")
@click.option("--reason", default="", help="Recorded with it, e.g. the number of the request.")
@json_option
@data_dir_option
def erase(user: str | None, key: str | None, reason: str, as_json: bool, data_dir: Path) -> None:
    """Destroy the key of somebody's recorded content: nobody can read it any more, in any copy.

    The log stays as it is and every proof holds. What is recorded of them afterwards gets a new
    key; take content from their virtual keys first if nothing more shall be recorded.

    \b
    Example:
      bifrost audit erase --user alice --reason 'GDPR art. 17, ticket 4711'
    """
    if (user is None) == (key is None):
        raise click.UsageError("Give one of --user and --key.")
    kind: Kind = "user" if user is not None else "virtual_key"
    reference = user or key or ""
    with recorded(data_dir, reason=reason) as (directory, _, recorder):
        vault = Vault(data_dir)
        entity = directory.find(kind, reference)
        subject, name = (entity.id, entity.name) if entity is not None else (reference, "")
        if entity is None and subject not in vault.subjects():
            raise NotFound(f"There is no {kind.replace('_', ' ')} {reference!r}.")
        sealer = vault.find(subject)
        recorder.put(
            events.Erasure(
                at=time.time_ns(), actor=policy.actor(), subject=subject, name=name,
                sealer=sealer.name if sealer is not None else None, reason=policy.reason(),
            ),
            "erasure",
        )  # fmt: skip
        vault.destroy(subject)
    told: dict[str, Any] = {"subject": subject, "name": name, "erased": sealer is not None}
    if as_json:
        print_json(told)
    elif sealer is None:
        click.echo(f"No content of {name or subject} was recorded; that is recorded now.")
    else:
        click.echo(f"The recorded content of {name or subject} cannot be read by anybody any more.")
