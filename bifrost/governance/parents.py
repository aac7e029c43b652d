"""Who may belong to whom, and a new owner by id or name as the fields that are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bifrost.errors import Conflict, NotFound
from bifrost.governance.entities import Entity, Kind

PARENTS: dict[Kind, tuple[Kind, ...]] = {
    "customer": (),
    "team": ("customer",),
    "user": ("team", "customer"),
    "virtual_key": ("user", "team", "customer"),
}


def resolved(
    kind: Kind, fields: dict[str, Any], find: Callable[[Kind, str], Entity | None]
) -> dict[str, Any]:
    """The fields with ``user=``, ``team=``, ``customer=`` (ids or names) as ``user_id`` and so on.

    A new owner replaces every old one. Raises Conflict when they contradict, NotFound.
    """
    fields = dict(fields)
    named = [parent for parent in PARENTS[kind] if fields.get(parent)]
    if len(named) > 1:
        raise Conflict(f"A {kind.replace('_', ' ')} belongs to one of {' or '.join(named)}.")
    touched = False
    for parent in PARENTS["virtual_key"]:
        if parent in fields:
            reference = fields.pop(parent)
            if parent not in PARENTS[kind]:
                raise Conflict(f"A {kind.replace('_', ' ')} cannot belong to a {parent}.")
            touched = True
            if reference:
                found = find(parent, reference)
                if found is None:
                    raise NotFound(f"There is no {parent} {reference!r}.")
                fields[f"{parent}_id"] = found.id
    if touched:
        for parent in PARENTS[kind]:
            fields.setdefault(f"{parent}_id", None)
    return fields
