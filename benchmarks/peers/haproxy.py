"""haproxy as a plain reverse proxy: one thread, every connection to the provider used again.

Without ``http-no-delay`` the head of a stream waits 40 ms for its first event.
"""

from __future__ import annotations

from benchmarks.peers.peer import Peer, by_hand, debian, main, said

CONFIG = """global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 10s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  option http-no-delay
frontend front
  bind 127.0.0.1:{port} backlog 4096
  default_backend provider
backend provider
  server provider {upstream}
"""


class Haproxy(Peer):
    """haproxy, Debian's package."""

    name = "haproxy"

    @classmethod
    def find(cls) -> str | None:
        """The program, None if it is not installed."""
        return debian("haproxy")

    @classmethod
    def version(cls) -> str | None:
        """What ``haproxy -v`` says."""
        program = cls.find()
        return said([program, "-v"], r"version (\S+)") if program else None

    @classmethod
    def install(cls) -> None:
        """Needs root."""
        by_hand("haproxy")

    def command(self, program: str) -> list[str]:
        """Writes haproxy.cfg."""
        config = self.folder / "haproxy.cfg"
        config.write_text(CONFIG.format(upstream=self.upstream, port=self.port))
        return [program, "-db", "-f", str(config)]


if __name__ == "__main__":
    main(Haproxy)
