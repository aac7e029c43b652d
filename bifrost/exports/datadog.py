"""Datadog's intake of logs (v2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.config.exports import DatadogExport
from bifrost.exports.answers import TAKEN, Answer
from bifrost.exports.records import Document, Item, Record
from bifrost.exports.sentences import sentence
from bifrost.exports.web import Web, packed

INTAKE = "/api/v2/logs"
OLD_NS = 17 * 3_600_000_000_000  # what is older than 18 hours it does not take by its own time


class Datadog:
    """One organisation's intake."""

    most_entries = 1000
    most_bytes = 4_500_000
    interval_s = 1.0
    planned = False

    def __init__(self, sink: DatadogExport, document: Document) -> None:
        self._document = document
        self._web = Web(sink)
        self._url = sink.url.rstrip("/") + INTAKE
        self._headers = {
            "dd-api-key": sink.token,
            "content-type": "application/json",
            "content-encoding": "gzip",
        }
        self._same = {
            "ddsource": "bifrost",
            "ddtags": ",".join(sink.tags),
            "service": sink.service,
        }

    def body(self, record: Record) -> bytes:
        """One log; the time of an old one is only told beside it, else it would not be shown."""
        log: dict[str, Any] = {
            **self._same,
            "message": sentence(record),
            "id": record.id,
            "original_time": record.time,
            "bifrost": self._document(record),
        }
        if time.time_ns() - record.at < OLD_NS:
            log["timestamp"] = record.at // 1_000_000
        return msgspec.json.encode(log)

    async def send(self, items: Sequence[Item]) -> Answer:
        """One request."""
        body = b"[" + b",".join(item.body for item in items) + b"]"
        reply = await self._web.send(self._url, packed(body), self._headers)
        return TAKEN if reply.good else reply.failed()

    async def close(self) -> None:
        """Closes connections."""
        await self._web.close()
