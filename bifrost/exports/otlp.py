"""OTLP logs over HTTP, written as protobuf or JSON by ourselves: it is a handful of fields."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bifrost.config.exports import OtlpExport
from bifrost.exports.answers import TAKEN, Answer, again, smaller
from bifrost.exports.records import PRODUCT, Document, Item, Record
from bifrost.exports.sentences import ending
from bifrost.exports.web import Reply, Web, packed

PATH = "/v1/logs"
INFO, WARN = (9, "INFO"), (13, "WARN")
SCOPE = "bifrost.audit"
FIXED64, LENGTH, VARINT = 1, 2, 0


def varint(number: int) -> bytes:
    """A number of protobuf."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def field(number: int, content: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return varint(number << 3 | LENGTH) + varint(len(content)) + content


def fixed(number: int, value: int) -> bytes:
    """A field that holds a time."""
    return varint(number << 3 | FIXED64) + value.to_bytes(8, "little")


def counted(number: int, value: int) -> bytes:
    """A field that holds a number."""
    return varint(number << 3 | VARINT) + varint(value)


def _text(key: str, value: str) -> bytes:
    """A KeyValue with a text."""
    return field(1, key.encode()) + field(2, field(1, value.encode()))


class Otlp:
    """One receiver."""

    most_entries = 1000
    most_bytes = 3_500_000
    interval_s = 1.0
    planned = False

    def __init__(self, sink: OtlpExport, document: Document) -> None:
        self._document = document
        self._web = Web(sink)
        self._binary = sink.encoding == "protobuf"
        bare = sink.url.rstrip("/")
        self._url = bare if urlsplit(bare).path else bare + PATH
        form = "x-protobuf" if self._binary else "json"
        self._headers = {
            **sink.headers,
            "content-type": f"application/{form}",
            "content-encoding": "gzip",
        }
        self._service = sink.service

    def _told(self, record: Record) -> tuple[str, dict[str, str], int, str]:
        """The body, the attributes and the severity of a record."""
        attributes = {
            "event.id": record.id,
            "event.name": f"bifrost.{record.kind}",
            "bifrost.index": str(record.index),
            "bifrost.hash": record.hash,
        }
        severity = WARN if ending(record.event) == "failure" else INFO
        return msgspec.json.encode(self._document(record)).decode(), attributes, *severity

    def body(self, record: Record) -> bytes:
        """A LogRecord; its body is the document as JSON text, byte for byte where it is native."""
        text, attributes, number, severity = self._told(record)
        now = time.time_ns()
        if not self._binary:
            return msgspec.json.encode(
                {
                    "timeUnixNano": str(record.at),
                    "observedTimeUnixNano": str(now),
                    "severityNumber": number,
                    "severityText": severity,
                    "body": {"stringValue": text},
                    "attributes": _json(attributes.items()),
                }
            )
        return (
            fixed(1, record.at)
            + counted(2, number)
            + field(3, severity.encode())
            + field(5, field(1, text.encode()))
            + b"".join(field(6, _text(key, value)) for key, value in attributes.items())
            + fixed(11, now)
        )

    async def send(self, items: Sequence[Item]) -> Answer:
        """One request; of a partial success it is not told what was refused."""
        body = self._request(items)
        reply = await self._web.send(self._url, packed(body), self._headers)
        if reply.status in (401, 403, 404, 405, 415):
            return again(reply.said)
        if not reply.good:
            return reply.failed()
        rejected, why = (_rejected if self._binary else _rejected_json)(reply)
        if not rejected:
            return TAKEN
        error = f"{rejected} of {len(items)} rejected: {why}"
        if rejected >= len(items):
            return Answer(
                verdict="taken", refused=dict.fromkeys(range(len(items)), error), error=error
            )
        return smaller(error)

    def _request(self, items: Sequence[Item]) -> bytes:
        resource = {"service.name": self._service, "service.version": PRODUCT}
        if not self._binary:
            head = msgspec.json.encode({"attributes": _json(resource.items())})
            scope = msgspec.json.encode({"name": SCOPE, "version": PRODUCT})
            records = b",".join(item.body for item in items)
            return (
                b'{"resourceLogs":[{"resource":%b,"scopeLogs":[{"scope":%b,"logRecords":[%b]}]}]}'
                % (head, scope, records)
            )
        named = b"".join(field(1, _text(key, value)) for key, value in resource.items())
        scope = field(1, SCOPE.encode()) + field(2, PRODUCT.encode())
        records = b"".join(field(2, item.body) for item in items)
        return field(1, field(1, named) + field(2, field(1, scope) + records))

    async def close(self) -> None:
        """Closes connections."""
        await self._web.close()


def _json(pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in pairs]


def _rejected_json(reply: Reply) -> tuple[int, str]:
    try:
        found: Any = msgspec.json.decode(reply.body or b"{}")
        partial = found.get("partialSuccess") or {}
        return int(partial.get("rejectedLogRecords") or 0), str(partial.get("errorMessage") or "")
    except (msgspec.DecodeError, AttributeError, ValueError, TypeError):
        return 0, ""


def _rejected(reply: Reply) -> tuple[int, str]:
    """How many records of a protobuf answer were rejected, and why; a receiver may answer JSON."""
    if reply.body[:1] == b"{":
        return _rejected_json(reply)
    try:
        partial = _fields(reply.body).get(1)
        found = _fields(partial) if isinstance(partial, bytes) else {}
    except (IndexError, ValueError):
        return 0, ""
    count, why = found.get(1, 0), found.get(2, b"")
    return (
        count if isinstance(count, int) else 0,
        why.decode("utf-8", "replace") if isinstance(why, bytes) else "",
    )


def _fields(data: bytes) -> dict[int, int | bytes]:
    """The fields of a message that are numbers or bytes; raises IndexError or ValueError."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        if tag & 7 == VARINT:
            found[tag >> 3], at = _number(data, at)
        elif tag & 7 == LENGTH:
            size, at = _number(data, at)
            found[tag >> 3] = data[at : at + size]
            at += size
        else:
            raise ValueError("another wire type than there are in this answer")
    return found


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
