"""The passage to one model of one host: signs, sends and awaits the head of the answer."""

from __future__ import annotations

import time

from bifrost.call import Call
from bifrost.config.hosts import Api
from bifrost.metering.usage import output_estimate
from bifrost.passage.crossing import EVENTS, JSON, Crossing
from bifrost.passage.ways import way
from bifrost.providers.table import PATHS, Host
from bifrost.translate.translation import Traits
from bifrost.upstream.pool import Origin

_HEAD = (
    b"POST %b%b%b\r\n%bcontent-type: application/json\r\naccept: %b\r\ncontent-length: %d\r\n\r\n"
)
_ANTHROPIC = b"anthropic-version: 2023-06-01\r\n"
# Of a client's own header lines: what a host of the same dialect may depend on.
_PASSED = (b"openai-beta:", b"x-codex-", b"x-openai-", b"x-client-request-id:", b"user-agent:")


class Passage:
    """The way to a model for calls that do not reach it untouched in Anthropic's dialect."""

    __slots__ = ("_host", "_model", "_origin", "_traits")

    def __init__(self, host: Host, origin: Origin, model: str, traits: Traits) -> None:
        self._host, self._origin, self._model, self._traits = host, origin, model, traits

    async def send(self, call: Call) -> Crossing:
        """Sends a call's request translated; awaits the head of the answer.

        Raises InvalidRequest for what cannot be translated, UpstreamError like any sending.
        """
        client: Api = "messages" if call.dialect is None else call.dialect.api
        spoken = self._host.spoken(client)
        limit = call.output_limit or None
        found = way(client, spoken, call.body, self._model, limit, self._traits)
        call.key_index = self._host.pick()
        signed = self._host.signed(self._origin.host_header)[call.key_index]
        body = found.body
        head = _HEAD % (
            self._origin.path_prefix + PATHS[spoken], signed, call.request_id.encode(),
            self._lines(call, client, spoken), EVENTS if call.scan.stream else JSON, len(body),
        )  # fmt: skip
        call.sent_upstream = True
        call.sent = time.monotonic_ns()
        exchange = await self._origin.send([head, body])
        named = [v for name, v in exchange.headers if name in (b"x-request-id", b"request-id")]
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
