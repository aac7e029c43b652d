"""Processes of a benchmark: started on one core, read through the kernel, ended by their id."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
START_S = 30.0
STOP_S = 10.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(RuntimeError):
    """A benchmark that cannot be run as asked; the text says why."""


class Cores(msgspec.Struct, frozen=True):
    """Where things run: the proxy under test alone on one core, everything else on the other."""

    proxy: int
    load: int

    @classmethod
    def allowed(cls) -> Cores:
        """The first two cores this process may use; the same one twice if there is only one."""
        found = sorted(os.sched_getaffinity(0))
        return cls(found[0], found[min(1, len(found) - 1)])


def environment() -> dict[str, str]:
    """This process's environment without anything that configures a gateway, client or proxy."""
    drop = ("ANTHROPIC_", "BIFROST_", "CLAUDE_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _settle_in(core: int | None) -> None:
    """In the child before it runs: its core (None: any), and an end with its parent."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if core is not None:
        os.sched_setaffinity(0, {core})


class Server:
    """A command that serves until ``stop``; its output goes to ``<folder>/<name>.log``."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        core: int | None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(), **(variables or {})},
                cwd=folder,
                start_new_session=True,
                preexec_fn=functools.partial(_settle_in, core),
            )
        self.pid = self._process.pid

    def await_output(self, pattern: str) -> str:
        """The first group of ``pattern`` once it is in the log; BenchError after 30 s or an end."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.log.read_text("utf-8", "replace")):
                return found[1]
            self.check()
            time.sleep(0.02)
        raise BenchError(f"{self.name} did not start:\n{self.tail()}")

    def check(self) -> None:
        """Raises BenchError if the process has ended."""
        if (code := self._process.poll()) is not None:
            raise BenchError(f"{self.name} ended with {code}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-20:])

    def kill(self) -> None:
        """Ends the process and its children at once, as kill -9 of all of them would."""
        family = [self.pid, *children(self.pid)]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ends the process: politely, then not."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def finish(arguments: Sequence[str], core: int, seconds: float, **variables: str) -> str:
    """Runs a command to its end on ``core`` and returns its output.

    Raises BenchError when it fails or takes longer than ``seconds``.
    """
    try:
        done = subprocess.run(
            list(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**environment(), **variables},
            cwd=ROOT,
            timeout=seconds,
            start_new_session=True,
            preexec_fn=functools.partial(_settle_in, core),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{arguments[0]} took longer than {seconds:.0f} s") from error
    if done.returncode:
        raise BenchError(f"{arguments[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def children(pid: int) -> list[int]:
    """Ids of the processes whose parent is ``pid``, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = _stat(int(entry.name))
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append((int(fields[19]), int(entry.name)))
    return [child for _, child in sorted(found)]


def has_event_loop(pid: int) -> bool:
    """Whether the process holds an epoll descriptor (a gateway's worker does, its steward not)."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry) == "anon_inode:[eventpoll]":
                return True
        except OSError:
            continue
    return False


def pin(pid: int, core: int) -> None:
    """Moves all threads of a process to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def resident_bytes(pid: int) -> int:
    """The process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def _stat(pid: int) -> list[str]:
    """``/proc/PID/stat`` from its third field on: the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Usage(msgspec.Struct, frozen=True):
    """What a process used over a window of time; nanoseconds of one core.

    ``total`` is exact (the kernel's CPU clock of the process); ``user`` is its share by the
    kernel's 10 ms ticks; ``waited`` is time it was ready but its core was taken.
    """

    total: int = 0
    user: int = 0
    waited: int = 0


class Reading(msgspec.Struct, frozen=True):
    """The counters of one process at one moment."""

    total: int
    user_ticks: int
    system_ticks: int
    waited: int

    @classmethod
    def of(cls, pid: int) -> Reading:
        """Reads now; BenchError if the process is gone."""
        clock = ctypes.c_int()
        if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
            raise BenchError(f"process {pid} ended during the run")
        fields = _stat(pid)
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        return cls(time.clock_gettime_ns(clock.value), int(fields[11]), int(fields[12]), waited)

    def until(self, later: Reading) -> Usage:
        """What was used between this reading and a later one."""
        total = later.total - self.total
        user = later.user_ticks - self.user_ticks
        ticks = user + later.system_ticks - self.system_ticks
        share = user / ticks if ticks else 1.0
        return Usage(total, round(total * share), later.waited - self.waited)


class Window:
    """CPU accounting of named processes from its making to ``close``."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began = time.monotonic_ns()
        self._readings = {name: Reading.of(pid) for name, pid in self._pids.items()}

    def close(self) -> tuple[int, dict[str, Usage]]:
        """Wall time in ns and what each process used."""
        used = {name: self._readings[name].until(Reading.of(p)) for name, p in self._pids.items()}
        return time.monotonic_ns() - self._began, used
