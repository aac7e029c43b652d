"""Customers, teams, users and virtual keys: list, create, read, change, remove, rotate."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from bifrost.admin import bodies, objects, once, tags
from bifrost.admin.problems import Problem, invalid
from bifrost.admin.queries import PageQuery
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.config.findings import meant
from bifrost.config.settings import Governed, VirtualKeySpec
from bifrost.errors import NotFound, Stale
from bifrost.governance import declared
from bifrost.governance.entities import Entity, Kind, ProviderRule
from bifrost.governance.parents import PARENTS
from bifrost.governance.replays import Once, Replayed

PATHS: dict[str, Kind] = {
    "customers": "customer",
    "teams": "team",
    "users": "user",
    "virtual-keys": "virtual_key",
}
MOST_TRIES = 8


class Customers(msgspec.Struct, frozen=True, kw_only=True):
    """A page of customers."""

    items: tuple[objects.Customer, ...]
    total: int
    limit: int
    offset: int


class Teams(msgspec.Struct, frozen=True, kw_only=True):
    """A page of teams."""

    items: tuple[objects.Team, ...]
    total: int
    limit: int
    offset: int


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """A page of users."""

    items: tuple[objects.User, ...]
    total: int
    limit: int
    offset: int


class VirtualKeys(msgspec.Struct, frozen=True, kw_only=True):
    """A page of virtual keys."""

    items: tuple[objects.VirtualKey, ...]
    total: int
    limit: int
    offset: int


PAGES: dict[Kind, type[Any]] = {
    "customer": Customers,
    "team": Teams,
    "user": Users,
    "virtual_key": VirtualKeys,
}


def _kind(ask: Ask) -> Kind:
    return PATHS[ask.operation.segments[2]]


def listing(house: House, ask: Ask) -> Reply:
    """One page, by name."""
    kind, query = _kind(ask), ask.query
    found, total = house.directory.pages.page(
        kind, text=query.q, limit=query.limit, offset=query.offset
    )
    items = tuple(objects.shown(kind, entity, house.gate) for entity in found)
    page = PAGES[kind](items=items, total=total, limit=query.limit, offset=query.offset)
    return Reply(value=page)


def read(house: House, ask: Ask) -> Reply:
    """One object, or that the client has it already."""
    kind = _kind(ask)
    entity = house.directory.get(kind, ask.params["id"])
    tag = tags.tag_of(house.directory, entity)
    if tags.is_known(ask.headers, tag):
        return Reply(status=304, headers={"etag": tag})
    return Reply(value=objects.shown(kind, entity, house.gate), headers={"etag": tag})


def create(house: House, ask: Ask) -> Reply:
    """A new object; a key is answered with its secret, this once."""
    kind = _kind(ask)
    spec, _ = bodies.governed(kind, ask.document, house.settings())
    secret = spec.value if isinstance(spec, VirtualKeySpec) else None
    try:
        asked = _once(house, ask, kind)
        fields = _fields(spec, None) | _owners(kind, spec)
        entity: Entity
        if kind == "virtual_key":
            entity, secret = house.directory.create_key(
                spec.name, secret=secret, once=asked, **fields
            )
        else:
            entity = house.directory.create(kind, spec.name, once=asked, **fields)
    except Replayed as before:
        return _created(ask, kind, before.answer, secret or before.secret, replayed=True)
    except NotFound:
        raise _dangling(house, kind, spec) from None
    return _created(ask, kind, _answered(house, kind, entity), secret)


def change(house: House, ask: Ask) -> Reply:
    """The members given replace what was; those left out stay."""
    kind, reference = _kind(ask), ask.params["id"]
    for _ in range(MOST_TRIES):
        old = house.directory.get(kind, reference)
        spec, given = bodies.governed(kind, ask.document, house.settings(), name=old.name)
        if "value" in given:
            raise invalid(422, [("value", "a secret is changed with POST …/rotate; leave it out")])
        bound = tags.require_match(ask.headers, tags.tag_of(house.directory, old))
        changes = {
            name: value for name, value in _fields(spec, old).items() if name in given
        } | _moved(kind, spec, given, old)
        if "name" in given:
            changes["name"] = spec.name
        try:
            entity = house.directory.update(kind, old.id, expect=old, **changes)
        except Stale:
            if bound:
                raise tags.changed() from None
            continue  # somebody else was faster: the same change to what is there now
        except NotFound:
            if house.directory.find(kind, old.id) is None:
                raise
            raise _dangling(house, kind, spec) from None
        tag = tags.tag_of(house.directory, entity)
        return Reply(value=objects.shown(kind, entity, house.gate), headers={"etag": tag})
    raise Problem(
        503, "The object is being changed all the time; try again.", headers={"retry-after": "1"}
    )


def remove(house: House, ask: Ask) -> Reply:
    """Gone, and refused at once in every worker; its history stays in the reports."""
    kind, reference = _kind(ask), ask.params["id"]
    old = house.directory.get(kind, reference)
    bound = tags.require_match(ask.headers, tags.tag_of(house.directory, old))
    try:
        house.directory.delete(kind, old.id, expect=old if bound else None)
    except Stale:
        raise tags.changed() from None
    return Reply(status=204)


def rotate(house: House, ask: Ask) -> Reply:
    """A new secret; the old one stops working at once."""
    if ask.document is not UNSET and ask.document != {}:
        raise invalid(422, [("", "rotate takes no body")])
    try:
        asked = _once(house, ask, "virtual_key")
        old = house.directory.get("virtual_key", ask.params["id"])
        bound = tags.require_match(ask.headers, tags.tag_of(house.directory, old))
        key, secret = house.directory.rotate(old.id, expect=old if bound else None, once=asked)
    except Replayed as before:
        return _created(ask, "virtual_key", before.answer, before.secret, 200, replayed=True)
    except Stale:
        raise tags.changed() from None
    return _created(ask, "virtual_key", _answered(house, "virtual_key", key), secret, 200)


def _fields(spec: Governed, old: Entity | None) -> dict[str, Any]:
    """The members that are stored as they are; budgets and limits keep what they have counted."""
    fields: dict[str, Any] = {
        "is_active": spec.is_active,
        "budgets": declared.budgets(spec.budgets, old.budgets if old else ()),
        "rate_limits": declared.rate_limits(spec.rate_limits, old.rate_limits if old else ()),
        "provider_configs": tuple(
            ProviderRule(**msgspec.structs.asdict(rule)) for rule in spec.provider_configs
        ),
    }
    if isinstance(spec, VirtualKeySpec):
        fields["allowed_fields"] = spec.allowed_fields
        fields["audit_content"] = spec.audit_content
        fields["expires_at"] = spec.expires_ns
    return fields


def _owners(kind: Kind, spec: Governed) -> dict[str, str]:
    """The owners that are named."""
    named = {parent: getattr(spec, parent) for parent in PARENTS[kind]}
    return {parent: name for parent, name in named.items() if name}


def _moved(kind: Kind, spec: Governed, given: frozenset[str], old: Entity) -> dict[str, Any]:
    """The owner a change leads to: the one it names; none if it says null of the present one."""
    named: dict[str, Any] = dict(_owners(kind, spec))
    if named:
        return named
    for parent in PARENTS[kind]:
        if f"{parent}_id" in given and getattr(old, f"{parent}_id") is not None:
            return {parent: None}
    return {}


def _dangling(house: House, kind: Kind, spec: Governed) -> Problem:
    """Which owner does not exist, and whose name is nearest."""
    errors = []
    for parent, name in _owners(kind, spec).items():
        if house.directory.find(parent, name) is None:  # type: ignore[arg-type]
            near = house.directory.pages.nearest(parent, name)  # type: ignore[arg-type]
            hint = meant(name, [near]) if near else ""
            errors.append((f"{parent}_id", f"no {parent} named {name!r}{hint}"))
    return invalid(422, errors or [("", "names an owner that was just removed; try again")])


def _once(house: House, ask: Ask, kind: Kind) -> Once | None:
    return once.asked(house, ask, lambda entity: _answered(house, kind, entity))


def _answered(house: House, kind: Kind, entity: Entity) -> bytes:
    tag = tags.tag_of(house.directory, entity)
    return once.kept(entity.id, tag, objects.shown(kind, entity, house.gate))


def _created(
    ask: Ask, kind: Kind, raw: bytes, secret: str | None, status: int = 201, *,
    replayed: bool = False,
) -> Reply:  # fmt: skip
    """The answer to create and rotate, the secret put in."""
    more = b""
    if kind == "virtual_key":
        more = b',"value":' + msgspec.json.encode(secret)
    return once.reply(ask, raw, status, more=more, replayed=replayed)


def operations() -> list[Operation]:
    """The rows of the four kinds."""
    rows: list[Operation] = []
    for path, kind in PATHS.items():
        one, many = kind.replace("_", " "), path.replace("-", " ")
        shape, base = objects.ANSWERS[kind], f"/api/governance/{path}"
        new = objects.NewVirtualKey if kind == "virtual_key" else shape
        rows += [
            Operation(method="GET", path=base, name=f"list_{path.replace('-', '_')}",
                      summary=f"List {many} by name.", permission="governance:read",
                      handler=listing, query=PageQuery, answer=PAGES[kind]),
            Operation(method="POST", path=base, name=f"create_{kind}",
                      summary=f"Create a {one}.", permission="governance:write",
                      handler=create, body=bodies.BODIES[kind], answer=new, status=201,
                      tagged=True, once=True, refuses=(409,)),
            Operation(method="GET", path=f"{base}/{{id}}", name=f"get_{kind}",
                      summary=f"Read a {one}, by id or name.", permission="governance:read",
                      handler=read, answer=shape, tagged=True, refuses=(404,)),
            Operation(method="PUT", path=f"{base}/{{id}}", name=f"update_{kind}",
                      summary=f"Change a {one}: members given replace what was, others stay.",
                      permission="governance:write", handler=change, body=bodies.BODIES[kind],
                      partial=True, answer=shape, tagged=True, guarded=True,
                      refuses=(404, 409, 412)),
            Operation(method="DELETE", path=f"{base}/{{id}}", name=f"delete_{kind}",
                      summary=f"Delete a {one} that nothing belongs to.",
                      permission="governance:write", handler=remove, status=204, guarded=True,
                      refuses=(404, 409, 412)),
        ]  # fmt: skip
    rows.append(
        Operation(method="POST", path="/api/governance/virtual-keys/{id}/rotate",
                  name="rotate_virtual_key", summary="Give a virtual key a new secret.",
                  permission="governance:write", handler=rotate, answer=objects.NewVirtualKey,
                  tagged=True, guarded=True, once=True, refuses=(404, 409, 412, 422))
    )  # fmt: skip
    return rows
