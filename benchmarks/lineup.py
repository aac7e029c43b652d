"""A lineup: one provider and the proxies before it, all running at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from benchmarks.gateway import Gateway
from benchmarks.load import Target
from benchmarks.peers.peer import Peer
from benchmarks.processes import Cores


class Provider(Protocol):
    """Where the proxies of a lineup lead to."""

    url: str
    target: Target

    def stop(self) -> None:
        """Ends it."""


class Lineup:
    """Takes over ``provider``; on ``close`` all of it is ended."""

    def __init__(
        self, provider: Provider, folder: Path, cores: Cores, peers: Sequence[type[Peer]]
    ) -> None:
        self._stack = ExitStack()
        self._stack.callback(provider.stop)
        self.provider = provider
        try:
            self.gateway = Gateway(folder / "gateway", provider.url, cores)
            self._stack.callback(self.gateway.stop)
            upstream = provider.url.removeprefix("http://")
            self.peers: list[Peer] = []
            for kind in peers:
                self.peers.append(kind(upstream, folder, cores.proxy))
                self._stack.callback(self.peers[-1].stop)
        except BaseException:
            self.close()
            raise

    def proxies(self, *names: str) -> list[Target]:
        """The gateway, then its peers; only those named if any are."""
        found = [self.gateway.target, *(peer.target for peer in self.peers)]
        return [target for target in found if not names or target.name in names]

    def targets(self, *names: str) -> list[Target]:
        """The provider itself, then the proxies before it."""
        return [self.provider.target, *self.proxies(*names)]

    def close(self) -> None:
        """Ends all."""
        self._stack.close()
