"""The configuration file: what it may say (settings), how it is read (load), its JSON Schema.

A leaf: imports only ``bifrost.errors``.
"""

from __future__ import annotations

from bifrost.config.load import Loaded, default_settings, load, parse
from bifrost.config.schema import json_schema
from bifrost.config.settings import Settings

__all__ = ["Loaded", "Settings", "default_settings", "json_schema", "load", "parse"]
