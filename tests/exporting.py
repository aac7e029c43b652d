"""An audit log and its exporter in this process, as two processes of the gateway have them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bifrost.audit import events
from bifrost.audit.events import Event, ModelAccess, PolicyChange
from bifrost.audit.log import Reader
from bifrost.config.exports import Sink
from bifrost.exports.exporter import enlist, serve_exports
from bifrost.exports.progress import Progress, Standing
from tests.commands import until
from tests.evidence import Scribe

PATIENCE_S = 60.0


class Told(NamedTuple):
    """What was said in the audit log."""

    action: str
    sink: str
    first: int
    count: int
    why: str


def request(number: int, **changes: Any) -> ModelAccess:
    """A request to a model; unlike others."""
    at = time.time_ns() - 1_000_000 * (1000 - number % 1000)
    given: dict[str, Any] = {
        "at": at, "request": f"req-{number}", "key": "vk_1", "user": "usr_1", "team": "team_1",
        "customer": "cus_1", "asked": "sonnet", "model": "claude-sonnet-4-5",
        "provider": "anthropic", "outcome": "ok", "status": 200, "in_fresh": 10 + number,
        "out_text": 5, "cost": 1234, "took_ns": 5_000_000, "agent": "claude-cli/2.0",
    }  # fmt: skip
    return ModelAccess(**{**given, **changes})


def change(number: int, **changes: Any) -> PolicyChange:
    """A change of a virtual key."""
    given: dict[str, Any] = {
        "at": time.time_ns(), "actor": "cli:ann", "action": "update", "kind": "virtual_key",
        "id": f"vk_{number}", "name": f"key {number}", "before": "0" * 64, "after": "1" * 64,
    }  # fmt: skip
    return PolicyChange(**{**given, **changes})


class House:
    """A data directory with a signed log, and an exporter that can be started and stopped."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.scribe = Scribe(data_dir)
        self.told: list[Told] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._seq = 0

    def write(self, *written: Event | bytes) -> int:
        """Adds entries, signs them, and returns how many there are in all."""
        raw = []
        for one in written:
            self._seq += 1
            raw.append(
                events.sequenced(one if isinstance(one, bytes) else events.encode(one), self._seq)
            )
        self.scribe.add(raw)
        self.scribe.sign()
        return self.scribe.log.next

    def requests(self, count: int, *, poison: int = -1) -> None:
        """So many requests, one of them poisoned."""
        self.write(
            *(
                request(number, session="poison" if number == poison else f"s{number}")
                for number in range(count)
            )
        )

    def _tell(self, action: str, sink: str, first: int, count: int, why: str) -> None:
        self.told.append(Told(action, sink, first, count, why))

    def start(self, *sinks: Sink) -> None:
        """Exports to these from now on."""
        assert enlist(self.data_dir, sinks, self._tell)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=serve_exports, args=(self.data_dir, lambda: sinks, self._tell, self._stop)
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops the exporter."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
            assert not self._thread.is_alive()
            self._thread = None

    def close(self) -> None:
        """Stops everything."""
        self.stop()
        self.scribe.close()

    def standing(self, name: str) -> Standing:
        """How it stands with a sink."""
        progress = Progress(self.data_dir, read_only=True)
        try:
            return progress.standing(name)
        finally:
            progress.close()

    def caught_up(self, *names: str) -> None:
        """Waits until sinks have done with the whole log."""
        end = Reader(self.data_dir).end()
        for name in names:
            until(lambda name=name: self.standing(name).position == end, PATIENCE_S)

    def dead(self, name: str) -> list[int]:
        """The indexes of a sink's dead letters."""
        progress = Progress(self.data_dir, read_only=True)
        try:
            return [one.entry for one in progress.dead(name)]
        finally:
            progress.close()

    @property
    def origin(self) -> str:
        """The log's name."""
        return (self.data_dir / "audit" / "checkpoint").read_text().split("\n")[0]

    def ids(self, indexes: Sequence[int] | range) -> set[str]:
        """The ids of these entries."""
        return {f"{self.origin}/{index}" for index in indexes}

    @property
    def entries(self) -> list[bytes]:
        """Every entry, byte for byte."""
        return [raw for _, raw in Reader(self.data_dir).read(0, 1 << 30)]
