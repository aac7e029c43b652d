"""The entrance: every door of the gateway, and which of them a request goes through."""

from __future__ import annotations

from collections.abc import Callable

from bifrost.doors.anthropic import AnthropicDoor
from bifrost.doors.bedrock import BedrockDoor
from bifrost.doors.door import Door, Handler, Models, Receive, Scope, Send
from bifrost.doors.gemini import PREFIX as GEMINI
from bifrost.doors.gemini import VERTEX, GeminiDoor
from bifrost.doors.openai import OpenAIDoor
from bifrost.doors.vertex import VertexDoor
from bifrost.pipeline import Pipeline
from bifrost.proxies import Proxies

_MODELS = "/v1/models"


class Entrance:
    """All doors, with what they have in common."""

    def __init__(
        self,
        pipeline: Pipeline,
        models: Models,
        proxies: Proxies,
        refused: Callable[[str], None],
        help_url: Callable[[], str | None],
        *,
        max_body_bytes: int,
    ) -> None:
        """As of ``Door``; ``help_url()`` is for people whose budget is used up."""
        self.anthropic = AnthropicDoor(
            pipeline, models, proxies, refused, max_body_bytes=max_body_bytes
        )
        self.openai = OpenAIDoor(pipeline, models, proxies, refused, max_body_bytes=max_body_bytes)
        self.openai.help_url = help_url
        self.gemini = GeminiDoor(pipeline, models, proxies, refused, max_body_bytes=max_body_bytes)
        self.bedrock = BedrockDoor(
            pipeline, models, proxies, refused, max_body_bytes=max_body_bytes
        )
        self.vertex = VertexDoor(pipeline, models, proxies, refused, max_body_bytes=max_body_bytes)
        self._doors: tuple[Door, ...] = (
            self.anthropic,
            self.openai,
            self.gemini,
            self.bedrock,
            self.vertex,
        )
        self._routes: dict[str, Handler] = {
            **self.openai.routes(),
            **self.anthropic.routes(),
            _MODELS: self._models,
        }

    def settle(self, proxies: Proxies, max_body_bytes: int) -> None:
        """Another configuration holds from now on."""
        for door in self._doors:
            door.proxies, door.max_body_bytes = proxies, max_body_bytes

    def handler(self, path: str) -> Handler:
        """What serves a path; one that nothing serves is refused in the words of its prefix."""
        found = self._routes.get(path)
        if found is not None:
            return found
        if path.startswith(f"{_MODELS}/"):
            return self._models
        if path.startswith(f"/anthropic{_MODELS}/"):
            return self.anthropic.list_models
        if path.startswith("/openai/"):
            models = path.startswith(f"/openai{_MODELS}/")
            return self.openai.list_models if models else self.openai.unknown
        if path.startswith("/bedrock/"):
            return self.bedrock.serve
        if path.startswith("/vertex/"):
            return self.gemini.handler(path) if VERTEX in path else self.vertex.serve
        return self.gemini.handler(path) if path.startswith(GEMINI) else self.anthropic.unknown

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The SDKs of both vendors ask here: Anthropic's name the version of their API."""
        versioned = any(name == b"anthropic-version" for name, _ in scope["headers"])
        door = self.anthropic if versioned else self.openai
        await door.list_models(scope, receive, send)
