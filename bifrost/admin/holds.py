"""Legal holds over HTTP: while there is one, nothing of the audit log is removed."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from bifrost.admin.bodies import parsed
from bifrost.admin.objects import Time, timestamp
from bifrost.admin.problems import invalid
from bifrost.admin.queries import ReasonQuery
from bifrost.admin.table import Ask, House, Operation, Reply
from bifrost.audit import holds, policy
from bifrost.audit.log import FOLDER
from bifrost.config.fields import Spec, Text
from bifrost.errors import NotFound


class HoldBody(Spec, frozen=True, kw_only=True):
    """A hold as it is set."""

    name: Annotated[
        str,
        Meta(
            pattern=f"^{holds.NAME}$",
            description="1 to 64 of A-Z a-z 0-9 . _ -, first a letter or digit.",
            examples=["case-7"],
        ),
    ]
    reason: Annotated[Text, Meta(max_length=500, description="Kept with the hold, and recorded.")]


class AuditHold(msgspec.Struct, frozen=True, kw_only=True):
    """A legal hold: since when, who set it (``admin``, ``cli:ann``), and why."""

    name: str
    set_at: Time
    set_by: str
    reason: str


class AuditHolds(msgspec.Struct, frozen=True, kw_only=True):
    """Every hold, by name."""

    items: tuple[AuditHold, ...]


def _shown(hold: holds.Hold) -> AuditHold:
    return AuditHold(
        name=hold.name, set_at=timestamp(hold.at), set_by=hold.actor, reason=hold.reason
    )


def listing(house: House, ask: Ask) -> Reply:
    """The holds there are."""
    found = holds.holds(house.data_dir / FOLDER)
    return Reply(value=AuditHolds(items=tuple(_shown(one) for one in found)))


def read(house: House, ask: Ask) -> Reply:
    """One hold."""
    name = ask.params["name"]
    for one in holds.holds(house.data_dir / FOLDER):
        if one.name == name:
            return Reply(value=_shown(one))
    raise NotFound(f"There is no hold {name!r}.")


def create(house: House, ask: Ask) -> Reply:
    """A hold, once its event is on the disk; then nothing is removed any more."""
    body = parsed(HoldBody, ask.document)
    if not holds.is_name(body.name):
        raise invalid(422, [("name", holds.NAMED)])
    with policy.acting(policy.actor(), body.reason):
        made = holds.add(
            house.data_dir / FOLDER, body.name, policy.actor(), body.reason,
            lambda: house.recorder.hold("hold", body.name),
        )  # fmt: skip
    where = f"{ask.root}{ask.path}/{quote(made.name)}"
    return Reply(value=_shown(made), status=201, headers={"location": where})


def release(house: House, ask: Ask) -> Reply:
    """Ends a hold, once that is on the disk; what is over its time is removed from then on."""
    name = ask.params["name"]
    with policy.acting(policy.actor(), ask.query.reason or policy.reason()):
        holds.release(house.data_dir / FOLDER, name, lambda: house.recorder.hold("release", name))
    return Reply(status=204)


def operations() -> list[Operation]:
    """The rows of legal holds."""
    base = "/api/audit-logs/holds"
    return [
        Operation(method="GET", path=base, name="list_audit_holds",
                  summary="List the legal holds on the audit log.", permission="audit:read",
                  handler=listing, answer=AuditHolds),
        Operation(method="POST", path=base, name="create_audit_hold",
                  summary="Set a legal hold: nothing of the audit log is removed any more.",
                  permission="audit:write", handler=create, body=HoldBody, answer=AuditHold,
                  status=201, refuses=(409,)),
        Operation(method="GET", path=f"{base}/{{name}}", name="get_audit_hold",
                  summary="Read a legal hold.", permission="audit:read", handler=read,
                  answer=AuditHold, refuses=(404,)),
        Operation(method="DELETE", path=f"{base}/{{name}}", name="delete_audit_hold",
                  summary="End a legal hold: entries whose time is over are then removed.",
                  permission="audit:write", handler=release, query=ReasonQuery, status=204,
                  refuses=(404,)),
    ]  # fmt: skip
