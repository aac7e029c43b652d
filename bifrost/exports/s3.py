"""S3-compatible stores: a batch is an object of JSON lines, gzip, written once.

The object's name follows from the batch, and a batch keeps its bounds over a crash: an object that
is there already (412) was written before.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import md5, sha256
from urllib.parse import urlsplit

import msgspec

from bifrost.chain import Chain
from bifrost.config.exports import S3Export
from bifrost.errors import BifrostError
from bifrost.exports.answers import TAKEN, Answer, again
from bifrost.exports.records import Document, Item, Record, span
from bifrost.exports.web import Web, packed
from bifrost.sigv4 import Credentials, escaped, signed_headers

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
        self._own: Credentials | None = None
        if sink.access_key is not None and sink.token is not None:
            self._own = Credentials(sink.access_key, sink.token)
        self._chain = Chain(region=sink.region)
        parts = urlsplit(sink.url)
        self._host = parts.netloc
        self._base = f"{parts.path.rstrip('/')}/{escaped(sink.bucket)}"

    def body(self, record: Record) -> bytes:
        """A line."""
        return msgspec.json.encode(self._document(record)) + b"\n"

    async def send(self, items: Sequence[Item]) -> Answer:
        """One object; nothing in a batch can be wrong for a store, so nothing is ever refused."""
        body = await asyncio.to_thread(packed, b"".join(item.body for item in items))
        path = f"{self._base}/{escaped(self.name(items))}"
        try:
            credentials = self._own
            if credentials is None:
                credentials = await asyncio.to_thread(self._chain.credentials)
        except BifrostError as error:
            return again(str(error))
        headers = signed_headers(
            credentials, method="PUT", host=self._host, path=path, headers=self._wishes(body),
            body_sha256=sha256(body).hexdigest(), region=self._sink.region, service="s3",
        )  # fmt: skip
        reply = await self._web.send(self._url(path), body, headers, method="PUT")
        if reply.good or reply.status == THERE:
            return TAKEN
        return again(reply.said, reply.retry_after_s)

    def _url(self, path: str) -> str:
        return f"{urlsplit(self._sink.url).scheme}://{self._host}{path}"

    def name(self, items: Sequence[Item]) -> str:
        """``<prefix><log>/<year>/<month>/<day>/<first>-<last>.jsonl.gz``, by the first's day."""
        first, last = span(items)
        record = items[0].record
        log = _PLAIN.sub("-", record.origin)
        day = record.time[:10].replace("-", "/")
        return f"{self._sink.prefix}{log}/{day}/{first:020d}-{last:020d}.jsonl.gz"

    def _wishes(self, body: bytes) -> dict[str, str]:
        sink = self._sink
        digest = md5(body, usedforsecurity=False).digest()
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
