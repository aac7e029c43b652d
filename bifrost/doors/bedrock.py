"""The Bedrock door: InvokeModel and what Claude Code asks beside it; how it words a refusal.

A call is carried as the Messages request that it is, so whatever serves Anthropic's clients serves
these too. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bifrost.call import Call
from bifrost.doors import messages_ask
from bifrost.doors.door import Door, Headers, Message, Receive, Scope, Send, path_of, send_json
from bifrost.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotServed,
    Refusal,
    RequestTooLarge,
    UpstreamError,
    VirtualKeyRequired,
)
from bifrost.translate import bedrock_anthropic
from bifrost.translate.bedrock_anthropic import CONTENT_TYPE, AnthropicStream
from bifrost.translate.translation import SENSELESS

PREFIX = "/bedrock"
_PROFILES = "/inference-profiles"
_LENGTH, _TYPE, _ERROR = b"content-length", b"content-type", b"x-amzn-errortype"
_GUARDRAIL = b"x-amzn-bedrock-guardrailidentifier"  # to drop it would let through what it stops
_SINCE = "1970-01-01T00:00:00Z"  # the catalogue does not know it
_KEYLESS = (
    "This gateway needs a virtual key (sk-bf-...): set it as AWS_BEARER_TOKEN_BEDROCK, or ask your "
    "platform team for one."
)
_encode = msgspec.json.Encoder().encode


class BedrockDoor(Door):
    """Serves ``/bedrock/...``."""

    def answer(
        self, refusal: Refusal, request_id: str, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> tuple[int, Headers, bytes]:
        """A refusal as Bedrock words it.

        Claude Code 2.1.330 asks again for half a minute at a status 403, and tries other forms of
        the request at a 400 without the type that Anthropic gives errors: so neither is sent.
        """
        status = refusal.status
        error = {"type": refusal.kind, "message": str(refusal)}
        if status == 403:
            status, error["type"] = 400, "policy_blocked"
        body = _encode({"message": str(refusal), "error": error})
        headers = [
            (_TYPE, b"application/json"),
            (_LENGTH, b"%d" % len(body)),
            (_ERROR, bedrock_anthropic.exception(refusal.status).encode()),
            (b"x-amzn-requestid", request_id.encode()),  # where the SDKs look for it
            (b"x-request-id", request_id.encode()),
            (b"x-bf-error", refusal.code.encode()),
            (b"x-should-retry", b"true" if refusal.retryable else b"false"),
        ]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        if isinstance(refusal, RequestTooLarge):
            headers.append((b"connection", b"close"))
        return status, [*headers, *more], body

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /bedrock/model/{id}/…`` and ``GET /bedrock/inference-profiles``."""
        call = Call("", receive)
        try:
            self.head(scope, call)
            path = path_of(scope).removeprefix(PREFIX)
            found = bedrock_anthropic.address(path)
            if found is not None:
                await self._ask(call, scope, send, *found)
            elif path in (_PROFILES, f"{_PROFILES}/"):
                await self._profiles(call, scope, send)
            else:
                raise NotServed(
                    f"This gateway does not serve {scope['path']}; of Bedrock it serves invoke, "
                    "invoke-with-response-stream and count-tokens of a model."
                )
        except VirtualKeyRequired:
            await self.refuse(send, VirtualKeyRequired(_KEYLESS), call)
        except Refusal as refusal:
            await self.refuse(send, refusal, call)

    async def _ask(self, call: Call, scope: Scope, send: Send, model: str, operation: str) -> None:
        if scope["method"] != "POST":
            raise MethodNotAllowed("Use POST on this path.")
        if any(header.lower() == _GUARDRAIL for header, _ in scope["headers"]):
            raise InvalidRequest(
                "x-amzn-bedrock-guardrailidentifier: this gateway applies no guardrails of "
                "Bedrock; leave it out."
            )
        await self.body(call)
        name = self.pipeline.governor.named(bedrock_anthropic.names(model))
        counts = operation == "count-tokens"
        if counts:
            asked = bedrock_anthropic.counting(call.body, name)
        else:
            asked = bedrock_anthropic.request(call.body, name, stream=operation != "invoke")
        messages_ask.ask(call, scope["headers"], asked)
        call.began = time.monotonic_ns()  # a client's slow upload is no time of ours
        teller = Teller(call, send, counts=counts)
        await (self.pipeline.count_tokens if counts else self.pipeline.messages)(call, teller, b"")

    async def _profiles(self, call: Call, scope: Scope, send: Send) -> None:
        """What this key may use, as the profiles in which Claude Code looks for its models."""
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed("Use GET on this path.")
        self.pipeline.governor.identify(call)
        ids = dict.fromkeys(_profile(model["id"]) for model in self.models(call))
        told = {"inferenceProfileSummaries": [_summary(one) for one in ids if one is not None]}
        await send_json(send, call.request_id, told, self.pipeline.budget(call))


