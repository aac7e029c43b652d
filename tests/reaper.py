"""Work on a log that is killed at any one of its steps: a process for each, ended by SIGKILL.

``scythe.c`` counts the calls that change files or speak with a peer, and ends the process at one.
A warm process is forked for each piece of work, so that hundreds of deaths take seconds.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from bifrost.audit import depots
from bifrost.audit.keeper import TROUBLE
from bifrost.config.evidence import AuditLogs, Retention
from bifrost.config.exports import Sink
from bifrost.exports import targets  # noqa: F401  brought in before the forks
from tests.keeping import Keeping, Stewarding
from tests.outpost import patrol

ROOT = Path(__file__).parent.parent


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is done in a data directory until there is no more to do, or to the ``fatal`` step.

    Archiving and removing by a keeper alone, or with ``steward`` all a steward does; with ``sinks``
    exporting. ``torn``: only writes are steps, and half of the fatal one is done.
    """

    data_dir: str
    retention: Retention = Retention()
    steward: bool = False
    sinks: tuple[Sink, ...] = ()
    fatal: int = 0
    torn: bool = False


class Reaped(NamedTuple):
    """Whether it was killed, and else how many steps it took."""

    killed: bool
    steps: int


@contextmanager
def reaping(folder: Path) -> Iterator[Reaper]:
    """A reaper; skips the test loudly where there is no C compiler."""
    try:
        found = Reaper(folder)
    except FileNotFoundError:
        pytest.skip("NO C COMPILER IS HERE: KILLS BETWEEN STEPS ARE NOT TESTED")
    yield found
    found.close()


class Reaper:
    """The warm process."""

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


def _work(work: Work, place: Path) -> None:
    if work.sinks:
        patrol(place, work.sinks)
    elif work.steward:
        Stewarding(place, work.retention).settle()
    else:
        keeping = Keeping(place, **msgspec.structs.asdict(work.retention))
        keeping.settle()
        keeping.settle()


def _doomed(work: Work, result: int) -> None:
    """Does the work, if it may; writes how many steps that were, or why it failed."""
    scythe = ctypes.CDLL(None)
    place = Path(work.data_dir)
    try:
        depots.remember(AuditLogs(retention=work.retention), place / "audit")
        scythe.scythe_set(ctypes.c_long(work.fatal), ctypes.c_int(work.torn))
        _work(work, place)
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
    gc.disable()  # a child lives for a moment and copies what it touches
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
