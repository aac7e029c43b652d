"""Which origin a base URL means, and the connections to it.

Every failure of an exchange leaves this module as one ``UpstreamError``.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Coroutine, Iterable
from functools import partial
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, urlsplit

import msgspec

from bifrost._fast.client import ClientError, Pool
from bifrost.errors import ConfigError, UpstreamError

if TYPE_CHECKING:
    from bifrost.upstream.proxied import ProxiedPool

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_PATH = re.compile(r"(?:/[!-~]*)?")
_PORTS = {"http": 80, "https": 443}


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to talk to one provider; times in seconds.

    ``timeout_s`` runs from the written request to the response's head, ``idle_timeout_s`` between
    two pieces of its body. ``ca_file`` adds to the system's certificate authorities.
    """

    timeout_s: float = 600.0
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 300.0
    max_retries: int = 2
    max_connections: int = 1000
    max_idle: int = 64
    keepalive_s: float = 60.0
    proxy: str | None = None
    ca_file: str | None = None
    verify: bool = True


class Exchange(Protocol):
    """A response under way; whoever holds it reads to ``b""`` or calls ``cancel``.

    Header names are lower-case. Reading raises UpstreamError. ``read`` returns ``WAKE`` (compare
    with ``is``) when ``wake`` was called while it waited.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def complete(self) -> bool: ...
    @property
    def received(self) -> int: ...
    async def read(self) -> bytes: ...
    def read_nowait(self) -> bytes | None: ...
    async def read_all(self, limit: int) -> bytes: ...
    def cancel(self) -> None: ...
    def wake(self) -> None: ...


class _Address(msgspec.Struct, frozen=True):
    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> bytes:
        default = self.port == _PORTS[self.scheme]
        return (_bracketed(self.host) if default else self.authority).encode("ascii")


class Origin:
    """One provider address: requests for it carry ``host_header`` and begin at ``path_prefix``."""

    __slots__ = ("authority", "host_header", "path_prefix", "pool")

    def __init__(self, pool: Pool | ProxiedPool, address: _Address, path_prefix: bytes) -> None:
        self.pool = pool
        self.authority = address.authority
        self.host_header = address.host_header
        self.path_prefix = path_prefix

    def send(self, request: list[bytes]) -> Coroutine[Any, Any, Exchange]:
        """Send ``[head, body]``; awaits the response's head. Raises UpstreamError."""
        return self.pool.send(request)


class Upstreams:
    """All connections to providers of one event loop, shared by address and options."""

    def __init__(self) -> None:
        self._pools: dict[tuple[_Address, NetworkOptions], Pool | ProxiedPool] = {}
        self._contexts: dict[tuple[str | None, bool], ssl.SSLContext] = {}

    def get(self, base_url: str, network: NetworkOptions) -> Origin:
        """The origin of this URL; an existing pool is kept. Raises ConfigError."""
        address, prefix = _split(base_url)
        key = (address, network)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._open(address, network)
        return Origin(pool, address, prefix)

    def pools(self) -> list[tuple[str, Pool | ProxiedPool]]:
        """Every pool with the ``host:port`` it leads to."""
        return [(address.authority, pool) for (address, _), pool in self._pools.items()]

    async def retain(self, origins: Iterable[Origin], timeout_s: float) -> None:
        """Drop the pools none of these origins uses, after their exchanges or ``timeout_s``."""
        kept = {id(origin.pool) for origin in origins}
        dropped = [key for key, pool in self._pools.items() if id(pool) not in kept]
        pools = [self._pools.pop(key) for key in dropped]
        await asyncio.gather(*(pool.drain(timeout_s) for pool in pools))

    async def close(self) -> None:
        """Close every connection now; exchanges in flight break."""
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            pool.close()
        await asyncio.gather(*(pool.drain(0) for pool in pools))

    def _open(self, address: _Address, network: NetworkOptions) -> Pool | ProxiedPool:
        error = partial(upstream_error, address.authority)
        context = self._context(network)
        if network.proxy is not None:
            from bifrost.upstream.proxied import ProxiedPool  # aiohttp, only where it is needed

            base = f"{address.scheme}://{address.authority}"
            return ProxiedPool(base, network.proxy, network, context, error)
        return Pool(
            address.host,
            address.port,
            ssl=context if address.scheme == "https" else None,
            server_hostname=address.host if address.scheme == "https" else None,
            max_connections=network.max_connections,
            max_idle=network.max_idle,
            idle_close_s=network.keepalive_s,
            connect_timeout_s=network.connect_timeout_s,
            first_byte_timeout_s=network.timeout_s,
            idle_timeout_s=network.idle_timeout_s,
            retries=network.max_retries,
            error=error,
        )

    def _context(self, network: NetworkOptions) -> ssl.SSLContext:
        key = (network.ca_file, network.verify)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = _tls_context(network.ca_file, network.verify)
        return context


def upstream_error(authority: str, error: ClientError) -> UpstreamError:
    """What the rest of the gateway sees of a failed exchange with ``host:port``."""
    return UpstreamError(f"The provider at {authority} {error}.", sent=error.sent)


def _tls_context(ca_file: str | None, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or "no PEM certificate in it"
            raise ConfigError(f"The ca_file {ca_file!r} cannot be used: {reason}.") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _split(base_url: str) -> tuple[_Address, bytes]:
    try:
        parts = urlsplit(base_url)
        port = parts.port
        host = _plain_host(parts)
    except ValueError:
        raise _unusable("its host or port is not valid") from None
    if parts.scheme not in _PORTS:
        raise _unusable("it must begin with http:// or https://")
    if "@" in parts.netloc:
        raise _unusable("it must not contain credentials")
    if "?" in base_url or "#" in base_url:
        raise _unusable("it must not contain a query or fragment")
    if not _PATH.fullmatch(parts.path):
        raise _unusable("its path may only contain printable ASCII characters")
    if port is None:
        port = _PORTS[parts.scheme]
    if port == 0:
        raise _unusable("its host or port is not valid")
    return _Address(parts.scheme, host, port), parts.path.rstrip("/").encode("ascii")


def _plain_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except AddressValueError:
            raise ValueError(host) from None
    host = host.encode("idna").decode("ascii")  # refuses empty and overlong labels too
    if not _HOST.fullmatch(host):
        raise ValueError(host)
    return host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _unusable(why: str) -> ConfigError:
    # The URL itself may hold a password: it is not repeated.
    return ConfigError(f"The base_url cannot be used: {why}.")
