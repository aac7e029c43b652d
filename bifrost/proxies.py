"""Who a client is, also behind proxies that the operator trusts. A leaf.

A header that names the client is believed only from a peer in ``server.trusted_proxies``, and in it
only what trusted hops wrote: from the right, the first address that is not trusted is the client.
Nothing in such a header can fail a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

UNIX = "unix"  # stands for whoever connects to our Unix socket
FORWARDED = "forwarded"
MOST_HOPS = 32  # that are looked at, from the right
MOST_ELEMENT = 512  # characters of one hop in a Forwarded header
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # of a peer that has no address
_PORT = re.compile(r"[0-9]{1,5}")
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*(?=;|$)', re.I)


class Proxies:
    """Whose word about clients is taken, as the configuration says.

    ``trusted`` are addresses, networks and ``unix``; ``header`` is the one (and only one) that they
    set, ``x-forwarded-for`` or ``forwarded``; ``record`` says whether events name clients at all.
    """

    def __init__(
        self, trusted: Iterable[str] = (), header: str = "x-forwarded-for", *, record: bool = True
    ) -> None:
        given = set(trusted)
        self._unix = UNIX in given
        self._networks = [ip_network(text, strict=False) for text in given - {UNIX}]
        self._header = header.encode()
        self._record = record
        self.trusting = bool(given)
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, host: str | None) -> bool:
        """Whether a peer is one of these proxies; None is one without an address."""
        if host is None:
            return self._unix
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def client(self, host: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The address of the client for whom the peer ``host`` sends these headers.

        A hop that cannot be read, such as ``unknown``, ends the search: then it is the hop that
        reported it.
        """
        found = None if host is None else plain(host)
        if not self.trusting or not self.trusts(host):
            return found
        for hop in self._hops(headers):
            address = _hop(hop)
            if address is None:
                break
            found = address
            if not self.trusts(found):
                break
        return found

    def _hops(self, headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
        """What hops said of whom they serve, the last hop's word first."""
        lines = [value for name, value in headers if name.lower() == self._header]
        text = b",".join(lines).decode("latin-1")
        if self._header == FORWARDED.encode():
            return [_for(one) for one in _elements(text)]
        hops = (one.strip() for one in reversed(text.rsplit(",", MOST_HOPS)[-MOST_HOPS:]))
        return [one for one in hops if one]

    def settle(self, scope: MutableMapping[str, Any]) -> None:
        """Puts the true client into an ASGI scope."""
        if self.trusting:
            peer = scope.get("client")
            host = peer[0] if peer else None
            found = self.client(host, scope["headers"])
            if found != host:
                scope["client"] = None if found is None else (found, 0)

    def recorded(self, scope: MutableMapping[str, Any]) -> bytes | None:
        """What the event of a request says of its client, whose scope is settled; None: nothing."""
        peer = scope.get("client")
        return plain(peer[0]).encode() if peer and self._record else None

    def met(self, peer: object) -> tuple[str | None, bytes | None, bool]:
        """Of the peer of a transport: its address, what events say of it, whether it is trusted."""
        host = str(peer[0]) if isinstance(peer, tuple) and peer else None
        said = plain(host).encode() if host is not None and self._record else None
        return host, said, self._record and self.trusts(host)

    def behind(self, host: str | None, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """What events say of the client behind a trusted peer."""
        found = self.client(host, headers)
        return None if found is None else found.encode()


@lru_cache(maxsize=4096)
def plain(host: str) -> str:
    """An address in its shortest form: no zone, IPv4 where IPv6 only wraps it.

    What a server calls a peer without an address is kept if it is a plain name.
    """
    address = _address(host)
    if address is None:
        return host if _NAME.fullmatch(host) else "unknown"
    return str(address)


def network(text: str) -> None:
    """Raises ValueError unless the text is ``unix``, an address or a network."""
    if text == UNIX:
        return
    found = ip_network(text, strict=True)
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(f"{text} is an IPv4 network; write it as one")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _hop(text: str) -> str | None:
    """The address in one element, with or without brackets and port; None if there is none."""
    host, port = text, ""
    if text.startswith("["):
        host, end, port = text[1:].partition("]")
        if not end or ":" not in host or port[:1] not in ("", ":"):
            return None
        port = port[1:] if port else ""
        if text.endswith(":"):
            return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            return None
    if (port and not _PORT.fullmatch(port)) or not host.isascii():
        return None
    address = _address(host)
    return None if address is None else str(address)


def _elements(text: str) -> list[str]:
    """The last elements of a list of RFC 7239, the last first.

    Read from the right: a quote that a client left open must not swallow what a proxy added.
    """
    found: list[str] = []
    end, quoted = len(text), False
    for at in range(len(text) - 1, -2, -1):
        sign = text[at] if at >= 0 else ","
        if sign == '"':
            before = text[:at] if text[at - 1 : at] == "\\" else ""
            escaped = (len(before) - len(before.rstrip("\\"))) % 2
            quoted = quoted if quoted and escaped else not quoted
        elif sign == "," and (not quoted or at < 0):
            if element := text[at + 1 : end].strip():
                found.append(element)
            end = at
        if len(found) == MOST_HOPS or end - at > MOST_ELEMENT:
            break
    return found


def _for(element: str) -> str:
    """The ``for`` of one element of a Forwarded header, unquoted; ``unknown`` without one."""
    found = _FOR.findall(element)
    if len(found) != 1:
        return "unknown"
    value: str = found[0]
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return value.strip() or "unknown"
