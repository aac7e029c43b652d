"""Work on a log that is killed at any one of its steps: a process for each, ended by SIGKILL.

``scythe.c`` counts the calls that change files or speak with a peer, and ends the process at one.
A warm process is forked for each piece of work, so that hundreds of deaths take seconds.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import NamedTuple

import msgspec

from bifrost.audit import depots
from bifrost.audit.keeper import TROUBLE
from bifrost.config.evidence import AuditLogs, Retention
from tests.keeping import Keeping, Stewarding

ROOT = Path(__file__).parent.parent


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A keeper's work on the log in a data directory, until it comes to rest or to its ``fatal``
    step (0: none). ``torn``: only writes are steps, and half of the fatal one is done. ``steward``:
    a steward's whole work."""

    data_dir: str
    retention: Retention
    steward: bool = False
    fatal: int = 0
    torn: bool = False


class Reaped(NamedTuple):
    """Whether it was killed, and else how many steps it took."""

    killed: bool
    steps: int


class Reaper:
    """The warm process. Raises FileNotFoundError where there is no C compiler."""

    def __init__(self, folder: Path) -> None:
        library = folder / "scythe.so"
        compiler = (sysconfig.get_config_var("CC") or "cc").split()
        compiler[0] = shutil.which(compiler[0]) or shutil.which("cc") or compiler[0]
        source = Path(__file__).with_name("scythe.c")
        options = ["-O1", "-U_FORTIFY_SOURCE", "-Wall", "-Werror", "-fPIC", "-shared", "-ldl"]
        subprocess.run([*compiler, str(source), *options, "-o", str(library)], check=True)
        environ = os.environ | {"LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reaper"], cwd=ROOT, env=environ,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def do(self, work: Work) -> Reaped:
        """Has a piece of work done or killed; raises AssertionError if it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(work) + b"\n")
        self._process.stdin.flush()
        killed, steps, failed = msgspec.json.decode(self._process.stdout.readline())
        assert not failed, failed
        return Reaped(killed, steps)

    def close(self) -> None:
        """Ends it."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


def _doomed(work: Work, result: int) -> None:
    """Does the work, if it may; writes how many steps that were, or why it failed."""
    scythe = ctypes.CDLL(None)
    place = Path(work.data_dir)
    try:
        depots.remember(AuditLogs(retention=work.retention), place / "audit")
        scythe.scythe_set(ctypes.c_long(work.fatal), ctypes.c_int(work.torn))
        if work.steward:
            Stewarding(place, work.retention).settle()
        else:
            keeping = Keeping(place, **msgspec.structs.asdict(work.retention))
            keeping.settle()
            keeping.settle()
        steps = scythe.scythe_made()
        scythe.scythe_set(ctypes.c_long(-1), ctypes.c_int(0))
        trouble = place / "audit" / TROUBLE
        failed = trouble.read_text() if trouble.exists() else ""
    except BaseException:
        scythe.scythe_set(ctypes.c_long(-1), ctypes.c_int(0))
        steps, failed = 0, traceback.format_exc()
    os.write(result, msgspec.json.encode((steps, failed)))


def _reap() -> None:
    """Reads work, forks for each, and tells what became of it."""
    for line in sys.stdin.buffer:
        work = msgspec.json.decode(line, type=Work)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            _doomed(work, write)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as told:
            steps, failed = msgspec.json.decode(told.read() or b'[0,""]')
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not killed and status:
            failed = f"it ended with status {status}"
        sys.stdout.buffer.write(msgspec.json.encode((killed, steps, failed)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _reap()
