"""Syslog: RFC 5424 over TCP or TLS, octet-counted (RFC 6587, RFC 5425).

The protocol acknowledges nothing. A batch counts as taken when the receiver's system has confirmed
every byte of it and the connection still stands: what the receiver then loses is lost.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import ssl
import termios
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from bifrost.config.exports import SyslogExport
from bifrost.exports.answers import TAKEN, Answer, again
from bifrost.exports.records import Document, Item, Record
from bifrost.exports.sentences import ending
from bifrost.webhooks.delivery import reason

INFORMATIONAL, WARNING = 6, 4
SD_ID = "bifrost@32473"  # 32473 is the number for examples; it needs no registration
BOM = b"\xef\xbb\xbf"
CHECK_S = 0.01
MOST_ID = 32  # characters of a MSGID


class Syslog:
    """One receiver."""

    most_entries = 500
    most_bytes = 1_000_000
    interval_s = 1.0
    planned = False

    def __init__(self, sink: SyslogExport, document: Document) -> None:
        self._sink = sink
        self._document = document
        parts = urlsplit(sink.url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._tls = parts.scheme == "tls"
        self._name = sink.hostname or socket.gethostname() or "-"
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def body(self, record: Record) -> bytes:
        """One message with its length before it."""
        severity = WARNING if ending(record.event) == "failure" else INFORMATIONAL
        values = {"id": record.id, "index": str(record.index), "hash": record.hash}
        data = "".join(f' {name}="{_escaped(value)}"' for name, value in values.items())
        kind = "".join(c for c in record.kind if "!" <= c <= "~")[:MOST_ID] or "-"
        head = (
            f"<{self._sink.facility * 8 + severity}>1 {record.time} {self._name}"
            f" {self._sink.app_name} {os.getpid()} {kind} [{SD_ID}{data}] "
        )
        message = head.encode() + BOM + msgspec.json.encode(self._document(record))
        return b"%d %b" % (len(message), message)

    async def send(self, items: Sequence[Item]) -> Answer:
        """Writes a batch and waits until the other side's system has it."""
        try:
            async with asyncio.timeout(self._sink.timeout_s):
                reader, writer = await self._connected()
                writer.write(b"".join(item.body for item in items))
                await writer.drain()
                await self._confirmed(reader, writer)
            return TAKEN
        except TimeoutError:
            await self.close()
            return again(f"not taken within {self._sink.timeout_s:g} s")
        except (OSError, ssl.SSLError, EOFError) as error:
            await self.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                return again(f"the certificate was not accepted: {error.verify_message}")
            return again(reason(error) if isinstance(error, OSError) else "it hung up")

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._ends is not None and not self._ends[0].at_eof():
            return self._ends
        await self.close()
        context = ssl.create_default_context(cafile=self._sink.ca_file) if self._tls else None
        self._ends = await asyncio.open_connection(self._host, self._port, ssl=context)
        return self._ends

    async def _confirmed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        deadline = time.monotonic() + self._sink.timeout_s
        while time.monotonic() < deadline:
            if reader.at_eof() or writer.transport.is_closing():
                raise EOFError
            waiting = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            if not int.from_bytes(waiting, "little") and not _unwritten(writer):
                return
            await asyncio.sleep(CHECK_S)
        raise TimeoutError

    async def close(self) -> None:
        """Closes the connection."""
        if self._ends is not None:
            writer, self._ends = self._ends[1], None
            writer.close()
            try:
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()
            except (OSError, TimeoutError, ssl.SSLError):
                writer.transport.abort()


def _unwritten(writer: asyncio.StreamWriter) -> int:
    return writer.transport.get_write_buffer_size()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
