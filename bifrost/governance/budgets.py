"""Budgets as they stand and what is done to one of them: reset, another limit for some windows.

Each act names its budget by id, is written in one transaction and works at once in every worker.
Reasons are kept in the budget itself, so whoever records the change of the entity records them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from bifrost.errors import Conflict
from bifrost.governance.directory import Directory
from bifrost.governance.entities import KINDS, Budget, Entity, Kind, Override
from bifrost.governance.windows import window

MOST_CYCLES = 1_000
MOST_REASON = 500  # characters
EVER = 0x7FFFFFFFFFFFFFFF
replace = msgspec.structs.replace


def budget_window(budget: Budget, now_ns: int) -> tuple[int, int]:
    """The (start, end) in ns of the window of ``budget`` that holds ``now_ns``."""
    return window(
        budget.reset_duration,
        now_ns=now_ns,
        created_ns=budget.created_at,
        calendar_aligned=budget.calendar_aligned,
        time_zone=budget.time_zone,
        fiscal_start=budget.fiscal_start,
        reset_at=budget.reset_at,
    )


def limit_at(budget: Budget, now_ns: int) -> tuple[int, int]:
    """(the limit in nano-USD that holds at ``now_ns``, until when it is sure to hold in ns)."""
    until = budget.reset_at if budget.reset_at > now_ns else EVER
    override = budget.override
    if override is None or now_ns >= override.end_at:
        return budget.max_limit, until
    if now_ns < override.start_at:
        return budget.max_limit, min(until, override.start_at)
    return override.max_limit, min(until, override.end_at)


def found(directory: Directory, budget_id: str) -> tuple[Kind, Entity, Budget]:
    """Whose budget it is, and the budget; raises NotFound."""
    kind, entity = directory.budget_owner(budget_id)
    return kind, entity, next(one for one in entity.budgets if one.id == budget_id)


def listed(directory: Directory, kind: Kind | None = None) -> Iterator[tuple[Kind, Entity, Budget]]:
    """Every budget with its owner, customers first; those of one kind if ``kind`` is given."""
    for each in KINDS if kind is None else (kind,):
        for entity in directory.each(each):
            for budget in entity.budgets:
                yield each, entity, budget


def reset(
    directory: Directory, budget_id: str, *, reason: str, now_ns: int | None = None
) -> tuple[Kind, Entity, Budget]:
    """Begins the budget's present window anew; it ends when it would have ended.

    What is under way is booked to the window it began in. Raises NotFound; ValueError for a
    reason that is empty or longer than 500 characters.
    """
    reason, now = checked_reason(reason), time.time_ns() if now_ns is None else now_ns
    return _changed(
        directory, budget_id, lambda old: replace(old, reset_at=now, reset_reason=reason)
    )


def override(
    directory: Directory,
    budget_id: str,
    *,
    max_limit: int,
    cycles: int = 1,
    reason: str,
    now_ns: int | None = None,
) -> tuple[Kind, Entity, Budget]:
    """Another limit, nano-USD, for the present window and the ``cycles`` - 1 that follow it.

    Replaces an override there is. Raises NotFound; ValueError for a negative limit, cycles
    outside 1 to 1,000 or a reason that is empty or too long.
    """
    reason, now = checked_reason(reason), time.time_ns() if now_ns is None else now_ns
    if max_limit < 0:
        raise ValueError("expected a limit of 0 USD or more")
    if not 1 <= cycles <= MOST_CYCLES:
        raise ValueError(f"expected 1 to {MOST_CYCLES:,} windows, got {cycles}")

    def change(old: Budget) -> Budget:
        start, end = budget_window(old, now)
        for _ in range(cycles - 1):
            try:
                end = budget_window(old, end)[1]
            except (OverflowError, ValueError):  # past the last year the clock knows
                raise ValueError(f"{cycles} windows of {old.reset_duration} are too many") from None
        made = Override(max_limit=max_limit, start_at=start, end_at=end, reason=reason)
        return replace(old, override=made)

    return _changed(directory, budget_id, change)


def clear_override(directory: Directory, budget_id: str) -> tuple[Kind, Entity, Budget]:
    """The budget's own limit holds again; raises NotFound, Conflict when it has no override."""

    def change(old: Budget) -> Budget:
        if old.override is None:
            raise Conflict(f"Budget {old.id} has no override.")
        return replace(old, override=None)

    return _changed(directory, budget_id, change)


def set_limit(directory: Directory, budget_id: str, max_limit: int) -> tuple[Kind, Entity, Budget]:
    """Raises or lowers the budget's own limit, nano-USD; its spending stays. Raises NotFound."""
    if max_limit < 0:
        raise ValueError("expected a limit of 0 USD or more")
    return _changed(directory, budget_id, lambda old: replace(old, max_limit=max_limit))


def checked_reason(text: str) -> str:
    """A reason without its outer blanks; ValueError if it is none or too long."""
    text = text.strip()
    if not 1 <= len(text) <= MOST_REASON or not text.isprintable():
        raise ValueError(f"expected a reason of 1 to {MOST_REASON} printable characters")
    return text


def _changed(
    directory: Directory, budget_id: str, change: Callable[[Budget], Budget]
) -> tuple[Kind, Entity, Budget]:
    kind, entity = directory.change_budget(budget_id, change)
    return kind, entity, next(one for one in entity.budgets if one.id == budget_id)
