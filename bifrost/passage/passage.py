"""The passage to one model of one host: signs, sends and awaits the head of the answer."""

from __future__ import annotations

import time

from bifrost.call import Call
from bifrost.config.hosts import Api
from bifrost.metering.usage import output_estimate
from bifrost.passage.crossing import EVENTS, JSON, Crossing
from bifrost.passage.ways import way
from bifrost.providers.table import LEAST_OUTPUT, Host, path
from bifrost.translate.translation import Traits
from bifrost.upstream.pool import Origin

_HEAD = (
    b"POST %b%b%b\r\n%bcontent-type: application/json\r\naccept: %b\r\ncontent-length: %d\r\n\r\n"
)
_ANTHROPIC = b"anthropic-version: 2023-06-01\r\n"
# Of a client's own header lines: what a host of the same dialect may depend on.
_PASSED = (b"openai-beta:", b"x-codex-", b"x-openai-", b"x-client-request-id:", b"user-agent:")

# Headers in which hosts say their own number of a request: OpenAI, Anthropic, Google.
_NUMBERS = frozenset({b"x-request-id", b"request-id", b"x-goog-request-id"})


class Passage:
    """The way to a model for calls that do not reach it untouched in Anthropic's dialect."""

    __slots__ = ("_host", "_model", "_only", "_origin", "_traits")

    def __init__(
        self, host: Host, origin: Origin, model: str, traits: Traits, only: Api | None = None
    ) -> None:
        """``only``: the API that serves this model, where it is one of several."""
        self._host, self._origin, self._model, self._traits = host, origin, model, traits
        self._only = only

    def least_output(self, client: Api) -> int:
        """The lowest limit of output tokens that can be set there for a client of that API."""
        spoken = self._host.spoken(client, self._only)
        return 1 if spoken == client else LEAST_OUTPUT.get(spoken, 1)

    async def send(self, call: Call) -> Crossing:
        """Sends a call's request translated; awaits the head of the answer.

        Raises InvalidRequest for what cannot be translated, UpstreamError like any sending.
        """
        client: Api = "messages" if call.dialect is None else call.dialect.api
        spoken = self._host.spoken(client, self._only)
        limit = call.output_limit or None
        found = way(client, spoken, call.body, self._model, limit, self._traits)
        call.key_index = self._host.pick()
        signed = self._host.signed(self._origin.host_header)[call.key_index]
        body = found.body
        head = _HEAD % (
            self._origin.path_prefix + path(spoken, self._model, stream=call.scan.stream),
            signed, call.request_id.encode(),
            self._lines(call, client, spoken), EVENTS if call.scan.stream else JSON, len(body),
        )  # fmt: skip
        call.sent_upstream = True
        call.sent = time.monotonic_ns()
        exchange = await self._origin.send([head, body])
        named = [value for name, value in exchange.headers if name in _NUMBERS]
        if named:
            call.upstream_request = named[0].decode("latin-1")
        return Crossing(exchange, found, output_estimate(len(call.body)), same=client == spoken)

    @staticmethod
    def _lines(call: Call, client: Api, spoken: Api) -> bytes:
        if client == spoken:
            lines: list[bytes] = call.head.forward.split(b"\r\n")
            return b"".join(line + b"\r\n" for line in lines if line.startswith(_PASSED))
        return _ANTHROPIC if spoken == "messages" else b""

    @staticmethod
    def count(call: Call) -> bytes:
        """An answer to a token count, which this host cannot give: estimated by the size."""
        return b'{"input_tokens":%d}' % output_estimate(len(call.body))
