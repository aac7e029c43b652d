"""Repricing: what the requests in the log would have cost under another price table.

Reads and changes nothing. A request whose cost cannot be computed again from its event, exactly,
is left out and named: one the other table has no price for, one charged by its reservation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from bifrost.audit import events
from bifrost.audit.events import Event, ModelAccess, Reconciled
from bifrost.audit.log import Reader
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.prices import Price
from bifrost.metering.usage import Iteration, Usage

BATCH = 4_096
MOST = 1 << 62  # nano-USD; where the desk caps a cost
UNPRICED = "no price in that table"
RESERVED = "charged by its reservation"
RECONCILED = "true cost booked by hand"
UNLISTED = "too many samplings to be recorded"
DIFFERENT = "its record does not give its cost"
REASONS = (UNPRICED, RESERVED, RECONCILED, UNLISTED, DIFFERENT)


class Sums(msgspec.Struct, kw_only=True):
    """Requests of one group. ``left_out`` of them, which cost ``left_cost``, are in no other sum.

    Costs are nano-USD: ``cost`` as booked, ``repriced`` under the other table.
    """

    requests: int = 0
    cost: int = 0
    repriced: int = 0
    left_out: int = 0
    left_cost: int = 0


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that could not be repriced, of one model and for one reason."""

    reason: str
    provider: str
    model: str
    requests: int
    cost: int


class Repriced(msgspec.Struct, frozen=True, kw_only=True):
    """The result. ``unproven`` requests were billed by a table that is not kept, so that nobody
    could see whether their record gives their cost."""

    rows: list[tuple[tuple[str, ...], Sums]]
    total: Sums
    left_out: list[LeftOut]
    unproven: int


class Repricer:
    """Sums up events under one catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        by: Sequence[str],
        names: Mapping[str, str],
        then: Callable[[str], Catalogue | None],
    ) -> None:
        """``by``: groups of the usage view; ``names`` by id; ``then(digest)``: the table an event
        names, None if it is not kept."""
        self._catalogue = catalogue
        self._by = tuple(by)
        self._names = names
        self._then = then
        self._tables: dict[str, Catalogue | None] = {}
        self._rows: dict[tuple[str, ...], Sums] = {}
        self._left: dict[tuple[str, str, str], Sums] = {}
        self._unproven = 0

    def take(self, found: Iterable[Event], since_ns: int, until_ns: int) -> None:
        """Adds what was booked in a window of time."""
        for event in found:
            if isinstance(event, ModelAccess | Reconciled) and since_ns <= event.at < until_ns:
                if isinstance(event, Reconciled):
                    self._leave_out(event, RECONCILED, 0)
                elif event.outcome != "refused":
                    self._model(event)

    def result(self) -> Repriced:
        """What was found so far, dearest first."""
        total = Sums()
        for sums in self._rows.values():
            for field in Sums.__struct_fields__:
                setattr(total, field, getattr(total, field) + getattr(sums, field))
        left = [
            LeftOut(reason=reason, provider=provider, model=model, requests=sums.left_out,
                    cost=sums.left_cost)
            for (reason, provider, model), sums in self._left.items()
        ]  # fmt: skip
        left.sort(key=lambda one: (REASONS.index(one.reason), one.provider, one.model))
        rows = sorted(self._rows.items(), key=lambda row: (-row[1].cost - row[1].left_cost, row[0]))
        return Repriced(rows=rows, total=total, left_out=left, unproven=self._unproven)

    def _model(self, event: ModelAccess) -> None:
        if event.source == "reserved":
            self._leave_out(event, RESERVED, 1)
            return
        if event.unlisted:
            self._leave_out(event, UNLISTED, 1)
            return
        used = used_of(event)
        cost = 0
        if used is not None:
            then = self._table(event.prices)
            if then is None:
                self._unproven += 1
            elif charge(event, used, then) != event.cost:
                self._leave_out(event, DIFFERENT, 1)
                return
            now = charge(event, used, self._catalogue)
            if now is None:
                self._leave_out(event, UNPRICED, 1)
                return
            cost = now
        sums = self._row(event)
        sums.requests += 1
        sums.cost += event.cost
        sums.repriced += cost

    def _leave_out(self, event: ModelAccess | Reconciled, reason: str, requests: int) -> None:
        priced = event.priced if isinstance(event, ModelAccess) else None
        key = reason, event.provider or "-", priced or event.model or "-"
        for sums in (self._row(event), self._left.setdefault(key, Sums())):
            sums.left_out += requests
            sums.left_cost += event.cost

    def _row(self, event: ModelAccess | Reconciled) -> Sums:
        key = tuple(self._name(getattr(event, group)) for group in self._by)
        return self._rows.setdefault(key, Sums())

    def _name(self, identifier: str | None) -> str:
        return self._names.get(identifier, identifier) if identifier else "-"

    def _table(self, digest: str | None) -> Catalogue | None:
        if digest is None:
            return None
        if digest not in self._tables:
            self._tables[digest] = self._then(digest)
        return self._tables[digest]


def used_of(event: ModelAccess) -> Usage | None:
    """What an event says was used, None if nothing was and nothing was charged."""
    usage = Usage(
        in_fresh=event.in_fresh, in_cache_read=event.in_cache_read, in_cache_w5m=event.in_cache_w5m,
        in_cache_w1h=event.in_cache_w1h, in_tool=event.in_tool, out_text=event.out_text,
        out_think=event.out_think, web_searches=event.web_searches, tier=event.tier,
        speed=event.speed, geo=event.geo,
        iterations=tuple(
            Iteration(**msgspec.structs.asdict(one)) for one in event.samplings
        ),
    )  # fmt: skip
    tokens = usage.input_tokens + usage.output_tokens + usage.web_searches
    return usage if tokens or usage.iterations or event.cost else None


def charge(event: ModelAccess, usage: Usage, catalogue: Catalogue) -> int | None:
    """Nano-USD of a request under a catalogue, None when that has no price for its model."""
    provider = event.provider or ""
    kind, model = event.provider_type or provider, event.priced or event.model or ""
    price: Price | None = catalogue.price(kind, model, name=provider)
    if price is None:
        return None
    return min(catalogue.cost(kind, usage, price, name=provider), MOST)


def reprice(
    data_dir: Path,
    repricer: Repricer,
    since_ns: int,
    until_ns: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Repriced:
    """Reads the whole log; ``progress`` is told how many entries were read. Raises StoreError."""
    for batch in _batches(Reader(data_dir)):
        repricer.take(_decoded(batch), since_ns, until_ns)
        progress(len(batch))
    return repricer.result()


def _batches(reader: Reader) -> Iterator[list[tuple[int, bytes]]]:
    position = reader.oldest()
    while batch := reader.read(position, BATCH):
        position += len(batch)
        yield batch


def _decoded(batch: list[tuple[int, bytes]]) -> Iterator[Event]:
    for _, raw in batch:
        try:
            yield events.decode(raw)
        except msgspec.DecodeError:
            continue  # the steward has logged it
