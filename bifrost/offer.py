"""The models a key may use, as its clients are shown them."""

from __future__ import annotations

import contextlib
from typing import Any

from bifrost.core import Core
from bifrost.errors import BifrostError
from bifrost.governance.admission import check_model
from bifrost.identify import Grant
from bifrost.metering.catalogue import ModelInfo


def usable(core: Core, grant: Grant) -> dict[str, ModelInfo]:
    """The configured names and the providers' models that a key may use, by name."""
    lanes = core.governor.current()
    found: dict[str, ModelInfo] = {}
    for name in core.settings.models:
        if "*" not in name and "?" not in name:
            with contextlib.suppress(BifrostError):
                lane = lanes.find(grant, name)[0]
                found[name] = ModelInfo(
                    id=name,
                    mode=lanes.catalogue.mode(lane.host.kind, lane.model) or "chat",
                    max_input_tokens=lane.price.max_input_tokens,
                    max_output_tokens=lane.price.max_output_tokens,
                )
    for provider, (host, _) in lanes.hosts.items():
        for info in lanes.catalogue.models(host.kind):
            if not host.serves(info.id, info.mode):  # it has an API that is not there
                continue
            if check_model(grant.chain, provider, info.id, info.id) is None:
                found.setdefault(info.id, info)
    return found


def shown(info: ModelInfo) -> dict[str, Any]:
    """A model in the shape of Anthropic's list."""
    return {
        "type": "model",
        "id": info.id,
        "display_name": info.display_name or info.id,
        "created_at": "1970-01-01T00:00:00Z",  # the catalogue does not know it
        "lifecycle": "active",
        "line": info.line,
        "max_input_tokens": info.max_input_tokens,
        "max_tokens": info.max_output_tokens,
    }
