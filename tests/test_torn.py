"""The last batch torn at every byte: recovered, verified, nothing lost, and the books agree."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.embedding import Gateway
from bifrost.governance.budgets import budget_window
from bifrost.governance.entities import id_number
from bifrost.recorder import Recorder
from bifrost.steward import Steward
from tests.evidence import examined
from tests.running import bearer, configuration, message

KINDS = ("virtual_key", "user", "team", "customer")
BODY = json.dumps(message()).encode()


class Remembering:
    """A gate whose outbox forgets nothing, as if the writer died before it could."""

    def __init__(self, gate: Any) -> None:
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gate, name)

    def forget(self, upto: int) -> None:
        pass


def spend(gateway: Gateway, *tokens: int) -> None:
    for count in tokens:
        ticket = gateway.admit(bearer(), body=BODY)
        gateway.settle(ticket, {"input_tokens": 100, "output_tokens": count})


def taken(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(data_dir: Path) -> list[bytes]:
    return [raw for _, raw in Reader(data_dir).read(0, 1000)]


def in_log(data_dir: Path) -> dict[str, int]:
    """Nano-USD by id of key, user, team and customer, from the log alone."""
    sums: dict[str, int] = {}
    for raw in entries(data_dir):
        event = events.decode(raw)
        if isinstance(event, events.ModelAccess | events.Reconciled):
            for who in (event.key, event.user, event.team, event.customer):
                sums[who or ""] = sums.get(who or "", 0) + event.cost
    return sums


def test_a_tail_torn_at_every_byte_of_the_last_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data_dir = tmp_path / "bifrost.json", tmp_path / "data"
    config.write_text(json.dumps(configuration("http://127.0.0.1:9")))
    gateway = Gateway.open(config, data_dir=data_dir, steward=False)
    core = gateway._core
    spend(gateway, 10, 20)
    steward = Steward(data_dir, core.gate, core.directory)
    steward.drain()
    steward.close()  # signs
    folder = data_dir / "audit"
    before, acknowledged = taken(folder), entries(data_dir)
    spend(gateway, 30, 40)
    gate: Any = Remembering(core.gate)
    assert Recorder(data_dir, lambda: gate)._flush(gate)
    [segment] = folder.glob("*.log")
    whole, expected = segment.read_bytes(), entries(data_dir)
    assert expected[: len(acknowledged)] == acknowledged and len(expected) == len(acknowledged) + 2
    for flush in ("fsync", "fdatasync"):  # thousands of times; what lasts is not asked here
        monkeypatch.setattr(os, flush, lambda _: None)
    for cut in range(len(before[segment]), len(whole) + 1):
        for torn in (whole[:cut], whole[:cut] + bytes(len(whole) - cut)):
            for path, content in before.items():
                path.write_bytes(content)
            segment.write_bytes(torn)
            recorder = Recorder(data_dir, lambda: gate)
            assert recorder._flush(gate)
            recorder.close()
            assert entries(data_dir) == expected, f"cut at {cut}"
    monkeypatch.undo()
    steward = Steward(data_dir, core.gate, core.directory)
    steward.drain()
    steward.close()
    assert examined(folder).intact and entries(data_dir) == expected
    sums = in_log(data_dir)
    for kind in KINDS:
        [entity] = core.directory.all(kind)  # type: ignore[arg-type]
        [budget] = entity.budgets
        start = budget_window(budget, time.time_ns())[0]
        settled, reserved, *_ = core.gate.counters([(id_number(budget.id), start)])[0]
        assert (settled, reserved) == (sums[entity.id], 0) and settled > 0
    gateway.close()
