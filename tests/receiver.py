"""A receiver of webhooks: a real HTTP server that keeps what it is sent and answers as told."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
OTHER_SECRET = "whsec_" + "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY="


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The message's id."""
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> Any:
        """The body, after somebody else's library has found the signature right."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Listens on the loopback until ``close``; ``answers`` are used up, then it is 204."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.received: list[Received] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, more, text = receiver.answers.pop(0) if receiver.answers else (204, {}, b"")
                receiver.received.append(Received(self.path, headers, body))
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that leaves is no error here."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        scheme = "https" if context is not None else "http"
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{scheme}://127.0.0.1:{self.port}/hooks/token-in-path?x=%2F"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def thresholds(self) -> list[int]:
        """What it was told of, each message once, in the order they came."""
        found = {one.id: one.verified()["data"]["threshold_percent"] for one in self.received}
        return list(found.values())

    def close(self) -> None:
        """Ends the server; its port refuses connections."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
