"""A strict host of a cloud and a gateway in front of it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from bifrost.audit import events
from bifrost.audit.log import Reader
from tests.cloudhosts import INPUT, OUTPUT
from tests.commands import until
from tests.issuer import Asked, Issuer
from tests.running import RunningGateway, bearer, configuration

CLAUDE_CODE = Path(__file__).parent / "samples" / "claude-2.1.330-print-turn1.json"
BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "per-turn-control-2026-07-01,mid-conversation-tool-changes-2026-07-01,"
    "thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,effort-2025-11-24"
)


class Place:
    """A strict host and a gateway in front of it."""

    def __init__(self, folder: Path, host: Any, provider: dict[str, Any], **models: str) -> None:
        self.host = host
        self.issuer = Issuer(host)
        text = json.dumps(provider).replace("LOOPBACK", self.issuer.url)
        config = configuration("http://127.0.0.1:9")
        config["providers"] = {"cloud": json.loads(text)}
        config["models"] = {
            name: [{"provider": "cloud", "model": model}] for name, model in models.items()
        }
        folder.mkdir(exist_ok=True)
        self.gateway = RunningGateway(folder, config)
        self.url = self.gateway.url

    def ask(self, body: Any, path: str = "/v1/messages", **headers: str) -> httpx.Response:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=data, headers=bearer() | more, timeout=30)

    def asked(self, *parts: str) -> list[Asked]:
        """What the host was asked, at paths with these parts."""
        return [one for one in self.issuer.asked if any(part in one.target for part in parts)]

    def spent(self) -> Decimal:
        until(lambda: {one[1] for one in self.gateway.spent().values()} == {"0"})
        return Decimal(self.gateway.spent()["keys:alice-dev"][0])

    def close(self) -> None:
        self.gateway.stop()
        self.issuer.__exit__()


def served(place: Place) -> list[events.ModelAccess]:
    """The requests in the audit log."""
    found = (events.decode(raw) for _, raw in Reader(place.gateway.data_dir).read(0, 100_000))
    return [event for event in found if isinstance(event, events.ModelAccess)]


def cost(input_usd: str, output_usd: str, factor: str = "1") -> Decimal:
    """USD of one answer, at prices per million tokens."""
    whole = INPUT * Decimal(input_usd) + OUTPUT * Decimal(output_usd)
    return whole * Decimal(factor) / 1_000_000
