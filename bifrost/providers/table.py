"""The table of hosts: where a provider lives, what it speaks, how a request for it is signed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from bifrost.config.hosts import TABLE, Api, Kind, Quirks, Row, address, headers, serving
from bifrost.errors import ConfigError
from bifrost.providers.proofs import Proof

QUIRKS = Quirks()
_HEAD = b" HTTP/1.1\r\nhost: %b\r\n%baccept-encoding: identity\r\nx-request-id: "


_PATHS: dict[Api, bytes] = {
    "messages": b"/v1/messages",
    "chat": b"/chat/completions",
    "responses": b"/responses",
    "embeddings": b"/embeddings",
}
_MODELS: dict[Api, tuple[str, str]] = {  # whole, streamed: where the path says the model
    "bedrock": ("/model/%s/invoke", "/model/%s/invoke-with-response-stream"),
    "converse": ("/model/%s/converse", "/model/%s/converse-stream"),
    "gemini": ("/models/%s:generateContent", "/models/%s:streamGenerateContent?alt=sse"),
    "gemini_embeddings": ("/models/%s:batchEmbedContents", "/models/%s:batchEmbedContents"),
    "vertex": ("/models/%s:rawPredict", "/models/%s:streamRawPredict"),
}
_COUNTS: dict[Api, str] = {  # where tokens are counted
    "bedrock": "/model/%s/count-tokens",
    "converse": "/model/%s/count-tokens",
    "gemini": "/models/%s:countTokens",
    "messages": "/v1/messages/count_tokens",
    "responses": "/responses/input_tokens",
    "vertex": "/models/count-tokens:rawPredict",
}
# Bedrock counts for models under their own ids alone, not under those of inference profiles.
_FOUNDATION = re.compile(
    r"(?:arn:aws[\w-]*:bedrock:[^/]*:(?:foundation-model|inference-profile)/)?"
    r"(?:(?:apac|au|ca|eu|global|jp|sa|us|us-gov)\.(?=[a-z0-9-]+\.))?([a-z0-9-]+\..+)"
)
_BY_MODEL: tuple[Api, ...] = ("bedrock", "converse")
ONLY: dict[str, tuple[Api, ...]] = {  # by mode, which APIs serve such models
    "responses": ("responses",),
    "embedding": ("embeddings", "gemini_embeddings"),
}
LEAST_OUTPUT: dict[Api, int] = {"responses": 16}  # tokens; a lower limit is refused there


class Credential(msgspec.Struct, frozen=True):
    """A provider key: its name in reports, its secret and its share of the traffic."""

    name: str
    value: str
    weight: float = 1.0

    def __repr__(self) -> str:
        return f"Credential({self.name!r})"


class Host:
    """One configured provider, ready to have requests addressed to it."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        base_url: str | None,
        credentials: list[Credential],
        api: Api | None = None,
        place: Mapping[str, str | None] | None = None,
        proof: Proof | None = None,
        *,
        quirks: Quirks = QUIRKS,
    ) -> None:
        """``place``: its region, project and so on; ``proof``: what it is shown instead of keys;
        ``quirks`` beside those of its type.

        Raises ConfigError where the type needs an address and none is given.
        """
        self.api, url = address(kind, api, base_url, place)
        self._chosen = api
        self.proof = proof
        self.region = (place or {}).get("region")
        self.geo = geo(kind, place)
        if url is None:
            raise ConfigError(f"providers.{name}.network.base_url: needed for type {kind!r}")
        self.base_url = url
        self.name = name
        self.kind = kind
        self.row = row = TABLE[kind]
        self.quirks = quirks.over(row.quirks)
        self._names = [credential.name for credential in credentials] or [""]
        self._weights = [credential.weight for credential in credentials]
        self._signed = [_signed(row, credential.value) for credential in credentials] or [
            b"x-api-key: mock\r\n" if kind == "mock" else b""
        ]
        if proof is None:  # else it is in the proof, which may have to sign it
            always = headers(kind, place or {}).items()
            lines = "".join(f"{name}: {value}\r\n" for name, value in always).encode("latin-1")
            self._signed = [signed + lines for signed in self._signed]
        self._heads: dict[bytes, list[bytes]] = {}
        self._each: list[tuple[Host, float]] = [(self, 1.0)]
        if len(credentials) > 1:
            self._each = [
                (
                    Host(name, kind, base_url, [one], api, place, proof, quirks=quirks),
                    one.weight,
                )
                for one in credentials
                if one.weight
            ]

    def spoken(self, client: Api, model: str, only: tuple[Api, ...] = ()) -> Api:
        """The API to use for a model and clients of one: their own, or else the usual one;
        ``only``: those that the model is served by, if the host has them."""
        apis = self.serving(model)
        for one in only:
            if one in apis:
                return one
        if client in apis or not apis:
            return client
        embedding = [one for one in ONLY["embedding"] if one in apis]
        if client in ONLY["embedding"] and embedding:
            return embedding[0]
        return next(one for one in self.row.apis if one in apis)

    def serving(self, model: str) -> frozenset[Api]:
        """The APIs that serve a model here; none where it cannot be had."""
        return serving(self.kind, self._chosen, model)

    def path(self, api: Api, model: str, *, stream: bool = False) -> bytes:
        """Where an API takes requests, below its address."""
        return self.prefix(api) + path(api, model, stream=stream)

    def prefix(self, api: Api) -> bytes:
        """What an API's paths begin with."""
        return self.row.prefixes.get(api, "").encode()

    def counting(self, api: Api, model: str) -> Api | None:
        """The API that counts the tokens of requests that go to a model by ``api``: itself, or
        OpenAI's Responses for its Chat; None where nothing does."""
        if api == "chat" and "responses" in self.serving(model):
            api = "responses"
        if api not in _COUNTS or api in self.row.uncounted:
            return None
        return None if api in _BY_MODEL and not _FOUNDATION.fullmatch(model) else api

    def counting_path(self, api: Api, model: str) -> bytes:
        """Where an API that counts does so, below its address."""
        form = _COUNTS[api]
        if api in _BY_MODEL and (found := _FOUNDATION.fullmatch(model)):
            model = found[1]
        named = form % quote(model, safe=":@") if "%s" in form else form
        return self.prefix(api) + named.encode()

    def serves(self, model: str, mode: str) -> bool:
        """Whether a model with that mode of the catalogue can be had here."""
        apis = self.serving(model)
        return not apis.isdisjoint(ONLY[mode]) if mode in ONLY else bool(apis) and mode == "chat"

    def each(self) -> list[tuple[Host, float]]:
        """The host once per provider key that has a share of the traffic, with that share."""
        return self._each

    def pick(self) -> int:
        """The index of a provider key, by weight."""
        if len(self._signed) == 1:
            return 0
        return random.choices(range(len(self._signed)), self._weights)[0]

    def key_name(self, index: int) -> str:
        """The configured name of a provider key."""
        return self._names[index]

    def signed(self, host: bytes) -> list[bytes]:
        """By provider key: a request's head from behind its path to the value of its id.

        The request's id goes with it, so that a provider's record can be found for ours.
        """
        found = self._heads.get(host)
        if found is None:
            found = self._heads[host] = [_HEAD % (host, line) for line in self._signed]
        return found


def _signed(row: Row, secret: str) -> bytes:
    """Anthropic accepts x-api-key for API keys; OAuth tokens (sk-ant-oat...) only as Bearer. Azure
    has its Claude models ask for x-api-key and all others for api-key: each ignores the other."""
    value = secret.encode("latin-1")
    if row.key == "bearer" or secret.startswith("sk-ant-oat"):
        return b"authorization: Bearer %b\r\n" % value
    if row.key == "api-key":
        return b"x-api-key: %b\r\napi-key: %b\r\n" % (value, value)
    return b"%b: %b\r\n" % (row.key.encode(), value)


def path(api: Api, model: str, *, stream: bool) -> bytes:
    """Where an API takes requests. Google's and Bedrock's paths say the model and how to answer."""
    forms = _MODELS.get(api)
    return _PATHS[api] if forms is None else (forms[stream] % quote(model, safe=":@")).encode()


def geo(kind: Kind, place: Mapping[str, str | None] | None) -> str | None:
    """Where a host serves, as far as prices depend on it: Vertex AI anywhere but globally."""
    region = (place or {}).get("region")
    return "regional" if kind == "vertex" and region not in (None, "global") else None
