"""Facts: what the conditions of routing rules may ask about a call."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from bifrost._fast.gate import Gate
from bifrost.call import Call
from bifrost.governance.budgets import budget_window, limit_at
from bifrost.governance.entities import id_number
from bifrost.identify import Grant


def facts(call: Call, grant: Grant, gate: Gate, names: Iterable[str]) -> dict[str, Any]:
    """Those facts of a call, by name (``config.conditions.FACTS``)."""
    return {name: _fact(name, call, grant, gate) for name in names}


def _fact(name: str, call: Call, grant: Grant, gate: Gate) -> Any:
    scan, head = call.scan, call.head
    if name == "model":
        return scan.model or ""
    if name == "api":
        return "messages" if call.dialect is None else call.dialect.api
    if name == "stream":
        return scan.stream
    if name == "max_tokens":
        return scan.max_tokens or 0
    if name == "input_bytes":
        return len(call.body)
    if name == "headers":
        return _headers(head.forward) if head is not None else {}
    if name == "session":
        return (head.session or b"").decode("latin-1") if head is not None else ""
    if name == "budget_used":
        return _used(grant, gate)
    level = "virtual key" if name == "key" else name
    return next((entity.name for kind, entity in grant.chain if kind == level), "")


def _headers(lines: bytes) -> dict[str, str]:
    """The client's header lines that go on to a provider: no credential is among them."""
    found: dict[str, str] = {}
    for line in lines.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(": ")
        found.setdefault(name, value)
    return found


def _used(grant: Grant, gate: Gate) -> float:
    """The share of the most used budget over a key that is spent in its present window."""
    now = time.time_ns()
    budgets = [level.budget for level in grant.levels if level.budget is not None]
    cells = gate.counters([(id_number(one.id), budget_window(one, now)[0]) for one in budgets])
    limits = [limit_at(one, now)[0] for one in budgets]
    shares = (cell[0] / limit if limit else 1.0 for cell, limit in zip(cells, limits, strict=True))
    return max(shares, default=0.0)
