"""Pricing: which price table holds in a data directory, and how it changes.

Prices in the store win over the price file, the file over the catalogue of the package. Every
change is recorded before it is made; it holds for requests that are admitted afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from bifrost._fast.gate import Gate
from bifrost.audit import events, policy
from bifrost.errors import Conflict, NotFound, Stale, StoreError
from bifrost.governance.price_list import Entry, PriceList, PriceState, PriceTable
from bifrost.governance.replays import Once
from bifrost.metering.catalogue import FORMAT, Catalogue, Model, Table
from bifrost.metering.overrides import Override, narrowness, overrides, read_file

WHERE = "own prices"  # how a complaint about a stored price begins
MOST_TOLD = 50  # changes named in one event
LONGEST_TOLD = 300  # characters of one of them
MOST = 2_000  # own prices in the store; a whole list belongs into the price file


@cache
def package() -> Catalogue:
    """The catalogue of this package, without anybody's own prices."""
    return Catalogue.load()


class Pricing:
    """The prices of one data directory, for one process.

    ``gate`` takes the events of changes; without one nothing can be changed.
    """

    def __init__(self, prices: PriceList, gate: Gate | None = None) -> None:
        self._list = prices
        self._gate = gate
        self._file: dict[str, Any] | None = None

    # -- what holds ----------------------------------------------------------------------------

    def revision(self) -> int:
        """A number that rises when any process changed a price."""
        return self._list.revision()

    def publish(self, file: Path | None) -> Catalogue:
        """The catalogue under this price file (None: there is none) and the stored prices.

        It is noted as the table in use; if it differs from the one before, that is an event.
        Raises ConfigError for a bad file, StoreError when it cannot be noted.
        """
        written = read_file(file) if file is not None else {}
        own = overrides(written, str(file))
        self._file = written
        state = self._list.state()
        found = package().under(own, _stored(state))
        if state.digest != found.digest or state.file != written or not state.package:
            self._change(lambda old: msgspec.structs.replace(old, file=written))
            found = self.current()
        return found

    def current(self) -> Catalogue:
        """The catalogue as it is in use: with the file this process published, else any did."""
        state = self._list.state()
        if self._file is not None:
            state = msgspec.structs.replace(state, file=self._file)
        found = _over(package(), state)
        if self._gate is not None:
            self._list.remember(_settled(state, found), found.listing)
        return found

    def supposing(self, file: Path, *, above: bool = False) -> Catalogue:
        """The catalogue as if ``file`` were the price file, or ``above`` all that is in use."""
        state = self._list.state()
        written = read_file(file)
        own = overrides(written, str(file))
        if above:
            now = overrides(state.file, "price file")
            return package().under(now, (*own, *_stored(state)))
        return package().under(own, _stored(state))

    def catalogue(self, digest: str) -> Catalogue:
        """The catalogue that a digest (or its first digits) stands for; NotFound, Conflict."""
        table = self._list.table(digest)
        base = package()
        if table.package != base.package:
            models = msgspec.json.decode(self._list.package(table.package), type=dict[str, Model])
            base = Catalogue(
                Table(format=FORMAT, source=table.source, date=table.date, input_sha256="",
                      models=models)
            )  # fmt: skip
        return base.under(overrides(table.file, "price file"), overrides(table.store, WHERE))

    def table(self, digest: str) -> PriceTable:
        """What a digest (or its first digits) stands for, as written; NotFound, Conflict."""
        return self._list.table(digest)

    def tables(self) -> list[PriceTable]:
        """Every table that was in use, oldest first."""
        return self._list.tables()

    def file(self) -> dict[str, Any]:
        """The entries of the price file as a gateway last read it."""
        return self._list.state().file

    def state(self) -> PriceState:
        """What is in use in the data directory, read at one moment."""
        return self._list.state()

    # -- own prices ----------------------------------------------------------------------------

    def entries(self) -> tuple[Entry, ...]:
        """The stored prices in the order in which they are tried."""
        return self._list.state().entries

    def get(self, pattern: str) -> Entry:
        """The stored price of a pattern; raises NotFound."""
        return found_in(self._list.state(), pattern)

    def add(self, pattern: str, fields: Mapping[str, Any], *, once: Once | None = None) -> Entry:
        """Stores the price of a pattern that has none; Conflict if it has one, else as ``put``.

        With ``once``, whose answer is made of the state, it raises Replayed and Reused.
        """
        return found_in(self._edit({pattern: fields}, None, new=True, once=once), pattern)

    def put(self, pattern: str, fields: Mapping[str, Any], *, expect: Entry | None = None) -> Entry:
        """Stores the price of ``<provider>/<model>``, fields as in the price file.

        Who does it and why is what ``policy.acting`` says. Raises ConfigError for bad fields,
        Stale if the stored price is not ``expect`` any more, StoreError.
        """
        return found_in(self._edit({pattern: fields}, expect), pattern)

    def delete(self, pattern: str, *, expect: Entry | None = None) -> Entry:
        """Removes a stored price and returns it; raises NotFound, Stale, StoreError."""
        gone = self.get(pattern)
        self.change({pattern: None}, expect=expect)
        return gone

    def change(
        self, wanted: Mapping[str, Mapping[str, Any] | None], *, expect: Entry | None = None
    ) -> Catalogue:
        """Stores several prices (None: removes one) at once; raises as ``put`` and ``delete``."""
        return _over(package(), self._edit(wanted, expect))

    def _edit(
        self,
        wanted: Mapping[str, Mapping[str, Any] | None],
        expect: Entry | None,
        *,
        new: bool = False,
        once: Once | None = None,
    ) -> PriceState:
        """``new``: none of the patterns may have a price."""
        overrides({name: one for name, one in wanted.items() if one is not None}, WHERE)
        now = time.time_ns()

        def laid(old: PriceState) -> PriceState:
            known = {entry.pattern: entry for entry in old.entries}
            if expect is not None and known.get(expect.pattern) != expect:
                raise Stale(f"The price of {expect.pattern} was changed meanwhile; read it again.")
            for pattern, fields in wanted.items():
                if new and pattern in known:
                    raise Conflict(f"There is already a price for {pattern!r}.")
                if fields is None:
                    del known[found_in(old, pattern).pattern]
                elif pattern not in known or known[pattern].fields != fields:
                    known[pattern] = Entry(
                        pattern=pattern, fields=dict(fields), at=now, actor=policy.actor(),
                        reason=policy.reason(),
                    )  # fmt: skip
            if len(known) > MOST and len(known) > len(old.entries):
                raise Conflict(
                    f"At most {MOST:,} own prices can be stored; use patterns, or the price file."
                )
            entries = tuple(known[name] for name in sorted(known, key=narrowness))
            return msgspec.structs.replace(old, entries=entries)

        return self._change(laid, once)

    def _change(
        self, change: Callable[[PriceState], PriceState], once: Once | None = None
    ) -> PriceState:
        base = package()

        def decide(old: PriceState) -> PriceState:
            new = change(old)
            new = _settled(new, _over(base, new))
            moved = old.digest not in ("", new.digest)  # the first table of all is no change
            if moved or new.stored != old.stored:
                self._record(old, new)
            return new

        return self._list.change(decide, base.listing, once)

    def _record(self, old: PriceState, new: PriceState) -> None:
        if self._gate is None:
            raise StoreError("Prices cannot be changed while the state store is not open.")
        texts = _differences(old, new)
        if len(texts) > MOST_TOLD:
            texts = [*texts[:MOST_TOLD], f"and {len(texts) - MOST_TOLD} more"]
        now = time.time_ns()
        event = events.PriceChange(
            at=now, actor=policy.actor(), before=old.digest, digest=new.digest,
            changes=tuple(texts), reason=policy.reason(), client=policy.client(),
        )  # fmt: skip
        policy.put(self._gate, event, "The change of prices cannot be recorded, so it is not made")


