"""Ways: which translators lie between a client and a host, and what each makes of an answer.

Anthropic's dialect is the one between all others, and the one that meters read: a way gives every
piece of an answer twice, as the client gets it and as the meters do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from bifrost.config.hosts import Api
from bifrost.errors import InvalidRequest
from bifrost.translate import foreign_thinking
from bifrost.translate.anthropic_anthropic import AnthropicAnthropic
from bifrost.translate.anthropic_bedrock import AnthropicBedrock
from bifrost.translate.anthropic_chat import AnthropicChat
from bifrost.translate.anthropic_converse import AnthropicConverse
from bifrost.translate.anthropic_gemini import AnthropicGemini
from bifrost.translate.anthropic_responses import AnthropicResponses
from bifrost.translate.anthropic_vertex import AnthropicVertex
from bifrost.translate.chat_anthropic import ChatAnthropic
from bifrost.translate.chat_chat import ChatChat
from bifrost.translate.converse_families import family
from bifrost.translate.embeddings import Embeddings
from bifrost.translate.embeddings_gemini import EmbeddingsGemini
from bifrost.translate.gemini_anthropic import GeminiAnthropic
from bifrost.translate.gemini_embeddings import GeminiEmbeddings, GeminiOpenAIEmbeddings
from bifrost.translate.gemini_gemini import GeminiGemini
from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.responses_responses import ResponsesResponses
from bifrost.translate.translation import Relay, Retold, Spoken, Stream, Traits, Translation

Translator = Callable[..., Translation]

# Anthropic clients on hosts of these; clients of these on Anthropic hosts; and on their own kind.
TO_HOSTS: dict[Api, Translator] = {
    "bedrock": AnthropicBedrock,
    "chat": AnthropicChat,
    "converse": AnthropicConverse,
    "gemini": AnthropicGemini,
    "responses": AnthropicResponses,
    "vertex": AnthropicVertex,
}
FROM_CLIENTS: dict[Api, Translator] = {
    "chat": ChatAnthropic,
    "gemini": GeminiAnthropic,
    "responses": ResponsesAnthropic,
}
RELAYS: dict[Api, Callable[..., Relay]] = {
    "chat": ChatChat,
    "gemini": GeminiGemini,
    "messages": AnthropicAnthropic,
    "responses": ResponsesResponses,
}
# Embeddings, by the client's form and the host's.
EMBEDDINGS: dict[tuple[Api, Api], Callable[..., Relay]] = {
    ("embeddings", "embeddings"): Embeddings,
    ("embeddings", "gemini_embeddings"): EmbeddingsGemini,
    ("gemini_embeddings", "embeddings"): GeminiOpenAIEmbeddings,
    ("gemini_embeddings", "gemini_embeddings"): GeminiEmbeddings,
}
_EMBED = {client for client, _ in EMBEDDINGS}


class Piece(NamedTuple):
    """What the client gets, and the same for the meters."""

    shown: bytes
    metered: bytes


class Flow(Protocol):
    """An answer's stream under way; what it says is (for the client, for the meters)."""

    def feed(self, chunk: bytes) -> tuple[bytes, bytes]:
        """The next bytes from the host, cut anywhere."""

    def finish(self) -> tuple[bytes, bytes]:
        """The host ended its stream."""


class Way(Protocol):
    """One request on its way to a host, and its answer back."""

    @property
    def body(self) -> bytes:
        """The body for the host."""

    def answer(self, status: int, body: bytes) -> tuple[int, Piece]:
        """(status, body) of a whole answer or an error."""

    def flow(self, input_estimate: int) -> Flow:
        """A reader of the streamed answer; ``input_estimate`` in tokens."""


def way(
    client: Api,
    host: Api,
    body: bytes,
    model: str,
    limit: int | None,
    traits: Traits,
    betas: bytes | None = None,
) -> Way:
    """The way of one request, ``betas`` being those that an Anthropic client's header names.

    Raises InvalidRequest for what the host cannot be told.
    """
    if traits.embeds or client in _EMBED or host in _EMBED:
        return _embedding(client, host, body, model, traits)
    if client == host:
        return _Relayed(RELAYS[host](body, model, max_tokens=limit, traits=traits))
    if host == "messages":
        return _Rendered(FROM_CLIENTS[client](body, model, max_tokens=limit, traits=traits))
    inner = None
    if client != "messages":  # through Claude's words
        said = traits
        if not _is_claude(host, model):  # what another model lacks, the second step knows
            said = replace(traits, adaptive=True, extra_high=True, forced_tools=True, prefill=True)
        inner = FROM_CLIENTS[client](body, model, max_tokens=limit, traits=said)
        body = inner.body
    in_body = host in ("bedrock", "converse")  # they have the betas there
    more = {"betas": _named(betas)} if in_body else {}
    return _Translated(TO_HOSTS[host](body, model, max_tokens=limit, traits=traits, **more), inner)


