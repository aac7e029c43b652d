"""Files to plain objects: JSON, TOML and YAML, with syntax errors by line and column.

Messages never quote the file's values, because any of them may be a secret.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import yaml

from bifrost.errors import ConfigError

_QUOTED = re.compile(r"'(?!<)[^']{3,}'")
_LARGEST = 16 * 1024 * 1024


class Table(dict[object, object]):
    """A JSON object that remembers which of its keys were given more than once."""

    repeated: tuple[str, ...] = ()


def read(path: Path) -> object:
    """The document in the file, read as its suffix says; ConfigError names file and position."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: larger than {_LARGEST} bytes; this is no configuration")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    suffix = path.suffix.lower()
    try:
        if suffix == ".toml":
            return _toml(text)
        if suffix in (".yaml", ".yml"):
            return _yaml(text)
        return from_json(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except ValueError as error:
        known = suffix in (".json", ".toml", ".yaml", ".yml")
        hint = "" if known else "; other forms need a name ending in .toml, .yaml or .yml"
        raise ConfigError(f"{path}: {error}{hint}") from None


def _unique(pairs: list[tuple[str, object]]) -> Table:
    table = Table(pairs)
    if len(table) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        table.repeated = tuple(name for name, count in counts.items() if count > 1)
    return table


def _no_constant(name: str) -> object:
    raise ValueError(f"not valid JSON: {name} is not a number")


def from_json(text: str) -> object:
    """The document in a JSON text; ValueError names the line and column of what is wrong."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}"
        raise ValueError(
            f"not valid JSON at line {error.lineno}, column {error.colno}: {reason}"
        ) from None


def _toml(text: str) -> object:
    try:
        return _texts(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not valid TOML: {_QUOTED.sub('…', str(error))}") from None


def _texts(value: object) -> object:
    """The document with TOML's dates and times as RFC 3339 text, as JSON would have them."""
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    return value


class _Loader(yaml.SafeLoader):
    """YAML's safe types without dates, which stay text; a key given twice is an error."""

    yaml_implicit_resolvers = {
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(
                        None, None, "a key is given more than once", key.start_mark
                    )
                seen.add(key.value)
        return node


def _yaml(text: str) -> object:
    try:
        document = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = _QUOTED.sub("…", error.problem or error.context or "unreadable")
        raise ValueError(f"not valid YAML{place}: {reason}") from None
    except yaml.YAMLError:
        raise ValueError("not valid YAML: it holds a character that YAML forbids") from None
    except (ValueError, TypeError, AttributeError, KeyError):
        # PyYAML's own constructors fail like this on a value that contradicts its tag.
        raise ValueError("not valid YAML: a value does not fit its tag") from None
    return {} if document is None else document