def _stored(state: PriceState) -> tuple[Override, ...]:
    return overrides(state.stored, WHERE)


def _over(base: Catalogue, state: PriceState) -> Catalogue:
    return base.under(overrides(state.file, "price file"), _stored(state))


def _settled(state: PriceState, catalogue: Catalogue) -> PriceState:
    """The state with what names it."""
    return msgspec.structs.replace(
        state, digest=catalogue.digest, package=catalogue.package, source=catalogue.source,
        date=catalogue.date,
    )  # fmt: skip


def found_in(state: PriceState, pattern: str) -> Entry:
    """The own price of a pattern in a state; raises NotFound."""
    for entry in state.entries:
        if entry.pattern == pattern:
            return entry
    raise NotFound(f"No price is stored for {pattern!r}; `bifrost prices list --overrides`.")


def _differences(old: PriceState, new: PriceState) -> list[str]:
    """What became different, as short texts."""
    texts = []
    if old.package not in ("", new.package):
        texts.append(f"catalogue: {old.source} ({old.date}) -> {new.source} ({new.date})")
    for kind, before, after in (
        ("store", old.stored, new.stored),
        ("file", old.file, new.file),
    ):
        for pattern in [*before, *(name for name in after if name not in before)]:
            was, now = before.get(pattern), after.get(pattern)
            if was != now:
                texts.append(f"{kind} {pattern}: {_said(was)} -> {_said(now)}")
        kept = [name for name in before if name in after]
        if kept != [name for name in after if name in before]:
            texts.append(f"{kind}: other order")
    return [text if len(text) <= LONGEST_TOLD else text[:LONGEST_TOLD] + "..." for text in texts]


def _said(fields: Any) -> str:
    if fields is None:
        return "none"
    return ", ".join(
        f"{name} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in fields.items()
    )
