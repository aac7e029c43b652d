"""Errands: single requests to token endpoints, over connections that are not kept.

They go the way that the provider's own requests go (proxy, authorities), but with the patience of
somebody whom requests may be waiting for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from msgspec.structs import replace

from bifrost.errors import ConfigError, UpstreamError
from bifrost.upstream.pool import NetworkOptions, Upstreams

LONGEST_REPLY = 1 << 20  # bytes
REPLY_S, CONNECT_S = 15.0, 10.0
NEAR_S = 3.0  # to connect on this machine or link
AGENT = "bifrost-gateway"


class Asked(Protocol):
    """What is to be sent; ``near``: to this machine or its link."""

    @property
    def url(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def near(self) -> bool: ...


class Errands:
    """Sends requests of one provider's credential."""

    def __init__(self, upstreams: Upstreams, network: NetworkOptions) -> None:
        far = replace(
            network, timeout_s=REPLY_S, idle_timeout_s=REPLY_S, max_idle=0, max_retries=1,
            connect_timeout_s=min(CONNECT_S, network.connect_timeout_s),
        )  # fmt: skip
        self._upstreams = upstreams
        self._far = far
        self._near = replace(
            far, proxy=None, ca_file=None, verify=True, connect_timeout_s=NEAR_S, max_retries=0
        )

    async def send(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the answer; raises UpstreamError if there is none."""
        parts = urlsplit(asked.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or not target.isprintable() or " " in target:
            raise UpstreamError(f"The address {parts.netloc!r} of a credential cannot be used.")
        try:
            origin = self._upstreams.get(
                f"{parts.scheme}://{parts.netloc}", self._near if asked.near else self._far
            )
        except ConfigError as error:
            raise UpstreamError(f"The address of a credential cannot be used: {error}") from error
        lines = [f"{asked.method} {target} HTTP/1.1", f"host: {origin.host_header.decode()}"]
        sent = {"user-agent": AGENT, "accept-encoding": "identity", **asked.headers}
        if asked.body or asked.method != "GET":
            sent["content-length"] = str(len(asked.body))
        lines += [f"{name}: {value}" for name, value in sent.items() if name != "host"]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        exchange = await origin.send([head, asked.body])
        body = await exchange.read_all(LONGEST_REPLY)
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in exchange.headers}
        return exchange.status, headers, body
