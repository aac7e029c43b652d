"""The same exchanges through a corporate HTTP proxy, over aiohttp.

Plain targets are forwarded, TLS targets tunnelled with CONNECT. Slower than the direct pool.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import aiohttp
from httptools import HttpRequestParser
from multidict import CIMultiDict
from yarl import URL

from bifrost._fast.client import WAKE, Broken, ClientError, ConnectFailed, Timeout
from bifrost.errors import ConfigError

if TYPE_CHECKING:
    from bifrost.upstream.pool import NetworkOptions

_BACKOFF_S = (0.05, 0.2)
_MAX_HEADER = 65536
_ADDED_BY_AIOHTTP = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class ProxiedPool:
    """Connections to one origin (``scheme://host:port``) through ``proxy``.

    ``error`` turns a ClientError into what is raised. Raises ConfigError for an unusable proxy.
    """

    def __init__(
        self,
        origin: str,
        proxy: str,
        network: NetworkOptions,
        context: ssl.SSLContext,
        error: Callable[[ClientError], Exception],
    ) -> None:
        self._origin = origin
        self._proxy = _proxy_url(proxy)
        self._network = network
        self._context = context
        self._error = error
        self._session: aiohttp.ClientSession | None = None
        self._live: set[ProxiedExchange] = set()
        self._quiet = asyncio.Event()
        self._closed = False

    @property
    def active(self) -> int:
        """Exchanges whose end was not read yet."""
        return len(self._live)

    async def send(self, request: list[bytes]) -> ProxiedExchange:
        """Send ``[head, body]``; awaits the response's head."""
        try:
            if self._closed:
                raise ConnectFailed("is no longer used by the gateway")
            response = await self._respond(_Request(request))
        except ClientError as error:
            raise self._error(error) from None
        exchange = ProxiedExchange(self, response, self._network.idle_timeout_s)
        self._live.add(exchange)
        return exchange

    def close(self) -> None:
        """Break the exchanges in flight and refuse later ones; ``drain`` frees the rest."""
        self._closed = True
        for exchange in list(self._live):
            exchange.cancel()

    async def drain(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for exchanges in flight, then close everything."""
        if self._live and timeout > 0:
            self._quiet.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._quiet.wait()
            except TimeoutError:
                pass
        self.close()
        if self._session is not None:
            await self._session.close()

    def _ended(self, exchange: ProxiedExchange) -> None:
        self._live.discard(exchange)
        if not self._live:
            self._quiet.set()

    async def _respond(self, request: _Request) -> aiohttp.ClientResponse:
        tries, sent = 0, False
        while True:
            reused: list[bool] = []
            try:
                # Includes connecting: aiohttp does not tell when the request was written.
                async with asyncio.timeout(self._network.timeout_s):
                    return await self._attempt(request, reused)
            except (aiohttp.ClientError, OSError) as error:
                failure = self._failure(error)
                if reused and _never_answered(error):
                    sent = True  # the keep-alive race; every turn uses up a kept connection
                    continue
                if tries >= self._network.max_retries or not _worth_another_try(error):
                    failure.sent = failure.sent or sent
                    raise failure from None
            await asyncio.sleep(_BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
            tries += 1

    async def _attempt(self, request: _Request, reused: list[bool]) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._new_session()
        return await self._session.request(
            request.method,
            URL(self._origin + request.target, encoded=True),
            headers=request.headers,
            data=BytesIO(request.body) if request.body else None,
            proxy=self._proxy,
            allow_redirects=False,
            trace_request_ctx=reused,
        )

    def _new_session(self) -> aiohttp.ClientSession:
        async def note_reuse(_session: Any, context: Any, _params: Any) -> None:
            context.trace_request_ctx.append(True)

        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(note_reuse)
        network = self._network
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._context,
                limit=network.max_connections,
                keepalive_timeout=network.keepalive_s,
            ),
            auto_decompress=False,
            skip_auto_headers=_ADDED_BY_AIOHTTP,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=network.connect_timeout_s),
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            trace_configs=[trace],
        )

    def _failure(self, error: Exception) -> ClientError:
        proxy = f"the proxy at {self._proxy.host}:{self._proxy.port}"
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            text = f"did not accept a connection within {self._network.connect_timeout_s:g} s"
            return Timeout(f"{text} through {proxy}", phase="connect")
        if isinstance(error, TimeoutError):
            text = f"did not answer within {self._network.timeout_s:g} s"
            return Timeout(text, sent=True, phase="first_byte")
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return ConnectFailed(f"could not be reached: {proxy} answered {error.status}")
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "not trusted")
            return ConnectFailed(f"has a certificate that does not verify ({why})")
        if isinstance(error, aiohttp.ClientConnectorError):
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else "name not found"
            return ConnectFailed(f"could not be reached through {proxy} ({why})")
        if _never_answered(error):
            return Broken("closed the connection without a response", sent=True)
        return Broken(f"sent a malformed response ({type(error).__name__})", sent=True)


class ProxiedExchange:
    """A response under way through a proxy; see ``bifrost.upstream.Exchange``."""

    def __init__(
        self, pool: ProxiedPool, response: aiohttp.ClientResponse, idle_timeout_s: float
    ) -> None:
        self._pool = pool
        self._response = response
        self._idle_timeout_s = idle_timeout_s
        self._pending: asyncio.Task[bytes] | None = None
        self._heard = 0.0
        self._waker: asyncio.Future[None] | None = None
        self._failure: tuple[type[ClientError], str] | None = None
        self.status = response.status
        self.headers = [(name.lower(), value) for name, value in response.raw_headers]

    @property
    def complete(self) -> bool:
        content = self._response.content
        return self._failure is None and content.is_eof() and content.exception() is None

    @property
    def received(self) -> int:
        """Bytes of the body so far."""
        return self._response.content.total_bytes

    async def read(self) -> bytes:
        """Next body bytes; ``b""`` at the complete end; ``WAKE`` if ``wake()`` came first."""
        data = self.read_nowait()
        if data is not None:
            return data
        if self._waker is not None:
            raise RuntimeError("another task is already reading this response")
        loop = asyncio.get_running_loop()
        if self._pending is None:
            self._pending = loop.create_task(self._response.content.readany())
            self._heard = loop.time()
        waker = self._waker = loop.create_future()
        left = self._heard + self._idle_timeout_s - loop.time()
        try:
            done, _ = await asyncio.wait(
                (self._pending, waker), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self._waker = None
        if not done:
            text = f"sent nothing for {self._idle_timeout_s:g} s in the middle of a response"
            self._fail(Timeout, text)
        data = self.read_nowait()
        return WAKE if data is None else data

    def read_nowait(self) -> bytes | None:
        """What is buffered; ``b""`` at the complete end; None if a read would wait."""
        if self._failure is not None:
            raise self._pool._error(_made(*self._failure))
        try:
            data = self._buffered()
        except (aiohttp.ClientError, OSError):
            self._fail(Broken, "closed the connection in the middle of a response")
            return self.read_nowait()
        if data == b"":
            if not self._response.content.at_eof():
                return None
            self._finish()
        return data

    async def read_all(self, limit: int) -> bytes:
        """The whole body; over ``limit`` bytes it is cancelled and reported as broken."""
        parts: list[bytes] = []
        total = 0
        while data := await self.read():
            if data is WAKE:
                continue
            total += len(data)
            if total > limit:
                self._fail(Broken, f"sent a response of more than {limit} bytes")
                self.read_nowait()
            parts.append(data)
        return b"".join(parts)

    def cancel(self) -> None:
        """Close the connection now; nothing after the end."""
        if not self.complete:
            self._fail(Broken, "was cut off by the gateway")
        else:
            self._finish()

    def wake(self) -> None:
        """Let a waiting ``read()`` return ``WAKE``; nothing happens if nobody waits."""
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _buffered(self) -> bytes | None:
        if self._pending is None:
            return self._response.content.read_nowait()
        if not self._pending.done():
            return None
        pending, self._pending = self._pending, None
        return pending.result()

    def _fail(self, kind: type[ClientError], text: str) -> None:
        if self._failure is None:
            self._failure = (kind, text)
            self._finish()
            self.wake()

    def _finish(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        # Still attached if cut off, or if the response ended before the request was written.
        if self._response.connection is not None:
            self._response.close()
        self._pool._ended(self)


class _Request:
    """A request head read back into what aiohttp takes, with the body."""

    def __init__(self, request: list[bytes]) -> None:
        self.target = ""
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.body = b"".join(request[1:])
        parser = HttpRequestParser(self)
        parser.feed_data(request[0])
        self.method = parser.get_method().decode("ascii")

    def on_url(self, target: bytes) -> None:
        self.target += target.decode("ascii")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.add(name.decode("ascii"), _text(value))


def _text(value: bytes) -> str:
    # aiohttp writes header values as UTF-8.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _made(kind: type[ClientError], text: str) -> ClientError:
    if kind is Timeout:
        return Timeout(text, sent=True, phase="idle")
    return kind(text, sent=True)


def _never_answered(error: Exception) -> bool:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it holds the head that did arrive
    timed_out_or_unsent = (TimeoutError, aiohttp.ClientConnectorError)
    return isinstance(error, OSError) and not isinstance(error, timed_out_or_unsent)


def _worth_another_try(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
        error, aiohttp.ClientConnectorCertificateError
    )


def _proxy_url(proxy: str) -> URL:
    try:
        url = URL(proxy)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        # The URL may hold a password: it is not repeated.
        raise ConfigError("The proxy cannot be used: expected http://[user:password@]host:port.")
    return url
