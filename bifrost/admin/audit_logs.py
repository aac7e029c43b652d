"""The audit log over HTTP: entries, proofs, the newest checkpoint, exports. Each reading of entries
is itself an entry; if it cannot be recorded nothing is answered."""

from __future__ import annotations

import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bifrost.admin.queries import MOST_ROWS, Moment, Text, moment_ns
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.audit import extracts, proofs
from bifrost.audit.extracts import Wanted
from bifrost.audit.log import Reader
from bifrost.audit.merkle import leaf
from bifrost.audit.notary import Signed
from bifrost.audit.notes import NoteError
from bifrost.errors import NotFound, StoreError
from bifrost.exports.formats import Lines, last_line, line

log = logging.getLogger("bifrost.admin")
JSON_LINES = "application/jsonl"
CHUNK = 1 << 16
LAST = (1 << 63) - 1
Number = Annotated[int, Meta(ge=0, le=LAST)]


class FilterQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries; all that is given must fit."""

    type: Annotated[
        Text | None, Meta(description="model, policy, budget, reconciled, prices, audit, …")
    ] = None
    actor: Annotated[Text | None, Meta(description="Who did it, as admin or cli:ann.")] = None
    action: Annotated[Text | None, Meta(description="create, delete, rotate, export, …")] = None
    request_id: Text | None = None
    id: Annotated[
        Text | None, Meta(description="Id of a key, user, team, customer, budget or entity.")
    ] = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)


class EntriesQuery(FilterQuery, frozen=True, kw_only=True):
    """Which entries, and how many."""

    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS, description="The most entries.")] = 100
    cursor: Annotated[Number | None, Meta(description="The next_cursor of the page before.")] = None


class ExportQuery(FilterQuery, frozen=True, kw_only=True):
    """Which entries, in which form."""

    format: Annotated[
        Lines, Meta(description="Byte for byte (jsonl), or by a schema: OCSF 1.8, ECS.")
    ] = "jsonl"
    first: Annotated[Number, Meta(description="Index to begin with.")] = 0
    last: Annotated[Number | None, Meta(description="Index to end with.")] = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry. ``hash`` is its hash in the tree, SHA-256 in hex; ``covered`` says whether the
    newest checkpoint covers it; ``base64`` are the bytes of an entry that is no JSON."""

    index: int
    hash: str
    covered: bool
    event: dict[str, Any] | None
    base64: str | None = None


class AuditEntries(msgspec.Struct, frozen=True, kw_only=True):
    """A page of entries, newest first. ``next_cursor`` asks for the next, null at the end; with
    filters a page may be empty and yet not the last."""

    items: tuple[AuditEntry, ...]
    limit: int
    next_cursor: int | None


class AuditProof(msgspec.Struct, frozen=True, kw_only=True):
    """``proof`` is a C2SP tlog-proof with the entry in it; `bifrost audit check-proof` takes it."""

    index: int
    proof: str


class AuditCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The newest checkpoint as a signed note, what it says, and the keys: the first public key,
    then the notes in which each key names the next."""

    origin: str
    size: int
    root: str
    checkpoint: str
    keys: tuple[str, ...]


@lru_cache(maxsize=16)
def _readers(data_dir: Path, thread: int) -> Reader:
    return Reader(data_dir)


def _reader(house: House) -> Reader:
    """This thread's reader, which remembers places in the segments."""
    return _readers(house.data_dir, threading.get_ident())


def _wanted(query: FilterQuery) -> Wanted:
    given: dict[str, int] = {}
    if query.since is not None:
        given["since"] = moment_ns("from", query.since)
    if query.until is not None:
        given["until"] = moment_ns("to", query.until)
    return Wanted(
        type=query.type, actor=query.actor, action=query.action, request=query.request_id,
        id=query.id, **given,
    )  # fmt: skip


def _said(wanted: Wanted) -> str:
    return "" if wanted == Wanted() else msgspec.json.encode(wanted).decode()


def _shown(index: int, entry: bytes, signed: Signed | None) -> AuditEntry:
    event = extracts.document(entry)
    return AuditEntry(
        index=index,
        hash=leaf(entry).hex(),
        covered=signed is not None and index < signed.checkpoint.size,
        event=event,
        base64=b64encode(entry).decode() if event is None else None,
    )


def _signed(folder: Path) -> Signed | None:
    try:
        return Signed.load(folder)
    except NoteError as error:
        raise StoreError(f"The checkpoint in {folder} is damaged: {error}") from error


