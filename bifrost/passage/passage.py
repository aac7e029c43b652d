"""The passage to one model of one host: signs, sends and awaits the head of the answer."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

from bifrost.call import Call
from bifrost.config.hosts import Api
from bifrost.metering.usage import output_estimate
from bifrost.passage.counts import counting, told
from bifrost.passage.crossing import EVENTS, JSON, Crossing
from bifrost.passage.ways import Way, way
from bifrost.providers.table import LEAST_OUTPUT, Host
from bifrost.translate.betas import BETAS, accepted
from bifrost.translate.gathered import GATHERED, streaming
from bifrost.translate.translation import Traits
from bifrost.upstream.pool import Exchange, Origin

_HEAD = b"POST %b%b%b\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_ANTHROPIC = b"anthropic-version: 2023-06-01\r\n"
# Of a client's own header lines: what a host of the same dialect may depend on.
_PASSED = (b"openai-beta:", b"x-codex-", b"x-openai-", b"x-client-request-id:", b"user-agent:")
_WRITTEN = (b"content-type:", b"accept:")  # by a passage itself

_BY_PATH = ("bedrock", "converse")  # they say by their paths alone whether to stream
_NAMING = ("messages", "vertex", "bedrock")  # their answers say which model served

# Headers in which hosts say their own number of a request: OpenAI, Anthropic, Google, AWS.
_NUMBERS = frozenset({
    b"x-request-id", b"request-id", b"x-goog-request-id", b"x-amzn-requestid"
})  # fmt: skip


class Passage:
    """The way to a model for calls that do not reach it untouched in Anthropic's dialect."""

    __slots__ = ("_host", "_model", "_only", "_origin", "_traits")

    def __init__(
        self, host: Host, origin: Origin, model: str, traits: Traits, only: tuple[Api, ...] = ()
    ) -> None:
        """``only``: the APIs that serve this model, where there are others."""
        self._host, self._origin, self._model, self._traits = host, origin, model, traits
        self._only = only

    @property
    def direct(self) -> bool:
        """Whether calls of Anthropic clients need no passage: the host takes them as they are."""
        untouched = self._host.proof is None and self._host.kind not in BETAS
        return untouched and self._spoken("messages") == "messages"

    def counts(self, client: Api) -> bool:
        """Whether the host counts the tokens of a request of that API's client."""
        return self._host.counting(self._spoken(client), self._model) is not None

    def names_model(self, call: Call) -> bool:
        """Whether the model in an answer, as the meters read it, is the host's word; else it is
        what was asked for, by a translator."""
        return self._spoken(_client(call)) in _NAMING

    def least_output(self, client: Api) -> int:
        """The lowest limit of output tokens that can be set there for a client of that API."""
        spoken = self._spoken(client)
        return 1 if spoken == client else LEAST_OUTPUT.get(spoken, 1)

    async def send(self, call: Call) -> Crossing:
        """Sends a call's request translated; awaits the head of the answer.

        Raises InvalidRequest for what cannot be translated, UpstreamError like any sending.
        """
        client = _client(call)
        spoken = self._spoken(client)
        limit = call.output_limit or None
        betas = call.head.anthropic_beta
        found = way(client, spoken, call.body, self._model, limit, self._traits, betas)
        path = self._host.path(spoken, self._model, stream=call.scan.stream)
        return await self._cross(call, client, spoken, path, found)

    async def count(self, call: Call) -> Crossing:
        """Asks the host, which must count, for the tokens of a call's request; awaits the head.

        Raises as ``send`` does.
        """
        client = _client(call)
        counted = self._host.counting(self._spoken(client), self._model)
        assert counted is not None
        betas, kind = call.head.anthropic_beta, self._host.kind
        found = counting(client, counted, call.body, self._model, self._traits, kind, betas)
        path = self._host.counting_path(counted, self._model)
        return await self._cross(call, client, counted, path, found, counts=True)

    async def _cross(
        self,
        call: Call,
        client: Api,
        spoken: Api,
        path: bytes,
        found: Way,
        *,
        counts: bool = False,
    ) -> Crossing:
        call.key_index = self._host.pick()
        streams = call.scan.stream and spoken not in _BY_PATH
        body, gathered = found.body, None
        if (
            self._host.quirks.streams_only
            and spoken in GATHERED
            and not call.scan.stream
            and not counts
        ):
            body, gathered, streams = streaming(spoken, body), GATHERED[spoken](), True
        lines = b"accept: %b\r\n" % (EVENTS if streams else JSON)
        lines += self._lines(call, client, spoken)
        exchange = await self._exchange(call, self._origin.path_prefix + path, lines, body)
        named = [value for name, value in exchange.headers if name in _NUMBERS]
        if named:
            call.upstream_request = named[0].decode("latin-1")
        estimate, same = output_estimate(len(call.body)), client == spoken
        return Crossing(exchange, found, estimate, same=same, gathered=gathered)

    def _spoken(self, client: Api) -> Api:
        return self._host.spoken(client, self._model, self._only)

    async def _exchange(self, call: Call, target: bytes, lines: bytes, body: bytes) -> Exchange:
        """Sends it, with a proof of who asks where the host wants one; once more with another proof
        if the host says that this one holds no more."""
        proof, host = self._host.proof, self._origin.host_header
        if proof is None:
            return await self._send(call, target, lines, body)
        shown = await proof.tokens.get()
        proven = lines + proof.lines(shown, host, target, body)
        exchange = await self._send(call, target, proven, body)
        if exchange.status in proof.refusals:
            other = await proof.tokens.instead(shown)
            if other is not None:
                exchange.cancel()
                proven = lines + proof.lines(other, host, target, body)
                exchange = await self._send(call, target, proven, body)
        return exchange

    def _send(
        self, call: Call, target: bytes, lines: bytes, body: bytes
    ) -> Coroutine[Any, Any, Exchange]:
        signed = self._host.signed(self._origin.host_header)[call.key_index]
        head = _HEAD % (target, signed, call.request_id.encode(), lines, len(body))
        call.sent_upstream = True
        call.sent = time.monotonic_ns()
        return self._origin.send([head, body])

    def _lines(self, call: Call, client: Api, spoken: Api) -> bytes:
        """What the host gets of the client's own header lines, or in their place."""
        if client == "messages" and spoken in ("messages", "vertex"):
            return self._anthropic(call, spoken)
        if client == spoken:
            lines: list[bytes] = call.head.forward.split(b"\r\n")
            return b"".join(line + b"\r\n" for line in lines if line.startswith(_PASSED))
        return _ANTHROPIC if spoken == "messages" else b""

    def _anthropic(self, call: Call, spoken: Api) -> bytes:
        """Of an Anthropic client on a host that speaks as it does: all, but for unknown betas;
        Vertex AI has the version in the body and knows no other header."""
        left_out: tuple[bytes, ...] = _WRITTEN
        betas = b""
        if self._host.kind in BETAS:
            left_out += (b"anthropic-beta:",)
            known = accepted(self._host.kind, call.head.anthropic_beta)
            betas = b"anthropic-beta: %b\r\n" % known if known else b""
        if spoken == "vertex":
            return betas
        lines: list[bytes] = call.head.forward.split(b"\r\n")
        kept = (line for line in lines if line and not line.startswith(left_out))
        return b"".join(line + b"\r\n" for line in kept) + betas

    @staticmethod
    def estimate(call: Call) -> bytes:
        """An answer to a token count that no host gives: estimated by the size."""
        return told(_client(call), output_estimate(len(call.body)))


def _client(call: Call) -> Api:
    return "messages" if call.dialect is None else call.dialect.api
