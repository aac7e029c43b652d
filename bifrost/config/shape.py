"""From a plain document to settings: walks the structs, so that every problem is found at once.

Where a value is wrong it is reported and an empty one stands in ("" for text, which is never
valid), so that the walk and the rules after it can go on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, inspect

from bifrost.config.documents import Table
from bifrost.config.findings import Findings, inside, listed, meant
from bifrost.config.settings import (
    MOST_USD,
    CustomerSpec,
    Provider,
    Settings,
    TeamSpec,
    UserSpec,
    VirtualKeySpec,
    nano_usd,
)

S = TypeVar("S", bound=Struct)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_FILE = 64 * 1024
_LIMITED = ("mcp_configs",)

# What the contract knows and this version does not do: accepting it silently would be a lie.
RESERVED_KEYS: dict[type, tuple[str, ...]] = {
    CustomerSpec: _LIMITED,
    TeamSpec: _LIMITED,
    UserSpec: _LIMITED,
    VirtualKeySpec: _LIMITED,
}
RESERVED_VALUES: dict[tuple[type, str], tuple[str, ...]] = {
    (Provider, "type"): ("cohere",),
}
_REFUSED = "not enforced by this version"


@cache
def described(cls: type[Struct]) -> inspect.StructType:
    """A struct, as the walk follows it; that of ``Settings`` takes 30 ms to make."""
    found = inspect.type_info(cls)
    assert isinstance(found, inspect.StructType)
    return found


def plain(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """A type without its notes and without null, and the notes."""
    notes: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            notes = {**(kind.extra or {}), **notes}
            kind = kind.type
        elif isinstance(kind, inspect.UnionType) and "money" not in notes and not choices(kind):
            kind = next(t for t in kind.types if not isinstance(t, inspect.NoneType))
        else:
            return kind, notes


def choices(kind: inspect.Type) -> dict[str, inspect.StructType]:
    """The structs of a union that its objects choose among by a key, by the key's value."""
    if not isinstance(kind, inspect.UnionType):
        return {}
    structs = [one for one in kind.types if isinstance(one, inspect.StructType)]
    return {str(one.tag): one for one in structs if one.tag_field is not None}


def expected(kind: inspect.Type) -> str:
    """The sentence part that says what a value has to be."""
    kind, notes = plain(kind)
    if "says" in notes:
        return str(notes["says"])
    if "money" in notes:
        return "an amount in USD such as '75.00'"
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.FloatType(gt=None, ge=low, le=high):
            return f"a number from {low} to {high}"
        case inspect.FloatType(gt=low, le=high):
            return f"a number above {low}, at most {high}"
        case inspect.LiteralType(values=values):
            return listed([str(value) for value in values])
        case inspect.StrType(max_length=None):
            return "text"
        case inspect.StrType(max_length=most):
            return f"text of 1 to {most} characters"
        case inspect.VarTupleType():
            return "an array"
    return "an object"


def empty(kind: inspect.Type) -> Any:
    """What stands in for a value that was reported."""
    kind, notes = plain(kind)
    match kind:
        case inspect.UnionType() if by_tag := choices(kind):
            return empty(next(iter(by_tag.values())))
        case inspect.StructType():
            return kind.cls(**{f.name: empty(f.type) for f in kind.fields if f.required})
        case inspect.VarTupleType():
            return ()
        case inspect.DictType():
            return {}
        case inspect.BoolType() | inspect.IntType() | inspect.FloatType():
            return 1
    return ""


