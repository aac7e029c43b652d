"""The peer beside the gateway: nginx as a plain reverse proxy, one worker, its own temp prefix."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.load import Target
from benchmarks.processes import START_S, BenchError, Server, children

# Bodies of both sizes stay in memory; whole answers are buffered as by default, streams are not.
CONFIG = """{user}
worker_processes 1;
daemon off;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 1024; }}
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
  upstream mock {{
    server {upstream};
    keepalive 64;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    proxy_http_version 1.1;
    proxy_set_header connection "";
    location /whole/ {{ proxy_pass http://mock/; }}
    location /stream/ {{ proxy_pass http://mock/; proxy_buffering off; }}
  }}
}}
"""


def find() -> str | None:
    """The nginx program, None if it is not installed."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def version() -> str | None:
    """What ``nginx -v`` says."""
    if (program := find()) is None:
        return None
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False)
    return done.stderr.strip().removeprefix("nginx version: ")


class Nginx:
    """A running nginx in front of ``upstream`` (host:port), all of it on ``core``."""

    def __init__(self, program: str, upstream: str, folder: Path, core: int) -> None:
        prefix = folder / "nginx"
        prefix.mkdir()
        port = _free_port()
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        config = prefix / "nginx.conf"
        config.write_text(CONFIG.format(user=user, prefix=prefix, upstream=upstream, port=port))
        self._server = Server(
            "nginx", [program, "-p", str(prefix), "-c", str(config)], prefix, core
        )
        try:
            self._await(port)
            worker = children(self._server.pid)[0]
        except BaseException:
            self.stop()
            raise
        self.target = Target(
            "nginx", "127.0.0.1", port, "/whole/v1/messages", "/stream/v1/messages",
            {"worker": worker},
        )  # fmt: skip

    def _await(self, port: int) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._server.check()
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    if children(self._server.pid):
                        return
            except OSError:
                time.sleep(0.02)
        raise BenchError(f"nginx did not start:\n{self._server.tail()}")

    def stop(self) -> None:
        """Ends nginx."""
        self._server.stop()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
