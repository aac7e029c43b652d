"""nginx as a plain reverse proxy: one worker, keep-alive to the provider, no access log."""

from __future__ import annotations

import os
import pwd

from benchmarks.peers.peer import Peer, by_hand, debian, main, said
from benchmarks.processes import BenchError, children

# Bodies of both sizes stay in memory; whole answers are buffered as by default, streams are not.
CONFIG = """{user}
worker_processes 1;
worker_rlimit_nofile 16384;
daemon off;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
  client_max_body_size 64m;
  client_body_buffer_size 256k;
  keepalive_requests 100000000;
{http}
}}
"""
PROXY = """  upstream provider {{
    server {upstream};
    keepalive 64;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header connection "";
    location /whole/ {{ proxy_pass http://provider/; }}
    location /stream/ {{ proxy_pass http://provider/; proxy_buffering off; }}
  }}"""


def configuration(prefix: str, http: str) -> str:
    """A whole configuration file that keeps everything it writes under ``prefix``."""
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    return CONFIG.format(user=user, prefix=prefix, http=http)


class Nginx(Peer):
    """nginx, Debian's package."""

    name = "nginx"
    whole = "/whole/v1/messages"
    stream = "/stream/v1/messages"

    @classmethod
    def find(cls) -> str | None:
        """The program, None if it is not installed."""
        return debian("nginx")

    @classmethod
    def version(cls) -> str | None:
        """What ``nginx -v`` says."""
        program = cls.find()
        return said([program, "-v"], r"nginx/(\S+)") if program else None

    @classmethod
    def install(cls) -> None:
        """Needs root."""
        by_hand("nginx-light")

    def command(self, program: str) -> list[str]:
        """Writes nginx.conf."""
        config = self.folder / "nginx.conf"
        http = PROXY.format(upstream=self.upstream, port=self.port)
        config.write_text(configuration(str(self.folder), http))
        return [program, "-p", str(self.folder), "-c", str(config)]

    def worker(self, pid: int) -> int:
        """The master's only child."""
        for child in children(pid):
            return child
        raise BenchError("nginx has no worker")


if __name__ == "__main__":
    main(Nginx)
