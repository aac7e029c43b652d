"""Formats by name, and the lines of an export that somebody asks for."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal

import msgspec

from bifrost.audit import extracts
from bifrost.audit.notary import Signed
from bifrost.config.exports import Format
from bifrost.exports import records
from bifrost.exports.ecs import ecs
from bifrost.exports.native import native
from bifrost.exports.ocsf import ocsf
from bifrost.exports.records import Document, Record

log = logging.getLogger("bifrost.exports")
FORMATS: dict[Format, Document] = {"native": native, "ocsf": ocsf, "ecs": ecs}
Lines = Literal["jsonl", "ocsf", "ecs"]


def guarded(form: Format) -> Document:
    """The format; what it cannot tell of an entry (of another version, say) is told natively."""
    chosen = FORMATS[form]

    def document(record: Record) -> dict[str, Any]:
        try:
            return chosen(record)
        except Exception as error:
            log.error(
                "an entry is exported as it is: it has no place in the format",
                extra={"entry": record.index, "format": form, "error": repr(error)},
            )
            return native(record)

    return document


def line(form: Lines, origin: str, index: int, raw: bytes) -> bytes:
    """A line about an entry."""
    if form == "jsonl":
        return extracts.line(origin, index, raw)
    return msgspec.json.encode(guarded(form)(records.entry(origin, index, raw))) + b"\n"


def last_line(form: Lines, signed: Signed) -> bytes:
    """The last line, which tells that nothing is missing before it: the newest checkpoint."""
    if form == "jsonl":
        return msgspec.json.encode({"checkpoint": signed.note, "keys": signed.keys}) + b"\n"
    record = records.of_checkpoint(signed, time.time_ns())
    return msgspec.json.encode(FORMATS[form](record)) + b"\n"