def _profile(model: str) -> str | None:
    """The id of a profile by which a model can be asked for here; None for models not Claude's."""
    if model.startswith("claude-") and "@" not in model:
        return f"global.anthropic.{model}"
    region, dot, rest = model.partition(".anthropic.claude-")
    return model if dot and region and rest and "/" not in model else None


def _summary(profile: str) -> dict[str, Any]:
    arn = f"arn:aws:bedrock:::inference-profile/{profile}"
    model = f"arn:aws:bedrock:::foundation-model/{profile.partition('.')[2]}"
    return {
        "inferenceProfileId": profile,
        "inferenceProfileName": profile,
        "inferenceProfileArn": arn,
        "models": [{"modelArn": model}],
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
        "createdAt": _SINCE,
        "updatedAt": _SINCE,
    }


class Teller:
    """A ``send`` that says as Bedrock does what is sent in Anthropic's dialect."""

    def __init__(self, call: Call, send: Send, *, counts: bool) -> None:
        """``counts``: the answer is a token count."""
        self._call, self._send, self._counts = call, send, counts
        self._stream: AnthropicStream | None = None
        self._start: Message | None = None  # until its body is known

    async def __call__(self, message: Message) -> None:
        """Sends one message of ASGI; raises UpstreamError for a stream that makes no sense."""
        if message["type"] == "http.response.start":
            await self._head(message)
        elif self._stream is not None:
            await self._send({**message, "body": self._frames(message.get("body", b""))})
        elif self._start is not None:
            await self._whole(self._start, message)
        else:
            await self._send(message)

    async def _head(self, message: Message) -> None:
        headers: Headers = message["headers"]
        streams = any(name == _TYPE and value.startswith(b"text/event-stream")
                      for name, value in headers)  # fmt: skip
        number = (b"x-amzn-requestid", self._call.request_id.encode())
        if message["status"] == 200 and streams:
            self._stream = AnthropicStream()
            kept = [one for one in headers if one[0] != _TYPE]
            typed = [(_TYPE, CONTENT_TYPE.encode()),
                     (b"x-amzn-bedrock-content-type", b"application/json")]  # fmt: skip
            await self._send({**message, "headers": [*kept, *typed, number]})
        else:
            self._start = {**message, "headers": [*headers, number]}

    def _frames(self, piece: bytes) -> bytes:
        if self._call.broke:  # the last word: what it interrupts was not told yet
            self._stream = AnthropicStream()
            piece = piece.lstrip(b"\n")
        assert self._stream is not None
        try:
            return self._stream.feed(piece)
        except SENSELESS as error:
            raise UpstreamError(
                f"The provider's answer cannot be understood ({error!r}).", sent=True
            ) from error

    async def _whole(self, start: Message, message: Message) -> None:
        """A whole answer; an error keeps its status."""
        headers, body = start["headers"], message.get("body", b"")
        told, name = bedrock_anthropic.answer(start["status"], body)
        if self._counts and name is None:
            try:
                told = bedrock_anthropic.counted(body)
            except SENSELESS as error:
                raise UpstreamError(f"The provider does not count tokens ({error!r}).") from error
        if told is not body:
            ours = (_LENGTH, _TYPE, b"content-encoding")
            headers = [one for one in headers if one[0] not in ours]
            headers += [(_TYPE, b"application/json"), (_LENGTH, b"%d" % len(told))]
        if name is not None:
            headers.append((_ERROR, name.encode()))
        self._start = None
        await self._send({**start, "headers": headers})
        await self._send({**message, "body": told})
