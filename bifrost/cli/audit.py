"""``bifrost audit``: verify, prove, show and export what was recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from bifrost.admin.objects import whole as timestamp
from bifrost.audit import extracts
from bifrost.audit.cosigners import Cosigner
from bifrost.audit.epochs import text as text_of
from bifrost.audit.extracts import Wanted
from bifrost.audit.log import FOLDER, Reader
from bifrost.audit.merkle import leaf
from bifrost.audit.notary import Signed
from bifrost.audit.notes import NoteError, PublicKey
from bifrost.audit.proofs import MOST_PROOF, check, prove
from bifrost.audit.segments import segments
from bifrost.audit.verdict import Damaged
from bifrost.audit.verify import Verification
from bifrost.cli import content as contents
from bifrost.cli import retention
from bifrost.cli.exports import exports
from bifrost.cli.store import json_option, print_json, recorded, table
from bifrost.cli.usage import Moment
from bifrost.cli.verdict import bar, show_verdict
from bifrost.errors import BifrostError, StoreError
from bifrost.exports.formats import Lines, last_line, line

F = TypeVar("F", bound=Callable[..., Any])
TAMPERED, UNREADABLE = 1, 2
HEADER = ("INDEX", "TIME", "TYPE", "WHO", "WHAT")


def log_option(function: F) -> F:
    """``--data-dir``, which here may also be a copy of the folder ``audit`` alone."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("data"),
        envvar="BIFROST_DATA_DIR",
        show_default=True,
        help="The gateway's data directory, or a copy of its folder audit.",
    )(function)


def key_option(*, required: bool) -> Callable[[F], F]:
    """``--public-key``: the text or a file with it."""
    return click.option(
        "--public-key",
        "key",
        required=required,
        help="The public key you kept: name+id+base64, or a file that holds it.",
    )


@click.group()
def audit() -> None:
    """Verify, prove, show and export what the gateway recorded.

    \b
    Example:
      bifrost audit verify
      bifrost audit checkpoint > kept-2026-11-25
      bifrost audit verify --checkpoint kept-2026-11-25
    """


audit.add_command(contents.compare)
audit.add_command(contents.erase)
audit.add_command(exports)


@contextmanager
def readable() -> Iterator[None]:
    """What cannot be read at all ends with exit code 2."""
    try:
        yield
    except Damaged as error:
        click.echo(f"NOT INTACT: {error}", err=True)
        sys.exit(TAMPERED)
    except (BifrostError, OSError) as error:
        _give_up(error)


def _give_up(error: Exception) -> NoReturn:
    click.echo(f"bifrost: {error}", err=True)
    sys.exit(UNREADABLE)


def _folder(data_dir: Path) -> Path:
    for folder in (data_dir / FOLDER, data_dir):
        if segments(folder) or (folder / "checkpoint").exists():
            return folder
    raise StoreError(f"There is no audit log in {data_dir}; name one with --data-dir.")


def _key(given: str | None) -> PublicKey | None:
    return None if given is None else PublicKey.parse(_text(given))


def _text(given: str) -> str:
    """A key that was given itself, or in a file."""
    return text_of(Path(given)) if Path(given).is_file() else given


@audit.command()
@click.option("--quick", is_flag=True, help="Signatures, the tree, and only some entries.")
@click.option(
    "--checkpoint",
    "kept",
    type=click.Path(path_type=Path),
    help="A checkpoint you kept: the log must begin with what it covers.",
)
@click.option(
    "--since",
    type=click.Path(path_type=Path),
    help="As --checkpoint, but only entries newer than it are read.",
)
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    help="Public key of a witness that must have cosigned your checkpoint, or a file with it.",
)
@click.option("--processes", type=click.IntRange(1, 64), help="At most so many.  [default: cores]")
@key_option(required=False)
@json_option
@log_option
def verify(
    quick: bool, kept: Path | None, since: Path | None, witnesses: tuple[str, ...],
    processes: int | None, key: str | None, as_json: bool, data_dir: Path,
) -> None:  # fmt: skip
    """Tell whether anything that was recorded was changed, removed, inserted or moved.

    Needs only the files; the gateway may run meanwhile. Exit code 0: intact, 1: not (the first bad
    entry is named), 2: cannot be read, or not all of it, as the archive could not be asked.

    \b
    Example:
      bifrost audit verify --public-key audit.pub --checkpoint kept-2026-11-25
      bifrost audit verify --quick
      bifrost audit verify --checkpoint cosigned --witness witness.pub
      bifrost audit verify --data-dir /mnt/copy/audit --json
    """
    if (kept is not None) + (since is not None) + (quick and since is not None) > 1:
        raise click.UsageError("Give one of --checkpoint and --since; --since is not for --quick.")
    if witnesses and kept is None and since is None:
        raise click.UsageError("--witness is about a checkpoint you kept: give --checkpoint too.")
    with readable():
        note = (since or kept) and text_of(since or kept)  # type: ignore[arg-type]
        verification = Verification(
            _folder(data_dir), kept=note or None, key=_key(key),
            witnesses=[Cosigner.parse(_text(one)) for one in witnesses],
        )  # fmt: skip
        length = verification.picks() if quick else verification.length(since=since is not None)
        with bar(length, "groups" if quick else "entries") as progress:
            if quick:
                verdict = verification.quick(progress)
            elif since is not None:
                verdict = verification.since(progress, processes or 0)
            else:
                verdict = verification.whole(progress, processes or 0)
    if as_json:
        print_json({"intact": verdict.intact, **msgspec.to_builtins(verdict)})
    else:
        show_verdict(verdict)
    sys.exit(TAMPERED if not verdict.intact else UNREADABLE if verdict.unread else 0)


