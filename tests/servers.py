"""Receivers of exports as other people make them, each a process of its own on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

START_S = 60.0
TRIES = 4  # a port that was free may be taken a moment later


def free_ports(count: int) -> list[int]:
    """Ports that were free just now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A process; ``ready`` says when it can be used."""

    def __init__(
        self, command: Callable[[], list[str]], ready: Callable[[], bool], log: Path, **more: Any
    ) -> None:
        for _ in range(TRIES):
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    command(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    **more,
                )  # fmt: skip
            deadline = time.monotonic() + START_S
            while self.process.poll() is None and time.monotonic() < deadline:
                if ready():
                    return
                time.sleep(0.05)
            self.close()
        raise AssertionError(f"did not start: {log.read_text(errors='replace')[-3000:]}")

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Rsyslog:
    """rsyslogd that takes RFC 5424 by TCP or TLS and writes what it understood as JSON lines."""

    def __init__(self, folder: Path, tls: tuple[Path, Path, Path] | None = None) -> None:
        """``tls``: files of the authority, the certificate and the key."""
        binary = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
        if binary is None:
            pytest.skip("rsyslogd (Debian: rsyslog) is not there: SYSLOG NOT TESTED against it")
        modules = Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so")
        if tls is not None and not any(modules):
            pytest.skip(
                "rsyslog-openssl (Debian) is not there: SYSLOG BY TLS NOT TESTED against it"
            )
        folder.mkdir(parents=True)
        self.out = folder / "out.jsonl"
        self.port = 0

        def command() -> list[str]:
            [self.port] = free_ports(1)
            config = folder / "rsyslog.conf"
            config.write_text(_configuration(folder, self.out, self.port, tls))
            return [
                binary, "-n", "-f", str(config), "-i", str(folder / "pid"), "-C",
            ]  # fmt: skip

        self.server = Server(command, lambda: listens(self.port), folder / "rsyslog.log")

    def messages(self) -> list[dict[str, Any]]:
        """What it understood."""
        if not self.out.exists():
            return []
        whole = self.out.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def close(self) -> None:
        self.server.close()


def _configuration(folder: Path, out: Path, port: int, tls: tuple[Path, Path, Path] | None) -> str:
    driver, stream = "", ""
    if tls is not None:
        driver = (
            f'DefaultNetstreamDriver="ossl" DefaultNetstreamDriverCAFile="{tls[0]}"'
            f' DefaultNetstreamDriverCertFile="{tls[1]}" DefaultNetstreamDriverKeyFile="{tls[2]}"'
        )
        stream = 'StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon"'
    return f"""
global(workDirectory="{folder}" maxMessageSize="128k" {driver})
module(load="imtcp" {stream})
template(name="seen" type="list" option.jsonf="on") {{
  property(outname="pri" name="pri" format="jsonf")
  property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="host" name="hostname" format="jsonf")
  property(outname="app" name="app-name" format="jsonf")
  property(outname="msgid" name="msgid" format="jsonf")
  property(outname="data" name="structured-data" format="jsonf")
  property(outname="version" name="protocol-version" format="jsonf")
  property(outname="msg" name="msg" format="jsonf")
}}
ruleset(name="keep") {{ action(type="omfile" file="{out}" template="seen") }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="keep")
"""


class Rotel:
    """An OpenTelemetry collector of another make; it prints the records it was sent."""

    def __init__(self, folder: Path) -> None:
        rotel = pytest.importorskip(
            "rotel", reason="rotel is not there: OTLP NOT TESTED against it"
        )
        binary = Path(rotel.__file__).with_name("rotel-agent")
        if not os.access(binary, os.X_OK):
            pytest.skip("rotel has no program for this machine: OTLP NOT TESTED against it")
        folder.mkdir(parents=True)
        self.log = folder / "rotel.log"
        self.port = 0

        def command() -> list[str]:
            self.port, grpc = free_ports(2)
            return [
                str(binary), "start", "--exporter", "blackhole", "--debug-log", "logs",
                "--debug-log-verbosity", "detailed",
                "--otlp-http-endpoint", f"127.0.0.1:{self.port}",
                "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
            ]  # fmt: skip

        self.server = Server(command, lambda: listens(self.port), self.log, cwd=folder)
        self.url = f"http://127.0.0.1:{self.port}"

    def printed(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        self.server.close()


class Osmem:
    """An OpenSearch-compatible server of another make."""

    def __init__(self) -> None:
        osmem = pytest.importorskip(
            "osmem_server",
            reason="osmem-server is not there: _bulk NOT TESTED against a real server",
        )
        self._server = osmem.OsmemServer.start(japanese=False)
        self.url: str = self._server.url

    def hits(self, index: str) -> dict[str, Any]:
        """The documents of an index by their ids."""
        httpx.post(f"{self.url}/{index}/_refresh")
        found = httpx.post(f"{self.url}/{index}/_search", json={"size": 1000}).json()
        return {one["_id"]: one["_source"] for one in found["hits"]["hits"]}

    def close(self) -> None:
        process = self._server.process
        process.stdin.close()
        process.terminate()
        process.wait(15)
        process.stdout.close()
