"""Portkey's open gateway: one Node.js process; provider and address come with each request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.peers.peer import Peer, cache, main, place

VERSION = "1.15.2"
# With a later server than this a fresh install cannot stream ("TypeError: immutable").
SERVER = "1.3.3"
MANIFEST = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": VERSION},
    "overrides": {"@hono/node-server": SERVER},
}


class Portkey(Peer):
    """Portkey, from npm."""

    name = "portkey"
    heavy = True
    patience = 60.0

    @classmethod
    def _package(cls) -> Path:
        return cache() / "portkey" / "node_modules" / "@portkey-ai" / "gateway"

    @classmethod
    def find(cls) -> str | None:
        """Node.js, None if it or the gateway is not installed."""
        return shutil.which("node") if (cls._package() / "build").exists() else None

    @classmethod
    def version(cls) -> str | None:
        """The package's version."""
        if cls.find() is None:
            return None
        return str(json.loads((cls._package() / "package.json").read_text())["version"])

    @classmethod
    def install(cls) -> None:
        """About 25 MB; needs Node.js and npm."""
        write = "import json,sys; open('package.json','w').write(sys.argv[1])"
        place("portkey", [["python3", "-c", write, json.dumps(MANIFEST)],
                          ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"],
                          ])  # fmt: skip

    def command(self, program: str) -> list[str]:
        """Without its console."""
        start = self._package() / "build" / "start-server.js"
        return [program, str(start), f"--port={self.port}", "--headless"]

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Who the provider is and where it lives."""
        return (
            ("x-portkey-provider", "anthropic"),
            ("x-portkey-custom-host", f"http://{self.upstream}/v1"),
            ("x-api-key", "sk-ant-not-a-real-key"),
        )

    def variables(self) -> dict[str, str]:
        """As in production; its guard against local addresses must let ours through."""
        return {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}


if __name__ == "__main__":
    main(Portkey)
