"""Succession: a supervisor replaces its own program without closing its socket.

``SIGUSR2`` (or ``bifrost reload --restart``) executes the installed program anew in the same
process: the pid, the listening socket and the children stay. The successor starts its own workers
on the socket, then tells the old ones to finish their streams and go.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from bifrost.errors import NotFound

log = logging.getLogger("bifrost.supervisor")
VARIABLE = "BIFROST_INHERITANCE"
CHECK_S = 60.0


class Inheritance(msgspec.Struct):
    """What the last program of this process left: its socket and its children."""

    socket: int
    workers: list[int]
    stewards: list[int]
    mock_url: str | None = None
    mock_pid: int = 0


def inherited() -> Inheritance | None:
    """The inheritance of this process, taken once; None at a first start."""
    left = os.environ.pop(VARIABLE, None)
    if left is None:
        return None
    return msgspec.json.decode(left, type=Inheritance)


def heirloom(left: Inheritance) -> socket.socket:
    """The inherited listening socket."""
    sock = socket.socket(fileno=left.socket)
    sock.set_inheritable(True)
    return sock


def sound(source: Path | None) -> bool:
    """Whether the installed program starts at all and takes the configuration; logs if not."""
    command = [sys.executable, "-m", "bifrost"]
    command += ["config", "check", str(source)] if source is not None else ["--version"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHECK_S, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("not restarted: the program cannot be run", extra={"error": str(error)})
        return False
    if done.returncode:
        log.error("not restarted: %s", (done.stderr or done.stdout).strip()[-400:])
    return done.returncode == 0


def hand_over(left: Inheritance) -> NoReturn:
    """Becomes the installed program; raises OSError when that cannot be executed.

    The caller holds signals back: those that come meanwhile wait for the successor's handlers.
    """
    os.environ[VARIABLE] = msgspec.json.encode(left).decode()
    os.set_inheritable(left.socket, True)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    finally:  # only reached when it failed
        del os.environ[VARIABLE]


def send(pids: list[int], number: signal.Signals) -> None:
    """Signals those of the old program's children that still live."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def reap(pids: list[int]) -> list[int]:
    """Those of the old children that still live; the others are taken from the process table."""
    living = []
    for pid in pids:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                living.append(pid)
        except ChildProcessError:
            pass
    return living


def note_pid(data_dir: Path) -> None:
    """Writes down who supervises a data directory, for ``bifrost reload``."""
    path = data_dir / "supervisor.json"
    path.write_text(json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}))


def supervisor_pid(data_dir: Path) -> int:
    """The supervisor that runs on a data directory; raises NotFound when none does."""
    try:
        known = json.loads((data_dir / "supervisor.json").read_text())
        pid = int(known["pid"])
        if not known["started"] or known["started"] != _started(pid):
            raise ProcessLookupError
    except (OSError, ValueError, KeyError, TypeError):
        raise NotFound(f"No gateway runs on {data_dir}; start one with `bifrost serve`.") from None
    return pid


def _started(pid: int) -> str:
    """When a process began, as the system counts: tells it from a later one of the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
