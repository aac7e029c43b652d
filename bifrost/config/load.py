"""The configuration file, read: values resolved, every problem told at once, secrets never."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from bifrost.config import documents
from bifrost.config.findings import Findings
from bifrost.config.rules import check
from bifrost.config.settings import Provider, ProviderKey, Settings
from bifrost.config.shape import Shape, choices, described, plain

Stamp = tuple[int, int, int] | None


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A usable configuration file.

    ``digest`` is the SHA-256 (hex) of the effective configuration without its secrets, so a
    rotated secret alone does not change it; compare ``settings`` to notice that too. ``stamp`` is
    the file's from before it was read: whoever sees another one should load again.
    """

    settings: Settings
    path: Path
    digest: str
    stamp: Stamp = None
    warnings: tuple[str, ...] = ()


def load(path: str | os.PathLike[str]) -> Loaded:
    """The settings in a .json, .toml, .yaml or .yml file; ConfigError lists all its problems."""
    file = Path(path)
    before = stamp(file)
    document = documents.read(file)
    settings, warnings = _read(document, where=str(file), base=file.absolute().parent)
    return Loaded(
        settings=settings, path=file, digest=digest(settings), stamp=before, warnings=warnings
    )


def stamp(path: Path | None) -> Stamp:
    """What changes when a file does; None when there is none."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None


def parse(document: object, *, where: str, base: Path) -> Settings:
    """The settings in a plain document; ``where`` names it in the ConfigError.

    ``file:`` values and paths in the document are relative to ``base``.
    """
    return _read(document, where=where, base=base)[0]


def default_settings() -> Settings:
    """The settings without a file: provider ``anthropic`` if ANTHROPIC_API_KEY is set, or mock."""
    return with_default_providers(Settings())


def with_default_providers(settings: Settings) -> Settings:
    """The settings with the gateway's own providers when they name none."""
    if settings.providers:
        return settings
    return msgspec.structs.replace(settings, providers=default_providers())


def default_providers() -> dict[str, Provider]:
    """The providers of a gateway for which none is configured."""
    secret = os.environ.get("ANTHROPIC_API_KEY", "").strip()
    if secret:
        keys = (ProviderKey(name="main", value=secret),)
        return {"anthropic": Provider(type="anthropic", keys=keys)}
    return {"mock": Provider(type="mock")}


def digest(settings: Settings) -> str:
    """SHA-256 (hex) of the settings without their secrets."""
    return hashlib.sha256(msgspec.json.encode(public(settings), order="sorted")).hexdigest()


def public(settings: Settings, *, hidden: str = "<hidden>") -> dict[str, Any]:
    """The settings as a plain document fit to be shown: ``hidden`` stands for each secret."""
    return dict(_public(settings, described(Settings), hidden))


def _public(value: Any, kind: inspect.Type, hidden: str) -> Any:
    kind, notes = plain(kind)
    if "secret" in notes:
        return None if value is None else hidden
    match kind:
        case inspect.UnionType() if by_tag := choices(kind):
            return _public(value, next(x for x in by_tag.values() if x.cls is type(value)), hidden)
        case inspect.StructType() if value is not None:
            fields = {field.encode_name: field for field in kind.fields}
            found = {k: _public(getattr(value, f.name), f.type, hidden) for k, f in fields.items()}
            return found if kind.tag_field is None else {kind.tag_field: kind.tag, **found}
        case inspect.DictType():
            return {key: _public(item, kind.value_type, hidden) for key, item in value.items()}
        case inspect.VarTupleType() if value is not None:
            return [_public(item, kind.item_type, hidden) for item in value]
    return value


def _read(document: object, *, where: str, base: Path) -> tuple[Settings, tuple[str, ...]]:
    findings = Findings()
    settings = Shape(findings, base, os.environ).settings(document)
    check(settings, findings)
    findings.finish(where)
    if not settings.providers:
        findings.warn("providers", "none is configured; the gateway makes its own")
    return settings, tuple(findings.warnings)
