"""A client that writes bytes as they are and reads the answers one by one."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.running import KEY, message


class Answer(NamedTuple):
    """One answer; header names in lower case, a chunked body put together."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The id that the request brought, or the gateway gave it."""
        return self.headers.get("x-request-id", "")

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Wire:
    """A connection to a gateway; ``buffer`` is for at most so many bytes not yet read."""

    def __init__(self, url: str, timeout_s: float = 30.0, buffer: int = 0) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(timeout_s)
        self.socket.connect((parts.hostname, parts.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> Wire:
        """Sends each piece by itself."""
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"closed after {self.read[:300]!r}")
        self.read += data

    def line(self) -> bytes:
        """The next line, without its end."""
        while b"\r\n" not in self.read:
            self._more()
        line, _, self.read = self.read.partition(b"\r\n")
        return line

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        while len(self.read) < size:
            self._more()
        taken, self.read = self.read[:size], self.read[size:]
        return taken

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        version, status, *_ = self.line().split(b" ")
        assert version == b"HTTP/1.1"
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        return int(status), headers

    def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer, whole."""
        status, headers = self.head()
        if bodiless or status < 200:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            return Answer(status, headers, b"".join(iter(self.chunk, b"")))
        return Answer(status, headers, self.take(int(headers["content-length"])))

    def chunk(self) -> bytes:
        """The next piece of a chunked body; nothing at its end."""
        piece = self.take(int(self.line(), 16))
        assert self.line() == b""
        return piece

    def closed(self) -> bool:
        """Waits for the end of the connection; whether it came without another byte."""
        try:
            return not self.read and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def request(
    start: str = "POST /v1/messages HTTP/1.1",
    *headers: str,
    body: bytes | None = None,
    key: str | None = KEY,
) -> bytes:
    """A request as bytes; with a body and no word of its length, content-length is added."""
    lines = [start, "host: gateway", *headers]
    if key:
        lines.append(f"authorization: Bearer {key}")
    named = {line.partition(":")[0].lower() for line in headers}
    if body is not None and not named & {"content-length", "transfer-encoding"}:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def hot(id: str, *headers: str, **changes: Any) -> bytes:
    """A usual Messages request that says its id."""
    body = json.dumps(message(**changes)).encode()
    return request("POST /v1/messages HTTP/1.1", f"x-request-id: {id}", *headers, body=body)


def cold(id: str, *headers: str) -> bytes:
    """A request for the list of models that says its id."""
    return request("GET /v1/models HTTP/1.1", f"x-request-id: {id}", *headers)


def chunked(*pieces: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A body in chunks."""
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return body + b"0\r\n" + trailers + b"\r\n"
