"""Splunk's HTTP Event Collector, with and without indexer acknowledgement."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.config.exports import SplunkExport
from bifrost.exports.answers import TAKEN, Answer, again
from bifrost.exports.records import Document, Item, Record
from bifrost.exports.web import Reply, Web, packed

EVENT = "/services/collector/event"
ACK = "/services/collector/ack"
ACK_S = 300.0  # an acknowledgement that takes longer is not waited for
ASK_S = 0.5  # between two questions for it, rising
ASK_MOST_S = 10.0
# Codes of a 400 that are about one event, which `invalid-event-number` names.
NO_DATA, BAD_EVENTS = 5, frozenset((6, 12, 13, 15))


class Splunk:
    """One collector's token."""

    most_entries = 1000
    most_bytes = 900_000
    interval_s = 1.0
    planned = False

    def __init__(self, sink: SplunkExport, document: Document) -> None:
        self._sink = sink
        self._document = document
        self._web = Web(sink)
        self._base = sink.url.rstrip("/")
        self._channel = str(uuid.uuid4())
        self._headers = {
            "authorization": f"Splunk {sink.token}",
            "content-type": "application/json",
        }
        if sink.ack:
            self._headers["x-splunk-request-channel"] = self._channel

    def body(self, record: Record) -> bytes:
        """One event; ``time`` is in seconds, exact to the microsecond."""
        seconds, nanos = divmod(record.at, 1_000_000_000)
        event: dict[str, Any] = {
            "time": msgspec.Raw(b"%d.%06d" % (seconds, nanos // 1000)),
            "source": self._sink.source,
            "sourcetype": self._sink.sourcetype,
            "fields": {"id": record.id, "kind": record.kind},
            "event": self._document(record),
        }
        if self._sink.index is not None:
            event["index"] = self._sink.index
        return msgspec.json.encode(event) + b"\n"

    async def send(self, items: Sequence[Item]) -> Answer:
        """One request; with ``ack`` it is taken when it is indexed."""
        body = packed(b"".join(item.body for item in items))
        headers = self._headers | {"content-encoding": "gzip"}
        reply = await self._web.send(self._base + EVENT, body, headers)
        said = _said(reply)
        if reply.status == 400:
            return _refused(reply, said, len(items))
        if not reply.good:
            return reply.failed()
        if not self._sink.ack:
            return TAKEN
        number = said.get("ackId")
        if type(number) is not int:
            return again(
                "the collector acknowledges nothing; allow it for the token, or ack: false"
            )
        return await self._acknowledged(number)

    async def _acknowledged(self, number: int) -> Answer:
        deadline, pause = time.monotonic() + ACK_S, ASK_S
        question = msgspec.json.encode({"acks": [number]})
        url = f"{self._base}{ACK}?channel={self._channel}"
        while True:
            reply = await self._web.send(url, question, self._headers)
            acks = _said(reply).get("acks")
            if reply.good and isinstance(acks, dict) and acks.get(str(number)) is True:
                return TAKEN
            if time.monotonic() + pause > deadline:
                return again(f"not acknowledged within {ACK_S:g} s ({reply.said})")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, ASK_MOST_S)

    async def close(self) -> None:
        """Closes connections."""
        await self._web.close()


def _said(reply: Reply) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(reply.body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _refused(reply: Reply, said: dict[str, Any], count: int) -> Answer:
    """A 400: one event is wrong, and named, or it is about the token, the index, the channel."""
    code, number = said.get("code"), said.get("invalid-event-number")
    if code not in BAD_EVENTS:
        return reply.failed() if code is None or code == NO_DATA else again(reply.said)
    if type(number) is not int or not 0 <= number < count:
        return reply.failed()
    others = tuple(n for n in range(count) if n != number)
    return Answer(verdict="taken", refused={number: reply.said}, again=others)
