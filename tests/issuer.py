"""An issuer of tokens: a real HTTP server that keeps what it is asked and answers by a function."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bifrost.providers.asking import Ask, Errand, Reply
from bifrost.providers.tokens import Lease
from bifrost.upstream.errands import Errands
from bifrost.upstream.pool import NetworkOptions, Upstreams

T = TypeVar("T")


class Asked(NamedTuple):
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: one[0] for name, one in parse_qs(urlsplit(self.target).query).items()}

    @property
    def form(self) -> dict[str, str]:
        """The fields of the body, each once."""
        found = parse_qs(self.body.decode(), strict_parsing=True)
        assert all(len(one) == 1 for one in found.values())
        return {name: one[0] for name, one in found.items()}


Answer = tuple[int, Any] | tuple[int, Any, str]  # status, JSON or bytes, and its type


class Issuer:
    """Listens on the loopback until ``close``."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.asked: list[Asked] = []
        self.answer = answer
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                issuer.asked.append(asked)
                status, told, *kind = issuer.answer(asked)
                text = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("content-type", *kind or ["application/json"])
                self.send_header("metadata-flavor", "Google")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Issuer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def fetched(source: Callable[[Ask], Callable[[], Any]]) -> Lease[Any]:
    """What a source gets, asked the way the gateway asks."""

    async def main() -> Lease[Any]:
        upstreams = Upstreams()
        errands = Errands(upstreams, NetworkOptions())

        async def ask(errand: Errand) -> Reply:
            return Reply(*await errands.send(errand))

        try:
            found: Lease[Any] = await source(ask)()
            return found
        finally:
            await upstreams.close()

    return asyncio.run(main())


def rsa_key() -> tuple[rsa.RSAPrivateKey, str]:
    """A new key and its PEM."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, pem.decode()
