"""What all peers have in common: how they are found, installed and started before a provider."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.answer import await_answer
from benchmarks.load import Target
from benchmarks.processes import START_S, BenchError, Cores, Server, free_port

PATIENCE_S = 900


class Peer:
    """A proxy that runs before ``upstream`` (host:port), all of it on ``core``.

    A peer's own file says what is different: where its program is, how it is configured, which
    paths and headers it wants, which of its processes does the work. ``heavy`` ones start slowly
    and need much CPU: they are measured last, one after another, and only in a full run.
    """

    name: ClassVar[str]
    heavy: ClassVar[bool] = False
    patience: ClassVar[float] = START_S
    whole: ClassVar[str] = "/v1/messages"
    stream: ClassVar[str] = "/v1/messages"

    def __init__(self, upstream: str, folder: Path, core: int | None) -> None:
        self.upstream, self.port = upstream, free_port()
        self.folder = folder / self.name
        self.folder.mkdir(parents=True)
        if (program := self.find()) is None:
            raise BenchError(f"{self.name} is not installed")
        began = time.monotonic()
        self._server = Server(self.name, self.command(program), self.folder, core, self.variables())
        self.target = Target(
            self.name, "127.0.0.1", self.port, self.whole, self.stream,
            {"worker": self._server.pid}, self.headers(),
        )  # fmt: skip
        try:
            await_answer(self.target, self.patience, self._check, patient=self.heavy)
            self.start_s = time.monotonic() - began  # until the first answer
            self.target.pids["worker"] = self.worker(self._server.pid)
        except BaseException:
            self.stop()
            raise

    @classmethod
    def find(cls) -> str | None:
        """The program, None if it is not installed."""
        raise NotImplementedError

    @classmethod
    def version(cls) -> str | None:
        """Its version, None if it is not installed."""
        raise NotImplementedError

    @classmethod
    def install(cls) -> None:
        """Installs it from a public registry; BenchError when that fails or needs root."""
        raise NotImplementedError

    def command(self, program: str) -> list[str]:
        """Writes the configuration into ``folder``; what to run."""
        raise NotImplementedError

    def variables(self) -> dict[str, str]:
        """Environment variables it wants."""
        return {}

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Request headers it wants beside those of the case."""
        return ()

    def worker(self, pid: int) -> int:
        """The process that does the work, of the one that was started."""
        return pid

    def _check(self) -> None:
        self._server.check()

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()


def debian(program: str) -> str | None:
    """A system program's path; daemons are often outside of a user's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def by_hand(package: str) -> None:
    """A Debian package is the machine's matter: says how to get it."""
    raise BenchError(f"install Debian's package as root: apt-get install {package}")


def said(command: Sequence[str], pattern: str) -> str | None:
    """The first group of ``pattern`` in what a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else None


def cache() -> Path:
    """Where peers are installed: BIFROST_BENCH_CACHE, else a folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = os.environ.get("BIFROST_BENCH_CACHE") or f"{home}/bifrost-bench"
    return Path(chosen).expanduser().absolute()


def place(folder: str, commands: Sequence[Sequence[str]]) -> None:
    """Runs installers in a fresh folder that becomes ``folder`` of the cache when all is well.

    ``{}`` in an argument stands for the fresh folder. A virtual environment cannot be moved, so
    its programs are run as ``python -m`` or by their path inside it.
    """
    target = cache() / folder
    cache().mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder}-", dir=cache()))
    try:
        for command in commands:
            done = subprocess.run(
                [argument.replace("{}", str(fresh)) for argument in command],
                cwd=fresh, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            )  # fmt: skip
            if done.returncode:
                raise BenchError(
                    f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
                )
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        raise BenchError(f"{folder} could not be installed: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def main(kind: type[Peer], arguments: Sequence[str] | None = None) -> None:
    """The command line of one peer's script."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.peers.{kind.name}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="from a public registry into a cache folder")
    start = commands.add_parser("start", help="runs it until it is interrupted")
    start.add_argument("--upstream", required=True, help="host:port of the provider")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "install":
            kind.install()
            print(f"{kind.name} {kind.version()}: {kind.find()}")
            return
        with tempfile.TemporaryDirectory(prefix="bifrost-peer-") as folder:
            running = kind(asked.upstream, Path(folder), Cores.allowed().proxy)
            print(f"http://127.0.0.1:{running.port}{running.whole}", flush=True)
            try:
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
            finally:
                running.stop()
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