def entries(house: House, ask: Ask) -> Reply:
    """The newest entries that fit."""
    query, reader = ask.query, _reader(house)
    wanted = _wanted(query)
    before = reader.end() if query.cursor is None else min(query.cursor, reader.end())
    first = max(0, before - query.limit)
    house.recorder.access("list", first, query.limit, _said(wanted))
    page = extracts.newest(reader, wanted, query.limit, before)
    signed = _signed(reader.folder)
    items = tuple(_shown(index, entry, signed) for index, entry in page.entries)
    return Reply(value=AuditEntries(items=items, limit=query.limit, next_cursor=page.before))


def _index(house: House, ask: Ask) -> int:
    text, end = ask.params["index"], _reader(house).end()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else end
    if number >= end:
        raise NotFound(f"There is no entry {text!r}; the log has {end}.")
    if number < (oldest := _reader(house).oldest()):
        raise NotFound(extracts.removed(number, oldest))
    return number


def one(house: House, ask: Ask) -> Reply:
    """One entry."""
    index, reader = _index(house, ask), _reader(house)
    house.recorder.access("show", index, 1)
    [(_, entry)] = reader.read(index, 1)
    return Reply(value=_shown(index, entry, _signed(reader.folder)))


def proof(house: House, ask: Ask) -> Reply:
    """The proof of one entry."""
    index = _index(house, ask)
    house.recorder.access("prove", index, 1)
    return Reply(value=AuditProof(index=index, proof=proofs.prove(_reader(house).folder, index)))


def checkpoint(house: House, ask: Ask) -> Reply:
    """The newest checkpoint."""
    signed = _signed(_reader(house).folder)
    if signed is None:
        raise NotFound("Nothing is signed yet; the first checkpoint comes with the first entry.")
    said = signed.checkpoint
    return Reply(
        value=AuditCheckpoint(
            origin=said.origin, size=said.size, root=said.root.hex(), checkpoint=signed.note,
            keys=signed.keys,
        )
    )  # fmt: skip


def export(house: House, ask: Ask) -> Reply:
    """Entries as lines, oldest first, and the newest checkpoint as the last line."""
    query, reader = ask.query, _reader(house)
    wanted, end = _wanted(query), reader.end()
    if query.last is not None:
        end = min(end, query.last + 1)
    house.recorder.access("export", query.first, max(0, end - query.first), _said(wanted))
    return Reply(lines=_lines(house.data_dir, query.first, end, wanted, query.format))


def _lines(data_dir: Path, start: int, end: int, wanted: Wanted, form: Lines) -> Iterator[bytes]:
    """The export in pieces. It breaks off without its last line when the log is damaged."""
    reader = Reader(data_dir)
    signed = _signed(reader.folder)
    origin = signed.checkpoint.origin if signed else ""
    piece = bytearray()
    try:
        for index, entry in extracts.between(reader, max(start, reader.oldest()), end, wanted):
            piece += line(form, origin, index, entry)
            if len(piece) >= CHUNK:
                yield bytes(piece)
                piece.clear()
    except Exception as error:
        log.error("an export of the audit log broke off", extra={"error": str(error)})
        raise
    if signed is not None:
        piece += last_line(form, signed)
    yield bytes(piece)


def operations() -> list[Operation]:
    """The rows of the audit log."""
    return [
        Operation(method="GET", path="/api/audit-logs", name="list_audit_logs",
                  summary="Entries of the audit log, newest first.", permission="audit:read",
                  handler=entries, query=EntriesQuery, answer=AuditEntries),
        Operation(method="GET", path="/api/audit-logs/checkpoint", name="get_audit_checkpoint",
                  summary="The newest signed checkpoint, and the keys.", permission="audit:read",
                  handler=checkpoint, answer=AuditCheckpoint, refuses=(404,)),
        Operation(method="GET", path="/api/audit-logs/export", name="export_audit_logs",
                  summary="Entries as lines, oldest first; the last line is the checkpoint.",
                  permission="audit:read", handler=export, query=ExportQuery, answer=str,
                  media=JSON_LINES),
        Operation(method="GET", path="/api/audit-logs/{index}", name="get_audit_log",
                  summary="One entry.", permission="audit:read", handler=one, answer=AuditEntry,
                  refuses=(404,)),
        Operation(method="GET", path="/api/audit-logs/{index}/proof", name="prove_audit_log",
                  summary="One entry with the proof that it was logged.", permission="audit:read",
                  handler=proof, answer=AuditProof, refuses=(404,)),
    ]  # fmt: skip
