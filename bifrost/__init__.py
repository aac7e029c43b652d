"""Bifrost for Python: an AI gateway that puts coding agents under governance.

``create_app`` gives the gateway as an ASGI app, ``Gateway`` its governance core alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Gateway", "Refusal", "__version__", "create_app"]

if TYPE_CHECKING:
    from bifrost.app import create_app
    from bifrost.embedding import Gateway
    from bifrost.errors import Refusal


def __getattr__(name: str) -> Any:
    """Imports the public names when they are used, so that small commands start fast."""
    if name == "create_app":
        from bifrost.app import create_app

        return create_app
    if name == "Gateway":
        from bifrost.embedding import Gateway

        return Gateway
    if name == "Refusal":
        from bifrost.errors import Refusal

        return Refusal
    raise AttributeError(f"module 'bifrost' has no attribute {name!r}")
