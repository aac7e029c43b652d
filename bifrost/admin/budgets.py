"""Budgets by themselves: list, read, reset, another limit for some windows."""

from __future__ import annotations

import msgspec

from bifrost.admin import bodies, objects, tags
from bifrost.admin.problems import invalid
from bifrost.admin.queries import BudgetQuery
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.config.settings import nano_usd
from bifrost.governance import budgets as acts
from bifrost.governance import entities
from bifrost.governance.entities import Kind

KINDS: dict[str, Kind] = {level: kind for kind, level in objects.LEVELS.items()}
Found = tuple[Kind, entities.Entity, entities.Budget]


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """A page of budgets."""

    items: tuple[objects.OwnedBudget, ...]
    total: int
    limit: int
    offset: int


def listing(house: House, ask: Ask) -> Reply:
    """Budgets with their owners: customers first, by name."""
    query = ask.query
    kinds = (KINDS[query.level],) if query.level is not None else entities.KINDS
    page, total = house.directory.pages.budgets(
        kinds, text=query.q, limit=query.limit, offset=query.offset
    )
    items = tuple(objects.owned(*found, house.gate) for found in page)
    return Reply(value=Budgets(items=items, total=total, limit=query.limit, offset=query.offset))


def _reply(house: House, ask: Ask, found: Found) -> Reply:
    tag = tags.tag_of(house.directory, found[2])
    if ask.operation.method == "GET" and tags.is_known(ask.headers, tag):
        return Reply(status=304, headers={"etag": tag})
    return Reply(value=objects.owned(*found, house.gate), headers={"etag": tag})


def read(house: House, ask: Ask) -> Reply:
    """One budget."""
    return _reply(house, ask, acts.found(house.directory, ask.params["id"]))


def reset(house: House, ask: Ask) -> Reply:
    """Begins the present window anew."""
    body = bodies.parsed(bodies.ResetBody, ask.document)
    budget = acts.found(house.directory, ask.params["id"])[2].id
    try:
        return _reply(house, ask, acts.reset(house.directory, budget, reason=body.reason))
    except ValueError as error:
        raise invalid(422, [("reason", str(error))]) from None


def override(house: House, ask: Ask) -> Reply:
    """Another limit for the present window and those that follow."""
    body = bodies.parsed(bodies.OverrideBody, ask.document)
    budget = acts.found(house.directory, ask.params["id"])[2].id
    try:
        reason = acts.checked_reason(body.reason)
    except ValueError as error:
        raise invalid(422, [("reason", str(error))]) from None
    try:
        found = acts.override(
            house.directory,
            budget,
            max_limit=nano_usd(body.max_limit),
            cycles=body.cycles,
            reason=reason,
        )
    except ValueError as error:
        raise invalid(422, [("cycles", str(error))]) from None
    return _reply(house, ask, found)


def clear(house: House, ask: Ask) -> Reply:
    """The budget's own limit holds again."""
    return _reply(house, ask, acts.clear_override(house.directory, ask.params["id"]))


def operations() -> list[Operation]:
    """The rows of budgets."""
    base = "/api/governance/budgets"
    shape = objects.OwnedBudget
    return [
        Operation(method="GET", path=base, name="list_budgets",
                  summary="List budgets of every level with their owners.",
                  permission="governance:read", handler=listing, query=BudgetQuery,
                  answer=Budgets),
        Operation(method="GET", path=f"{base}/{{id}}", name="get_budget",
                  summary="Read a budget.", permission="governance:read", handler=read,
                  answer=shape, tagged=True, refuses=(404,)),
        Operation(method="POST", path=f"{base}/{{id}}/reset", name="reset_budget",
                  summary="Begin the present window anew: nothing of it is spent.",
                  permission="governance:write", handler=reset, body=bodies.ResetBody,
                  answer=shape, tagged=True, refuses=(404,)),
        Operation(method="POST", path=f"{base}/{{id}}/override", name="override_budget",
                  summary="Another limit for the present window, or for some.",
                  permission="governance:write", handler=override, body=bodies.OverrideBody,
                  answer=shape, tagged=True, refuses=(404,)),
        Operation(method="DELETE", path=f"{base}/{{id}}/override", name="clear_budget_override",
                  summary="End an override: the budget's own limit holds again.",
                  permission="governance:write", handler=clear, answer=shape, tagged=True,
                  refuses=(404, 409)),
    ]  # fmt: skip
