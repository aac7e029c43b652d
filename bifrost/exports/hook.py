"""Webhooks: batches of entries as messages of Standard Webhooks.

The message's id follows from the entries in it, so that a repetition has the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from bifrost.config.exports import WebhookExport
from bifrost.config.settings import Webhook
from bifrost.exports.answers import TAKEN, Answer, again, smaller
from bifrost.exports.records import CHECKPOINT, Document, Item, Record, moment, span
from bifrost.exports.web import WRONG
from bifrost.webhooks.delivery import Sender
from bifrost.webhooks.messages import Message

TYPE = "audit.entries"


class Hook:
    """One receiver."""

    most_entries = 100
    most_bytes = 20_000  # what the standard advises
    interval_s = 1.0
    planned = False

    def __init__(self, sink: WebhookExport, document: Document) -> None:
        self._document = document
        self._name = sink.name
        self._sender = Sender(
            Webhook(
                name=sink.name, url=sink.url, secret=sink.secret, old_secrets=sink.old_secrets,
                timeout_s=min(sink.timeout_s, 60.0), proxy=sink.proxy, ca_file=sink.ca_file,
            )
        )  # fmt: skip

    def body(self, record: Record) -> bytes:
        """One element of the message."""
        return msgspec.json.encode(self._document(record))

    async def send(self, items: Sequence[Item]) -> Answer:
        """One message."""
        outcome = await self._sender.send(self.message(items))
        if outcome.delivered:
            return TAKEN
        if outcome.status in WRONG:
            return smaller(outcome.error)
        return again(outcome.error, outcome.retry_after_s)

    def message(self, items: Sequence[Item]) -> Message:
        """What is sent of these."""
        entries = [item for item in items if item.record.kind != CHECKPOINT]
        first, last = span(items)
        ids = "\n".join((self._name, *(item.record.id for item in entries)))
        data = {
            "origin": entries[0].record.origin,
            "first": first,
            "last": last,
            "entries": [msgspec.Raw(item.body) for item in entries],
            "checkpoint": next(
                (i.record.event["checkpoint"] for i in items if i.record.kind == CHECKPOINT), None
            ),
        }
        body = {"type": TYPE, "timestamp": moment(entries[-1].record.at), "data": data}
        digest = hashlib.sha256(ids.encode()).hexdigest()[:32]
        return Message(f"msg_{digest}", TYPE, msgspec.json.encode(body))

    async def close(self) -> None:
        """Closes connections."""
        await self._sender.close()
