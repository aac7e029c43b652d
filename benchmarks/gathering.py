"""Thousands of streams at the same time, through the gateway and through nginx: what they take."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.cases import Case, small
from benchmarks.crowd import BEGIN_PER_S, DRAIN_S, Outcome, Plan
from benchmarks.lineup import Lineup
from benchmarks.load import Target
from benchmarks.peers.nginx import Nginx
from benchmarks.processes import Server, Window, finish, resident_bytes
from benchmarks.stage import Stage

PER_S = 20  # events of a stream, as ``benchmarks.pacer`` sends them
SAMPLE_S = 0.25


class Pacing:
    """``benchmarks.pacer`` on the load core; like ``Mock``."""

    def __init__(self, chunks: int, folder: Path, core: int) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "benchmarks.pacer", str(chunks)]
        self._server = Server("pacer", command, folder, core)
        try:
            port = int(self._server.await_output(r"port (\d+)"))
        except BaseException:
            self.stop()
            raise
        self.url = f"http://127.0.0.1:{port}"
        path, pids = "/v1/messages", {"pacer": self._server.pid}
        self.target = Target("direct", "127.0.0.1", port, path, path, pids)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()


class Memory:
    """The most resident memory of a process while a block runs, and what it had before."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over = pid, threading.Event()
        self.before = self.most = resident_bytes(pid)
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.most = max(self.most, resident_bytes(self._pid))


def gathered(stage: Stage, streams: int, seconds: float) -> Iterator[tuple[str, dict[str, float]]]:
    """The figures of each target by name; all streams are open together for ``seconds``."""
    chunks = round((seconds + streams / BEGIN_PER_S) * PER_S)
    folder = stage.folder / "crowd"
    provider = Pacing(chunks, folder, stage.cores.load)
    peers = [Nginx] if Nginx.find() else []
    lineup = Lineup(provider, folder, stage.cores, peers)
    try:
        for target in lineup.targets():
            yield target.name, _figures(stage, target, streams, chunks)
    finally:
        lineup.close()


def _figures(stage: Stage, target: Target, streams: int, chunks: int) -> dict[str, float]:
    plan = Plan(
        host=target.host, port=target.port, streams=streams, chunks=chunks,
        message=target.message(Case("crowd", small(True), True)),
    )  # fmt: skip
    path = stage.folder / f"crowd-{target.name}.json"
    path.write_bytes(msgspec.json.encode(plan))
    patience = streams / BEGIN_PER_S + chunks / PER_S + 2 * DRAIN_S
    pid = target.pids[target.main]
    window = Window({"main": pid})
    with Memory(pid) as memory:
        command = [sys.executable, "-m", "benchmarks.crowd", str(path)]
        outcome = msgspec.json.decode(finish(command, stage.cores.load, patience), type=Outcome)
    wall, used = window.close()
    if outcome.whole != streams:
        stage.errors.append(
            f"{target.name}: {streams - outcome.whole} of {streams} streams were not whole, "
            f"{outcome.lost} events were lost"
        )
    return {
        "streams": float(streams),
        "whole": float(outcome.whole),
        "lost": float(outcome.lost),
        "events_rps": outcome.events / outcome.seconds,
        "cpu_us": used["main"].total / streams / 1e3,
        "event_us": used["main"].total / max(outcome.events, 1) / 1e3,
        "busy_share": used["main"].total / wall,
        "waited_share": used["main"].waited / wall,
        "stream_kb": (memory.most - memory.before) / streams / 1e3,
        "resident_mb": memory.most / 1e6,
        "chunk_p50_us": outcome.delay.p50,
        "chunk_p99_us": outcome.delay.p99,
    }