class Shape:
    """One walk over one document.

    ``references`` says whether ``env.`` and ``file:`` values stand for what they name; not in
    what comes over the network, whose sender may not read our files.
    """

    def __init__(
        self,
        findings: Findings,
        base: Path,
        environ: Mapping[str, str],
        *,
        references: bool = True,
    ) -> None:
        self.findings = findings
        self.base = base
        self.environ = environ
        self.references = references

    def settings(self, document: object) -> Settings:
        """The settings in the document; complete only if nothing was reported."""
        return self.struct(Settings, document)

    def struct(self, cls: type[S], document: object) -> S:
        """A struct of this class in the document; complete only if nothing was reported."""
        found = self._value(described(cls), document, "")
        assert isinstance(found, cls)
        return found

    def _value(self, kind: inspect.Type, raw: object, place: str) -> Any:
        if raw is None and _optional(kind):
            return None
        kind, notes = plain(kind)
        if "money" in notes:
            return self._money(raw, place)
        match kind:
            case inspect.StructType():
                return self._struct(kind, raw, place)
            case inspect.UnionType() if isinstance(raw, dict):
                return self._choice(kind, raw, place)
            case inspect.DictType():
                return self._dict(kind, raw, place)
            case inspect.VarTupleType() if isinstance(raw, list | tuple):
                items = enumerate(raw)
                return tuple(self._value(kind.item_type, x, inside(place, i)) for i, x in items)
            case inspect.StrType() | inspect.LiteralType() if isinstance(raw, str):
                return self._text(kind, notes, raw, place)
            case inspect.BoolType() if isinstance(raw, bool):
                return raw
            case inspect.IntType() if type(raw) is int and _within(kind, raw):
                return raw
            case inspect.FloatType() if type(raw) in (int, float) and _within(kind, raw):
                return float(raw)  # type: ignore[arg-type]
        return self._wrong(kind, raw, place, notes)

    def _wrong(
        self, kind: inspect.Type, raw: object, place: str, notes: Mapping[str, object]
    ) -> Any:
        hidden = "secret" in notes or not isinstance(kind, _SCALARS) or ".keys[" in place
        got = self._got(raw, place, hidden)
        quotes = isinstance(kind, inspect.StrType) and isinstance(raw, bool | int | float)
        hint = "; put it in quotes" if quotes else ""
        if isinstance(kind, inspect.LiteralType) and isinstance(raw, str):
            hint = meant(raw, [str(value) for value in kind.values])
        self.findings.add(place, f"expected {expected(kind)}, got {got}{hint}")
        return empty(kind)

    def _got(self, raw: object, place: str, hidden: bool) -> str:
        match raw:
            case None:
                return "null"
            case dict():
                return "an object"
            case list() | tuple():
                return "an array"
            case bool():
                return "true" if raw else "false"
            case str() if not raw:
                return "an empty text"
            case str():
                return "text" if hidden else self.findings.shown(place, raw)
            case int() | float():
                return "a number" if hidden or abs(raw) > 1e18 else repr(raw)
        return f"a {type(raw).__name__}"

    def _struct(self, kind: inspect.StructType, raw: object, place: str) -> Any:
        if not isinstance(raw, dict):
            return self._wrong(kind, raw, place, {})
        self._repeated(raw, place)
        fields = {field.encode_name: field for field in kind.fields}
        if kind.cls is Provider and raw.get("type") in RESERVED_VALUES[Provider, "type"]:
            # Its other keys are those of a type that is not known here.
            self._reserved(fields["type"], raw["type"], place)
            return empty(kind)
        values = {}
        for key, item in raw.items():
            field = fields.get(key)
            if key == kind.tag_field:
                continue
            if field is None:
                self._unknown(kind.cls, key, place, list(fields))
            elif item in RESERVED_VALUES.get((kind.cls, key), ()):
                self._reserved(field, item, place)
            else:
                values[field.name] = self._value(field.type, item, inside(place, key))
        for key, field in fields.items():
            if field.required and field.name not in values:
                if key not in raw:
                    self.findings.add(
                        inside(place, key), f"missing; expected {expected(field.type)}"
                    )
                values[field.name] = empty(field.type)
        return kind.cls(**values)

    def _choice(self, kind: inspect.UnionType, raw: dict[Any, Any], place: str) -> Any:
        """An object that says by a key which of several it is."""
        by_tag = choices(kind)
        key = next(iter(by_tag.values())).tag_field or ""
        tag = raw.get(key)
        if isinstance(tag, str) and tag in by_tag:
            return self._struct(by_tag[tag], raw, place)
        here, valid = inside(place, key), listed(list(by_tag))
        if key not in raw:
            self.findings.add(here, f"missing; expected {valid}")
        else:
            hint = meant(tag, by_tag) if isinstance(tag, str) else ""
            self.findings.add(here, f"expected {valid}, got {self._got(tag, here, False)}{hint}")
        return empty(kind)

    def _dict(self, kind: inspect.DictType, raw: object, place: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if not isinstance(raw, dict):
            self._wrong(kind, raw, place, {})
            return values
        self._repeated(raw, place)
        for key, item in raw.items():
            if isinstance(key, str):
                values[key] = self._value(kind.value_type, item, inside(place, key))
            else:
                self._no_key(key, place)
        return values

    def _repeated(self, raw: dict[object, object], place: str) -> None:
        for key in raw.repeated if isinstance(raw, Table) else ():
            self.findings.add(inside(place, key), "given more than once")

    def _no_key(self, key: object, place: str) -> None:
        shown = self._got(key, "", False)
        self.findings.add(place, f"expected text as a key, got {shown}; put it in quotes")

    def _reserved(self, field: inspect.Field, value: object, place: str) -> None:
        place = inside(place, field.encode_name)
        state = "not served by this version" if field.name == "type" else _REFUSED
        self.findings.add(place, f"{value!r} is {state}; use {expected(field.type)}")

    def _unknown(self, cls: type, key: object, place: str, valid: list[str]) -> None:
        if not isinstance(key, str):
            self._no_key(key, place)
        elif any(key in names for of, names in RESERVED_KEYS.items() if issubclass(cls, of)):
            self.findings.add(inside(place, key), f"{_REFUSED}; remove it")
        else:
            hint = meant(key, valid)
            names = ", ".join(valid)
            self.findings.add(inside(place, key), f"unknown key{hint} (valid: {names})")

    def _money(self, raw: object, place: str) -> str | int:
        amount = raw
        if isinstance(raw, str):
            amount = self._text(inspect.StrType(), {}, raw, place)
            if not amount:
                return ""
        if isinstance(amount, float) and math.isfinite(amount):
            self.findings.add(
                place,
                "expected USD as text, because a float cannot hold money exactly; write it in"
                f" quotes: '{Decimal(repr(amount)):f}'",
            )
            return ""
        if type(amount) is int or isinstance(amount, str):
            try:
                nano_usd(amount)
                return amount
            except ValueError:
                pass
        self.findings.add(
            place,
            f"expected an amount in USD from '0' to '{MOST_USD}' with at most 9 decimals, such as"
            f" '75.00', got {self._got(amount, place, False)}",
        )
        return ""

    def _text(self, kind: inspect.Type, notes: Mapping[str, object], raw: str, place: str) -> str:
        text = raw
        refers = self.references and "literal" not in notes
        if refers and raw.startswith(("env.", "file:")):
            self.findings.references[place] = raw
            text = self._variable(raw, place) if raw[0] == "e" else self._file(raw, place)
            if not text:
                return ""
        if not text.isprintable() and not {"secret", "lines"} & notes.keys():
            self.findings.add(place, "holds a control or other unprintable character")
            return ""
        right = bool(text) or "literal" in notes
        if isinstance(kind, inspect.LiteralType):
            right = text in kind.values
        elif isinstance(kind, inspect.StrType) and kind.max_length is not None:
            right = 0 < len(text) <= kind.max_length
        if not right:
            return str(self._wrong(kind, text, place, notes))
        return str(self.base / text) if "path" in notes else text

    def _variable(self, raw: str, place: str) -> str:
        """The variable's value, or "" once the problem is reported; the same for files."""
        name = raw.removeprefix("env.")
        if not _VARIABLE.fullmatch(name):
            self.findings.add(place, "expected the name of an environment variable after 'env.'")
            return ""
        value = self.environ.get(name)
        if not value:
            state = "is not set" if value is None else "is empty"
            self.findings.add(place, f"the environment variable {name} {state}")
        return value or ""

    def _file(self, raw: str, place: str) -> str:
        name = raw.removeprefix("file:")
        reason = "is not text"
        try:
            path = self.base / name
            if not name or not path.is_file():
                reason = "does not exist" if not path.exists() else "is not a file"
            elif path.stat().st_size > _LONGEST_FILE:
                reason = f"is larger than {_LONGEST_FILE} bytes"
            else:
                text = path.read_text("utf-8").rstrip("\r\n")
                if text:
                    return text
                reason = "is empty"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except ValueError:
            pass
        self.findings.add(place, f"the file {name!r} {reason}")
        return ""


_SCALARS = (
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.LiteralType,
)


def _optional(kind: inspect.Type) -> bool:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return isinstance(kind, inspect.UnionType) and kind.includes_none


def _within(kind: Any, number: Any) -> bool:
    return (
        number == number
        and (kind.ge is None or number >= kind.ge)
        and (kind.gt is None or number > kind.gt)
        and (kind.le is None or number <= kind.le)
    )
