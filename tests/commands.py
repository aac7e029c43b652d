"""The command line in this process, and what it leaves on disk."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from bifrost.cli import main


class Done(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as data; fails when the command did."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def bifrost(*arguments: str | Path) -> Done:
    """Runs ``bifrost`` with these arguments."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["bifrost", *map(str, arguments)]
    with (
        mock.patch("sys.argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


class Office:
    """Commands on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def __call__(self, *arguments: str | Path) -> Done:
        """Runs a command on the directory."""
        return bifrost(*arguments, "--data-dir", self.data_dir)

    def json(self, *arguments: str | Path) -> Any:
        """Runs a command with ``--json`` and returns its data."""
        return self(*arguments, "--json").json


def stored(folder: Path) -> bytes:
    """Everything in the files of a folder; the holes of sparse files are left out."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            end, here = os.fstat(file.fileno()).st_size, 0
            while here < end:
                try:
                    start = os.lseek(file.fileno(), here, os.SEEK_DATA)
                except OSError:  # nothing but a hole up to the end
                    break
                here = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                found.append(os.pread(file.fileno(), here - start, start))
    return b"\n".join(found)


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits for something to become true and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
    return found
