"""Formats by name, and the lines of an export that somebody asks for."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from bifrost.audit import extracts
from bifrost.audit.notary import Signed
from bifrost.config.exports import Format
from bifrost.exports import records
from bifrost.exports.ecs import ecs
from bifrost.exports.native import native
from bifrost.exports.ocsf import ocsf
from bifrost.exports.records import Document

FORMATS: dict[Format, Document] = {"native": native, "ocsf": ocsf, "ecs": ecs}
Lines = Literal["jsonl", "ocsf", "ecs"]


def line(form: Lines, origin: str, index: int, raw: bytes) -> bytes:
    """A line about an entry."""
    if form == "jsonl":
        return extracts.line(origin, index, raw)
    return msgspec.json.encode(FORMATS[form](records.entry(origin, index, raw))) + b"\n"


def last_line(form: Lines, signed: Signed) -> bytes:
    """The last line, which tells that nothing is missing before it: the newest checkpoint."""
    if form == "jsonl":
        return msgspec.json.encode({"checkpoint": signed.note, "keys": signed.keys}) + b"\n"
    record = records.of_checkpoint(signed, time.time_ns())
    return msgspec.json.encode(FORMATS[form](record)) + b"\n"
