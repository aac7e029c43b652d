"""Elasticsearch and OpenSearch: ``_bulk`` with ``create`` and our own ids.

A document that is there already (409) was taken before: so a repetition changes nothing.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.config.exports import ElasticExport
from bifrost.exports.answers import TAKEN, Answer, again
from bifrost.exports.records import Document, Item, Record
from bifrost.exports.web import Reply, Web, packed

THERE = 409
# Of an item: not the item's fault, so it is sent again.
LATER = frozenset((401, 403, 404, 408, 429, 500, 502, 503, 504))


class Elastic:
    """One index, alias or data stream (which takes only ``create``)."""

    most_entries = 1000
    most_bytes = 5_000_000
    interval_s = 1.0
    planned = False

    def __init__(self, sink: ElasticExport, document: Document) -> None:
        self._document = document
        self._web = Web(sink)
        self._url = f"{sink.url.rstrip('/')}/{sink.index}/_bulk"
        self._headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
        if sink.token is not None:
            self._headers["authorization"] = f"ApiKey {sink.token}"
        elif sink.username is not None:
            pair = f"{sink.username}:{sink.password}".encode()
            self._headers["authorization"] = f"Basic {b64encode(pair).decode()}"

    def body(self, record: Record) -> bytes:
        """An action and a document, each a line."""
        document = {"@timestamp": record.time, **self._document(record)}
        action = msgspec.json.encode({"create": {"_id": record.id}})
        return b"%b\n%b\n" % (action, msgspec.json.encode(document))

    async def send(self, items: Sequence[Item]) -> Answer:
        """One ``_bulk``; the answer tells of every document."""
        body = packed(b"".join(item.body for item in items))
        reply = await self._web.send(self._url, body, self._headers)
        if not reply.good:
            return reply.failed()
        return _judged(reply, len(items))

    async def close(self) -> None:
        """Closes connections."""
        await self._web.close()


def _judged(reply: Reply, count: int) -> Answer:
    try:
        found: Any = msgspec.json.decode(reply.body)
        if found["errors"] is False:
            return TAKEN
        results = [next(iter(one.values())) for one in found["items"]]
        statuses = [int(one["status"]) for one in results]
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, StopIteration, ValueError):
        return again(f"no answer of _bulk: {reply.said}")
    if len(statuses) != count:
        return again(f"the answer is about {len(statuses)} documents, not {count}")
    bad = {
        position: (status, _reason(results[position].get("error"), status))
        for position, status in enumerate(statuses)
        if not 200 <= status < 300 and status != THERE
    }
    later = tuple(position for position, (status, _) in bad.items() if status in LATER)
    refused = {n: reason for n, (_, reason) in bad.items() if n not in later}
    error = bad[later[0]][1] if later else ""
    return Answer(
        verdict="taken", refused=refused, again=later, error=error,
        retry_after_s=reply.retry_after_s,
    )  # fmt: skip


def _reason(error: Any, status: int) -> str:
    if not isinstance(error, dict):
        return f"status {status}"
    cause = error.get("caused_by")
    why = f": {cause.get('reason')}" if isinstance(cause, dict) and cause.get("reason") else ""
    return f"status {status}, {error.get('type')}: {error.get('reason')}{why}"[:500]
