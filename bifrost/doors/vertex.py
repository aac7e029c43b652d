"""The Vertex door: Claude as Vertex AI's clients ask it. Decides nothing.

A call is carried as the Messages request that it is; answers are Anthropic's, and pass as they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bifrost.call import Call
from bifrost.doors import messages_ask
from bifrost.doors.anthropic import refusal_answer
from bifrost.doors.door import Door, Headers, Receive, Scope, Send, path_of
from bifrost.errors import MethodNotAllowed, NotServed, Refusal
from bifrost.translate import vertex_anthropic

PREFIX = "/vertex"


class VertexDoor(Door):
    """Serves ``/vertex/v1/projects/…/models/{model}:{verb}``; which project is asked is left to
    the configuration."""

    def answer(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """A refusal as the Anthropic API words it, which is how Claude does at Vertex AI."""
        return refusal_answer(refusal, request_id, more)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``rawPredict`` and ``streamRawPredict`` of a model, or of ``count-tokens``."""
        call = Call("", receive)
        try:
            self.head(scope, call)
            found = vertex_anthropic.address(path_of(scope).removeprefix(PREFIX))
            if found is None:
                raise NotServed(
                    f"This gateway does not serve {scope['path']}; of Vertex AI it serves "
                    "rawPredict and streamRawPredict of Anthropic's models."
                )
            if scope["method"] != "POST":
                raise MethodNotAllowed("Use POST on this path.")
            await self._ask(call, scope, send, *found)
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def _ask(self, call: Call, scope: Scope, send: Send, model: str, stream: bool) -> None:
        await self.body(call)
        counts = model == vertex_anthropic.COUNT
        if counts:
            model = vertex_anthropic.counted(call.body)
        name = self.pipeline.governor.named(vertex_anthropic.names(model))
        asked = vertex_anthropic.request(call.body, name, stream=stream and not counts)
        messages_ask.ask(call, scope["headers"], asked)
        call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
        await (self.pipeline.count_tokens if counts else self.pipeline.messages)(call, send, b"")
