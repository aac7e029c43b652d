"""The JSON Schema of the configuration file, for editors and for ``bifrost config schema``."""

from __future__ import annotations

from typing import Any

import msgspec

from bifrost.config.settings import Settings


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the file, generated from the settings' structs; a fresh dict."""
    (_,), components = msgspec.json.schema_components((Settings,), ref_template="#/$defs/{name}")
    root = components.pop("Settings")
    for node in components.values():
        for member in node["properties"].values():
            member.setdefault("description", "Which kind it is.")  # only those have none
    root["title"] = "Bifrost configuration"
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "$defs": dict(sorted(components.items())),
    }
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(schema))
    return copy
