"""An exporter in a process of its own, as `bifrost serve` has it: one that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from bifrost.audit.log import Reader
from bifrost.config.exports import Sink
from bifrost.exports import dispatch, exporter, shipment
from bifrost.exports.exporter import serve_exports
from bifrost.exports.progress import Progress

_PROCESSES = multiprocessing.get_context("spawn")


def brisk() -> None:
    """Pauses are short."""
    shipment.SHORTEST_S, exporter.POLL_S, dispatch.REST_S = 0.02, 0.02, 0.05


def garrison(data_dir: Path, sinks: Sequence[Sink], told: Path, lives: int | None) -> None:
    """Exports until SIGTERM; of ``lives`` batches that were taken the last position is not noted:
    there the process is killed. What is to be said in the audit log becomes lines of ``told``."""
    brisk()
    stop, left = threading.Event(), [lives or 1 << 30]
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    advance = Progress.advance

    def advancing(self: Progress, *given: Any, **more: Any) -> bool:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self, *given, **more)

    def tell(*what: Any) -> None:
        with told.open("ab") as file:
            file.write(msgspec.json.encode(what) + b"\n")

    Progress.advance = advancing  # type: ignore[method-assign]
    serve_exports(data_dir, lambda: sinks, tell, stop)


def patrol(data_dir: Path, sinks: Sequence[Sink]) -> None:
    """Exports what there is in this process."""
    brisk()
    stop, end = threading.Event(), Reader(data_dir).end()
    advance = Progress.advance

    def advancing(self: Progress, *given: Any, **more: Any) -> bool:
        moved = advance(self, *given, **more)
        if all(one.position == end for one in self.standings()):
            stop.set()
        return moved

    Progress.advance = advancing  # type: ignore[method-assign]
    serve_exports(data_dir, lambda: sinks, lambda *_: None, stop)


def sent_out(
    data_dir: Path, sinks: Sequence[Sink], told: Path, lives: int | None = None
) -> BaseProcess:
    """Starts one; see ``garrison``."""
    process = _PROCESSES.Process(target=garrison, args=(data_dir, tuple(sinks), told, lives))
    process.start()
    return process


def ended(process: BaseProcess, how: signal.Signals) -> None:
    """Ends it by a signal; for SIGTERM it has to leave in order."""
    assert process.pid is not None
    os.kill(process.pid, how)
    process.join(30)
    assert process.exitcode == (0 if how == signal.SIGTERM else -how)
    process.close()
