"""Which peers there are, and which are installed here."""

from __future__ import annotations

from benchmarks.peers.envoy import Envoy
from benchmarks.peers.haproxy import Haproxy
from benchmarks.peers.litellm import Litellm
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.peer import Peer
from benchmarks.peers.portkey import Portkey

PEERS: tuple[type[Peer], ...] = (Nginx, Haproxy, Envoy, Litellm, Portkey)


def found(heavy: bool) -> list[type[Peer]]:
    """The installed peers, light or heavy ones."""
    return [kind for kind in PEERS if kind.heavy is heavy and kind.find() is not None]


def absent() -> list[str]:
    """The names of those that are not installed."""
    return [kind.name for kind in PEERS if kind.find() is None]


def versions() -> dict[str, str | None]:
    """What each peer says its version is."""
    return {kind.name: kind.version() for kind in PEERS}