@audit.command("checkpoint")
@json_option
@log_option
def checkpoint(as_json: bool, data_dir: Path) -> None:
    """Print the newest checkpoint; keep it elsewhere and verify against it later.

    \b
    Example:
      bifrost audit checkpoint > /mnt/elsewhere/kept-2026-11-25
      bifrost audit checkpoint --json
    """
    with readable():
        signed = _signed(_folder(data_dir))
    if as_json:
        said = signed.checkpoint
        print_json({"checkpoint": signed.note, "origin": said.origin, "size": said.size,
                    "root": said.root.hex(), "keys": signed.keys})  # fmt: skip
    else:
        click.echo(signed.note, nl=False)


def _signed(folder: Path) -> Signed:
    signed = Signed.load(folder)
    if signed is None:
        raise StoreError(f"Nothing is signed in {folder}: there is no checkpoint.")
    return signed


@audit.command("public-key")
@log_option
def public_key(data_dir: Path) -> None:
    """Print the first public key of the log; keep it elsewhere. It vouches for those that follow.

    \b
    Example:
      bifrost audit public-key > audit.pub
    """
    with readable():
        click.echo(_signed(_folder(data_dir)).keys[0].strip())


@audit.command("prove")
@click.argument("index", type=click.IntRange(0))
@log_option
def prove_entry(index: int, data_dir: Path) -> None:
    """Print an entry with its proof; `bifrost audit check-proof` checks it, anywhere.

    \b
    Example:
      bifrost audit prove 4711 > 4711.tlog-proof
    """
    with readable():
        _record(data_dir, "prove", index, 1)
        click.echo(prove(_folder(data_dir), index), nl=False)


@audit.command("check-proof")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@key_option(required=True)
@json_option
def check_proof(file: Path, key: str, as_json: bool) -> None:
    """Tell whether a proof proves its entry. Needs only the proof and the public key.

    Exit code 0: it does, and the entry is printed; 1: it does not; 2: it cannot be read.

    \b
    Example:
      bifrost audit check-proof 4711.tlog-proof --public-key audit.pub
    """
    with readable():
        mine = _key(key)
        with file.open("rb") as opened_file:
            raw = opened_file.read(MOST_PROOF)
    assert mine is not None
    try:
        proven = check(raw.decode("utf-8", "replace"), mine)
    except NoteError as error:
        click.echo(f"NOT PROVED: {error}", err=True)
        sys.exit(TAMPERED)
    shown = proven.entry.decode("utf-8", "backslashreplace")
    if as_json:
        print_json({**msgspec.structs.asdict(proven), "entry": shown})
        return
    click.echo(
        f"Proved: entry {proven.index} of {proven.origin}, in a tree of {proven.size} entries "
        f"signed by {proven.key} or a key it named:",
        err=True,
    )
    click.echo(shown)


def _filters(function: F) -> F:
    for option in (
        click.option("--until", type=Moment(), help="To when."),
        click.option("--since", type=Moment(), default=0, help="From when: 1h, 30d or a time."),
        click.option("--id", "party", help="Id of a key, user, team, customer, budget or entity."),
        click.option("--request", help="Id of a request."),
        click.option("--action", help="create, update, delete, rotate, revoke, export, …"),
        click.option("--actor", help="Who did it, e.g. admin or cli:ann."),
        click.option("--type", "kind", help="model, policy, budget, prices, audit, …"),
    ):
        function = option(function)
    return function


def _wanted(
    kind: str | None, actor: str | None, action: str | None, request: str | None,
    party: str | None, since: int, until: int | None,
) -> Wanted:  # fmt: skip
    wanted = Wanted(type=kind, actor=actor, action=action, request=request, id=party, since=since)
    return wanted if until is None else msgspec.structs.replace(wanted, until=until)


