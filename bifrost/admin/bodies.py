"""What requests may carry: the objects of the configuration file, under the contract's names.

The same walk and the same rules as for the file find every problem at once and name its path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bifrost.admin.price_fields import PriceFields
from bifrost.admin.problems import invalid
from bifrost.config.documents import Table
from bifrost.config.findings import Findings
from bifrost.config.rules import BUILT_IN_PROVIDERS, check_governed
from bifrost.config.settings import (
    Amount,
    CustomerSpec,
    Governed,
    Name,
    Settings,
    Spec,
    TeamSpec,
    Text,
    UserSpec,
    VirtualKeySpec,
)
from bifrost.config.shape import Shape
from bifrost.governance.entities import Kind, is_name
from bifrost.metering.overrides import LONGEST

B = TypeVar("B", bound=msgspec.Struct)
MOST_LIMITS = 24  # budgets and rate limits that one request can be under
PARENT_NAMES = ("user", "team", "customer")

CustomerRef = Annotated[Name | None, Meta(description="The customer it belongs to: id or name.")]
TeamRef = Annotated[Name | None, Meta(description="The team it belongs to: id or name.")]
UserRef = Annotated[Name | None, Meta(description="The user it belongs to: id or name.")]


class CustomerBody(CustomerSpec, frozen=True, kw_only=True):
    """A customer as it is sent."""


class TeamBody(TeamSpec, frozen=True, kw_only=True):
    """A team as it is sent."""

    customer: CustomerRef = msgspec.field(name="customer_id", default=None)


class UserBody(UserSpec, frozen=True, kw_only=True):
    """A user as it is sent; in a team or under a customer, not both."""

    team: TeamRef = msgspec.field(name="team_id", default=None)
    customer: CustomerRef = msgspec.field(name="customer_id", default=None)


class VirtualKeyBody(VirtualKeySpec, frozen=True, kw_only=True):
    """A virtual key as it is sent; it has at most one owner."""

    user: UserRef = msgspec.field(name="user_id", default=None)
    team: TeamRef = msgspec.field(name="team_id", default=None)
    customer: CustomerRef = msgspec.field(name="customer_id", default=None)


class ResetBody(Spec, frozen=True, kw_only=True):
    """Why a budget's window begins anew."""

    reason: Annotated[Text, Meta(max_length=500, description="Kept with the budget.")]


class OverrideBody(Spec, frozen=True, kw_only=True):
    """Another limit for some windows."""

    max_limit: Annotated[
        Amount,
        Meta(extra={"money": True}, description="USD, decimal in quotes: at most 9 decimals."),
    ]
    cycles: Annotated[
        int, Meta(ge=1, le=1000, description="Windows it holds for, with the present one.")
    ] = 1
    reason: Annotated[Text, Meta(max_length=500, description="Kept with the budget.")]


class PriceBody(Spec, frozen=True, kw_only=True):
    """An own price as it is sent; a change leaves out what stays, but replaces a price whole."""

    pattern: Annotated[
        Text,
        Meta(
            max_length=LONGEST,
            description="<provider>/<model>, with * and ? on both sides; it cannot be changed.",
            examples=["anthropic/claude-opus-*"],
        ),
    ]
    price: PriceFields
    reason: (
        Annotated[Text, Meta(max_length=500, description="Recorded with the change.")] | UnsetType
    ) = UNSET


BODIES: dict[Kind, type[Governed]] = {
    "customer": CustomerBody,
    "team": TeamBody,
    "user": UserBody,
    "virtual_key": VirtualKeyBody,
}
# Members that only answers have; sent back with the rest of an object they are ignored.
ANSWERED = frozenset({"id", "created_at", "updated_at", "hint"})
ANSWERED_IN = {
    "budgets": frozenset(
        {"id", "current_usage", "reserved", "resets_at", "reset_at", "reset_reason", "override",
         "owner"}
    ),
    "rate_limits": frozenset({"id"}),
}  # fmt: skip


def parsed(cls: type[B], document: object) -> B:
    """The body as this struct; raises Problem 422."""
    findings = Findings()
    found = Shape(findings, Path(), {}, references=False).struct(cls, document)
    _finish(findings)
    return found


def governed(
    kind: Kind, document: object, settings: Settings, *, name: str | None = None
) -> tuple[Governed, frozenset[str]]:
    """The body as the kind's struct, and which of its members were given; raises Problem 422.

    ``name`` stands in for one that is not given (a change leaves it as it is).
    """
    findings = Findings()
    document = _without_answered(document)
    given = frozenset(document) if isinstance(document, dict) else frozenset()
    if name is not None and isinstance(document, Table) and "name" not in document:
        document["name"] = name
    shape = Shape(findings, Path(), {}, references=False)
    found = shape.struct(BODIES[kind], document)
    known = tuple(settings.providers) or BUILT_IN_PROVIDERS
    check_governed("", found, known, findings)
    if "name" not in findings.places and not is_name(found.name):
        findings.add("name", "expected no space at either end and at most 480 bytes")
    if isinstance(found, UserBody) and found.team and found.customer:
        findings.add("customer_id", "a user in a team takes the team's customer, so leave this out")
    if len(found.budgets) + len(found.rate_limits) > MOST_LIMITS:
        findings.add("budgets", f"more than {MOST_LIMITS} budgets and rate limits together")
    _finish(findings)
    return found, given


def _finish(findings: Findings) -> None:
    if findings.told:
        raise invalid(422, findings.told)


def _without_answered(document: object) -> object:
    """The document without the members that only answers have."""
    if not isinstance(document, Table):
        return document
    kept = without(document, ANSWERED)
    if kept.get("mcp_configs") == []:
        del kept["mcp_configs"]
    for field, names in ANSWERED_IN.items():
        items = kept.get(field)
        if isinstance(items, list):
            kept[field] = [
                without(item, names) if isinstance(item, Table) else item for item in items
            ]
    return kept


def without(table: Table, names: frozenset[str]) -> Table:
    """The table without these members."""
    kept = Table({key: item for key, item in table.items() if key not in names})
    kept.repeated = table.repeated
    return kept
