"""The native format: the entry byte for byte, its id, its hash in the tree, and when it was."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec

from bifrost.exports.records import CHECKPOINT, Record


def native(record: Record) -> dict[str, Any]:
    """What is told of a record: everything, unchanged."""
    head = {
        "id": record.id, "origin": record.origin, "index": record.index, "time": record.time,
    }  # fmt: skip
    if record.kind == CHECKPOINT:
        return {**head, "checkpoint": record.event["checkpoint"], "keys": record.event["keys"]}
    told: dict[str, Any] = {"base64": b64encode(record.raw).decode()}
    if record.event and b"\n" not in record.raw:
        told = {"entry": msgspec.Raw(record.raw)}
    return {**head, "hash": record.hash, **told}
