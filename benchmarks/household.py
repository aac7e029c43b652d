"""What a gateway takes by itself: the time to start, memory and CPU while nobody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.gateway import Gateway
from benchmarks.peers import roster
from benchmarks.processes import Window, resident_bytes
from benchmarks.stage import Stage

REST_S = 3.0  # after the first answer, until a gateway counts as idle


def starts(stage: Stage, name: str) -> Iterator[tuple[str, float]]:
    """Seconds from each program's start to its first answer; ours on a fresh data directory."""
    folder, url = stage.folder / name, stage.fixed.provider.url
    gateway = Gateway(folder / "gateway", url, stage.cores)
    gateway.stop()
    yield gateway.target.name, gateway.start_s
    for kind in roster.found(heavy=False):
        peer = kind(url.removeprefix("http://"), folder, stage.cores.proxy)
        peer.stop()
        yield kind.name, peer.start_s


def idle(stage: Stage, name: str, seconds: float) -> dict[str, dict[str, float]]:
    """CPU and memory by process of a gateway that answered once and is then left alone."""
    gateway = stage.fresh_gateway(name)
    try:
        time.sleep(REST_S)
        window = Window(gateway.target.pids)
        time.sleep(seconds)
        wall, used = window.close()
        return {
            process: {
                "busy_share": usage.total / wall,
                "resident_mb": resident_bytes(gateway.target.pids[process]) / 1e6,
            }
            for process, usage in used.items()
        }
    finally:
        gateway.stop()
