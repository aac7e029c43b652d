"""S3-compatible stores: a batch is an object of JSON lines, gzip, written once.

The object's name follows from the batch, and a batch keeps its bounds over a crash: an object that
is there already (412) was written before.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from bifrost.config.exports import S3Export
from bifrost.exports.answers import TAKEN, Answer, again
from bifrost.exports.records import Document, Item, Record, span
from bifrost.exports.sigv4 import Signer, encoded
from bifrost.exports.web import Web, packed

THERE = 412
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


class S3:
    """One bucket."""

    most_entries = 100_000
    most_bytes = 16 << 20
    interval_s = 60.0
    planned = True

    def __init__(self, sink: S3Export, document: Document) -> None:
        self._sink = sink
        self._document = document
        self._web = Web(sink)
        self._signer = Signer(sink.access_key, sink.token, sink.region)

    def body(self, record: Record) -> bytes:
        """A line."""
        return msgspec.json.encode(self._document(record)) + b"\n"

    async def send(self, items: Sequence[Item]) -> Answer:
        """One object; nothing in a batch can be wrong for a store, so nothing is ever refused."""
        body = await asyncio.to_thread(packed, b"".join(item.body for item in items))
        url = f"{self._sink.url.rstrip('/')}/{self._sink.bucket}/{encoded(self.name(items))}"
        headers = self._signer.headers("PUT", url, body, self._wishes(body), time.time())
        del headers["host"]  # the client writes the same
        reply = await self._web.send(url, body, headers, method="PUT")
        if reply.good or reply.status == THERE:
            return TAKEN
        return again(reply.said, reply.retry_after_s)

    def name(self, items: Sequence[Item]) -> str:
        """``<prefix><log>/<year>/<month>/<day>/<first>-<last>.jsonl.gz``, by the first's day."""
        first, last = span(items)
        record = items[0].record
        log = _PLAIN.sub("-", record.origin)
        day = record.time[:10].replace("-", "/")
        return f"{self._sink.prefix}{log}/{day}/{first:020d}-{last:020d}.jsonl.gz"

    def _wishes(self, body: bytes) -> dict[str, str]:
        sink = self._sink
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {
            "content-type": "application/gzip",
            "content-md5": base64.b64encode(digest).decode(),
            "if-none-match": "*",
        }
        if sink.encryption != "none":
            headers["x-amz-server-side-encryption"] = sink.encryption
        if sink.lock != "none":
            until = datetime.now(UTC) + timedelta(days=sink.lock_days)
            headers["x-amz-object-lock-mode"] = sink.lock.upper()
            headers["x-amz-object-lock-retain-until-date"] = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers

    async def close(self) -> None:
        """Closes connections."""
        await self._web.close()