@audit.command()
@click.argument("index", type=click.IntRange(0), required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--before", type=click.IntRange(0), help="Only entries before this index.")
@click.option("--content", is_flag=True, help="Of INDEX or --request: what was said, unsealed.")
@click.option("--reason", default="", help="Why the content is read; recorded.")
@_filters
@json_option
@log_option
def show(
    index: int | None, limit: int, before: int | None, content: bool, reason: str, as_json: bool,
    data_dir: Path, **given: Any,
) -> None:  # fmt: skip
    """Show one entry, or the newest that fit the filters; with --json one per line.

    --content needs the data directory with its master key and subject keys, and is recorded with
    who read it.

    \b
    Example:
      bifrost audit show 4711
      bifrost audit show --type policy --actor admin --since 7d
      bifrost audit show --request req_01 --content --reason 'incident 12'
    """
    wanted = _wanted(**given)
    with readable():
        folder = _folder(data_dir)
        reader = Reader(folder, folder=folder)
        if content:
            contents.reveal(data_dir, reader, index, wanted.request, reason, as_json)
            return
        before = reader.end() if before is None else before
        first = index if index is not None else max(0, before - limit)
        _record(data_dir, "show", first, 1 if index is not None else limit, wanted)
        if index is not None:
            if index < reader.oldest():
                raise StoreError(extracts.removed(index, reader.oldest()))
            page = extracts.Page(reader.read(index, 1), None)
            if not page.entries:
                raise StoreError(f"There is no entry {index}; the log has {reader.end()}.")
        else:
            page = extracts.newest(reader, wanted, limit, before)
        signed = Signed.load(folder)
    origin = signed.checkpoint.origin if signed else ""
    if as_json:
        for number, entry in page.entries:
            click.echo(extracts.line(origin, number, entry).decode(), nl=False)
    elif index is not None:
        _print_entry(index, page.entries[0][1], signed)
    else:
        table([_cells(number, entry) for number, entry in page.entries], HEADER)
    if page.before is not None and not as_json:
        click.echo(f"More with --before {page.before}", err=True)


def _print_entry(index: int, entry: bytes, signed: Signed | None) -> None:
    covered = signed is not None and index < signed.checkpoint.size
    event = extracts.document(entry)
    click.echo(f"entry    {index}\nhash     {leaf(entry).hex()}")
    click.echo(f"covered  {'by the newest checkpoint' if covered else 'not yet by a checkpoint'}")
    click.echo(msgspec.json.format(entry, indent=2).decode() if event else repr(entry))


def _cells(index: int, entry: bytes) -> tuple[str, ...]:
    event = extracts.document(entry) or {}
    at = event.get("done_at") or event.get("at")
    who = event.get("actor") or event.get("user") or event.get("key") or "-"
    words = ("action", "kind", "name", "outcome", "code", "model", "request", "budget", "epoch")
    what = " ".join(str(event[word]) for word in words if event.get(word))
    when = timestamp(at) if isinstance(at, int) else "-"
    return str(index), when, str(event.get("type", "?")), str(who), what


@audit.command()
@click.option("--format", "form", type=click.Choice(["jsonl", "ocsf", "ecs"]), default="jsonl",
              show_default=True, help="Byte for byte, or by a schema.")  # fmt: skip
@click.option("--first", type=click.IntRange(0), default=0, help="Index to begin with.")
@click.option("--last", type=click.IntRange(0), help="Index to end with.")
@click.option("--output", "-o", type=click.File("wb"), default="-", help="File.  [default: stdout]")
@_filters
@log_option
def export(
    form: Lines, first: int, last: int | None, output: Any, data_dir: Path, **given: Any
) -> None:
    """Write entries, oldest first, one JSON object a line; the last line is the newest checkpoint.

    With jsonl `entry` is the recorded JSON byte for byte, `hash` its hash in the tree; ocsf (1.8)
    and ecs are what a SIEM is sent.

    \b
    Example:
      bifrost audit export --type policy --since 90d -o changes.jsonl
    """
    wanted = _wanted(**given)
    with readable():
        folder = _folder(data_dir)
        reader = Reader(folder, folder=folder)
        end = reader.end() if last is None else min(reader.end(), last + 1)
        _record(data_dir, "export", first, max(0, end - first), wanted)
        signed = Signed.load(folder)
        origin = signed.checkpoint.origin if signed else ""
        for index, entry in extracts.between(reader, max(first, reader.oldest()), end, wanted):
            output.write(line(form, origin, index, entry))
        if signed is not None:
            output.write(last_line(form, signed))


def _record(
    data_dir: Path, action: str, first: int, count: int, wanted: Wanted | None = None
) -> None:
    """A reading of the log is an entry of it; of a copy nobody can record it."""
    if (data_dir / "config").is_dir():
        filters = "" if wanted is None or wanted == Wanted() else msgspec.json.encode(wanted)
        text = filters if isinstance(filters, str) else filters.decode()
        with recorded(data_dir) as (_, _, recorder):
            recorder.access(action, first, count, text)


audit.add_command(retention.status)
audit.add_command(retention.hold)
