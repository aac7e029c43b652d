"""Query parameters: one struct per set of them, read strictly."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from bifrost.admin.problems import invalid
from bifrost.config.findings import meant

Q = TypeVar("Q", bound=msgspec.Struct)
MOST_ROWS = 1000
SPANS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
LAST_NS = (1 << 63) - 1
_SPAN = re.compile(r"([0-9]{1,5})([mhdw])")

Limit = Annotated[int, Meta(ge=1, le=MOST_ROWS, description="The most rows to answer.")]
Offset = Annotated[int, Meta(ge=0, le=2**31 - 1, description="Rows to leave out first.")]
Moment = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="A time (RFC 3339, or a date) or a span back from now: 90m, 12h, 30d, 4w.",
        examples=["30d", "2026-11-01", "2026-11-01T12:00:00Z"],
    ),
]
Text = Annotated[str, Meta(min_length=1, max_length=512)]
Level = Literal["customer", "team", "user", "key"]


class PartQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list."""

    limit: Limit = 50
    offset: Offset = 0


class PageQuery(PartQuery, frozen=True, kw_only=True):
    """Which part of a list, by a part of the name."""

    q: Annotated[
        str, Meta(max_length=128, description="Only names that hold this, in any case.")
    ] = ""


class ReasonQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Why something is done."""

    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=500)] | None,
        Meta(description="Recorded with the change."),
    ] = None


class BudgetQuery(PageQuery, frozen=True, kw_only=True):
    """Which budgets; ``q`` is about their owners' names."""

    level: Annotated[
        Level | None, Meta(description="Only budgets of customers, teams, users or keys.")
    ] = None


def read(cls: type[Q], raw: bytes) -> Q:
    """The parameters in a query string; raises Problem 400 naming every one that is wrong."""
    errors: list[tuple[str, str]] = []
    kinds = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    given: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(raw.decode("ascii", "replace"), keep_blank_values=True, errors="strict")
    except ValueError:  # not UTF-8, or too many
        raise invalid(400, [("query", "expected name=value pairs in UTF-8")]) from None
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    values: dict[str, Any] = {}
    for name, texts in given.items():
        field = kinds.get(name)
        if field is None:
            valid = ", ".join(kinds) or "none"
            shown = name[:48].encode("ascii", "backslashreplace").decode()
            errors.append((shown, f"unknown parameter{meant(name, kinds)} (valid: {valid})"))
        else:
            _convert(field, texts, values, errors)
    if errors:
        raise invalid(400, errors)
    return cls(**values)


def _convert(
    field: msgspec.structs.FieldInfo,
    texts: list[str],
    values: dict[str, Any],
    errors: list[tuple[str, str]],
) -> None:
    name = field.encode_name
    many = isinstance(field.default, tuple)
    value: Any = [part for text in texts for part in text.split(",") if part] if many else texts[0]
    if len(texts) > 1 and not many:
        errors.append((name, "given more than once"))
    elif texts == ["null"] and field.default is None:  # left out is null, not said to be
        errors.append((name, "expected a value; leave it out instead"))
    elif not all(part.isprintable() for part in texts):
        errors.append((name, "holds a control or other unprintable character"))
    else:
        try:
            values[field.name] = msgspec.convert(value, field.type, strict=False)
        except msgspec.ValidationError as error:
            errors.append((name, str(error)[:1].lower() + str(error)[1:]))


def moment_ns(name: str, text: str) -> int:
    """A Moment in ns since the epoch; raises Problem 400."""
    span = _SPAN.fullmatch(text)
    if span:
        return max(0, time.time_ns() - int(span[1]) * SPANS[span[2]] * 1_000_000_000)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    except (ValueError, OverflowError):
        problem = "expected a span such as 30d or 12h, or a time such as 2026-11-01T12:00:00Z"
        raise invalid(400, [(name, problem)]) from None
    return min(max(0, seconds * 1_000_000_000), LAST_NS)
