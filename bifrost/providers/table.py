"""The table of hosts: where a provider lives, what it speaks, how a request for it is signed."""

from __future__ import annotations

import random
from urllib.parse import quote

import msgspec

from bifrost.config.hosts import TABLE, Api, Kind, Row, address, beside
from bifrost.errors import ConfigError

_HEAD = b" HTTP/1.1\r\nhost: %b\r\n%baccept-encoding: identity\r\nx-request-id: "


_PATHS: dict[Api, bytes] = {
    "messages": b"/v1/messages",
    "chat": b"/chat/completions",
    "responses": b"/responses",
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
    ) -> None:
        """Raises ConfigError where the type needs an address and none is given."""
        self.api, url = address(kind, api, base_url)
        self._apis = beside(kind, api)
        if url is None:
            raise ConfigError(f"providers.{name}.network.base_url: needed for type {kind!r}")
        self.base_url = url
        self.name = name
        self.kind = kind
        self.row = row = TABLE[kind]
        self._names = [credential.name for credential in credentials] or [""]
        self._weights = [credential.weight for credential in credentials]
        self._signed = [_signed(row, credential.value) for credential in credentials] or [
            b"x-api-key: mock\r\n" if kind == "mock" else b""
        ]
        self._heads: dict[bytes, list[bytes]] = {}
        self._each: list[tuple[Host, float]] = [(self, 1.0)]
        if len(credentials) > 1:
            self._each = [
                (Host(name, kind, base_url, [one], api), one.weight)
                for one in credentials
                if one.weight
            ]

    def spoken(self, client: Api, only: Api | None = None) -> Api:
        """The API to use for clients of one: their own, or else the usual one; ``only``: the one
        that the model is served by, if the host has it."""
        if only is not None and only in self._apis:
            return only
        return client if client in self._apis else self.api

    def serves(self, mode: str) -> bool:
        """Whether a model with that mode of the catalogue can be had here."""
        return mode == "chat" or (mode == "responses" and mode in self._apis)

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
    """Anthropic accepts x-api-key for API keys; OAuth tokens (sk-ant-oat...) only as Bearer."""
    if row.key == "bearer" or secret.startswith("sk-ant-oat"):
        return b"authorization: Bearer %b\r\n" % secret.encode("latin-1")
    return b"%b: %b\r\n" % (row.key.encode(), secret.encode("latin-1"))


def path(api: Api, model: str, *, stream: bool) -> bytes:
    """Where an API takes requests, below its address. Gemini's says the model and how to answer."""
    if api != "gemini":
        return _PATHS[api]
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/models/{quote(model, safe=':')}:{verb}".encode()