def _embedding(client: Api, host: Api, body: bytes, model: str, traits: Traits) -> Way:
    if client not in _EMBED:
        raise InvalidRequest(
            f"The model {model!r} makes embeddings only; ask it at /openai/v1/embeddings or by "
            "embedContent, or name another model."
        )
    relay = EMBEDDINGS.get((client, host))
    if relay is None or traits.embeds is False:
        raise InvalidRequest(
            f"The model {model!r} makes no embeddings that this gateway can ask for; "
            "name an embedding model."
        )
    return _Relayed(relay(body, model, max_tokens=None, traits=traits))


def _is_claude(host: Api, model: str) -> bool:
    return host in ("bedrock", "vertex") or (host == "converse" and family(model).claude)


def _named(betas: bytes | None) -> list[str]:
    return [name.strip() for name in (betas or b"").decode("latin-1").split(",")]


class _Relayed:
    """Client and host speak the same: its bytes pass, and are read for the meters beside."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.body = relay.body

    def answer(self, status: int, body: bytes) -> tuple[int, Piece]:
        return status, Piece(self._relay.shown(status, body), self._relay.answer(status, body)[1])

    def flow(self, input_estimate: int) -> Flow:
        return _Beside(self._relay.passing(), self._relay.stream(input_estimate))


class _Translated:
    """The host does not speak Anthropic's dialect; ``inner`` where the client does not either."""

    def __init__(self, outer: Translation, inner: Translation | None = None) -> None:
        self._outer, self._inner = outer, inner
        self.body = outer.body

    def answer(self, status: int, body: bytes) -> tuple[int, Piece]:
        status, metered = self._outer.answer(status, body)
        if self._inner is None:
            return status, Piece(metered, metered)
        status, shown = self._inner.answer(status, metered)
        return status, Piece(shown, metered)

    def flow(self, input_estimate: int) -> Flow:
        outer = self._outer.stream(input_estimate)
        inner = self._inner.stream(input_estimate) if self._inner is not None else None
        if isinstance(outer, Spoken) and isinstance(inner, Retold):
            return _Retold(outer, inner)
        return _Behind(outer, inner)


class _Rendered:
    """An Anthropic host and a client that speaks something else."""

    def __init__(self, inner: Translation) -> None:
        self._inner = inner
        self.body = foreign_thinking.without(inner.body)

    def answer(self, status: int, body: bytes) -> tuple[int, Piece]:
        status, shown = self._inner.answer(status, body)
        return status, Piece(shown, body)

    def flow(self, input_estimate: int) -> Flow:
        return _Behind(None, self._inner.stream(input_estimate))


class _Beside:
    """The host's bytes for the client, and what the meters read of the same bytes."""

    def __init__(self, passing: Stream | None, meter: Stream) -> None:
        self._passing, self._meter = passing, meter

    def feed(self, chunk: bytes) -> tuple[bytes, bytes]:
        shown = chunk if self._passing is None else self._passing.feed(chunk)
        return shown, self._meter.feed(chunk)

    def finish(self) -> tuple[bytes, bytes]:
        shown = b"" if self._passing is None else self._passing.finish()
        return shown, self._meter.finish()


class _Behind:
    """First what the host says in Anthropic's dialect, behind it what the client gets of that."""

    def __init__(self, outer: Stream | None, inner: Stream | None) -> None:
        self._outer, self._inner = outer, inner

    def feed(self, chunk: bytes) -> tuple[bytes, bytes]:
        metered = chunk if self._outer is None else self._outer.feed(chunk)
        return metered if self._inner is None else self._inner.feed(metered), metered

    def finish(self) -> tuple[bytes, bytes]:
        metered = b"" if self._outer is None else self._outer.finish()
        if self._inner is None:
            return metered, metered
        return self._inner.feed(metered) + self._inner.finish(), metered


class _Retold:
    """The same of two translators that need not read again what was just written."""

    def __init__(self, outer: Spoken, inner: Retold) -> None:
        self._outer, self._inner = outer, inner

    def feed(self, chunk: bytes) -> tuple[bytes, bytes]:
        metered = self._outer.feed(chunk)
        said = self._outer.said
        return self._inner.feed(metered) if said is None else self._inner.say(*said), metered

    def finish(self) -> tuple[bytes, bytes]:
        metered = self._outer.finish()
        return self._inner.feed(metered) + self._inner.finish(), metered
