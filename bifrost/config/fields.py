"""What the fields of the configuration file are made of: common types, and their notes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bifrost.config.values import MOST_USD


def or_reference(pattern: str) -> dict[str, object]:
    """JSON Schema of a text of this pattern, or of a reference to one."""
    return {"pattern": f"^(?:{pattern})$|^env\\.|^file:"}


Name = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(min_length=1)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512)]
Weight = Annotated[float, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Secret = Annotated[
    str, Meta(min_length=1, extra={"secret": True}, extra_json_schema={"writeOnly": True})
]
FilePath = Annotated[str, Meta(min_length=1, extra={"path": True})]
Amount = (
    Annotated[str, Meta(extra_json_schema=or_reference(r"[0-9]{1,10}(?:\.[0-9]{1,9})?"))]
    | Annotated[int, Meta(ge=0, le=MOST_USD)]
)


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object of the configuration file."""
