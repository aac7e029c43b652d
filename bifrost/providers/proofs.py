"""Proofs: the header lines that prove to a provider in a cloud who asks, made for each request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from bifrost.config.hosts import headers
from bifrost.config.settings import Provider
from bifrost.providers import aws, azure, google
from bifrost.providers.asking import Ask
from bifrost.providers.tokens import Tokens
from bifrost.sigv4 import Credentials, signed_headers

_SERVICES = {  # as signatures name them
    "anthropic_aws": "aws-external-anthropic",
    "bedrock": "bedrock",
    "bedrock_mantle": "bedrock-mantle",
}


class Proof(Protocol):
    """How one provider is told who asks. ``refusals`` are the statuses by which it may say that
    what it was shown holds no more."""

    refusals: frozenset[int]

    @property
    def tokens(self) -> Tokens[Any]:
        """What is shown, as long as it holds."""

    def lines(self, shown: Any, host: bytes, target: bytes, body: bytes) -> bytes:
        """The lines for a POST of ``body``; ``shown`` is one of ``tokens``."""


class Bearer:
    """An access token."""

    refusals = frozenset({401})

    def __init__(self, tokens: Tokens[str]) -> None:
        self.tokens = tokens

    def lines(self, shown: str, host: bytes, target: bytes, body: bytes) -> bytes:
        """The token alone, whatever the request is."""
        return b"authorization: Bearer %b\r\n" % shown.encode("ascii")


class Signature:
    """A signature of AWS over the request."""

    refusals = frozenset({401, 403})

    def __init__(
        self,
        tokens: Tokens[Credentials],
        region: str,
        service: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``headers``: what goes with every request, and is signed too."""
        self.tokens = tokens
        self._region, self._service = region, service
        self._headers = headers

    def lines(self, shown: Credentials, host: bytes, target: bytes, body: bytes) -> bytes:
        """The signature, its time, the token of temporary credentials, and what is signed too."""
        path, _, query = target.decode("ascii").partition("?")
        signed = signed_headers(
            shown, method="POST", host=host.decode("ascii"), path=path,
            query=parse_qsl(query, keep_blank_values=True), headers=self._headers,
            body_sha256=hashlib.sha256(body).hexdigest(), region=self._region,
            service=self._service,
        )  # fmt: skip
        del signed["host"]
        return "".join(f"{name}: {value}\r\n" for name, value in signed.items()).encode("ascii")


def proof(name: str, provider: Provider, ask: Ask) -> Proof | None:
    """The proof of a provider; None for one that is shown a key, or nothing."""
    if provider.type in ("vertex", "anthropic_google_cloud"):
        return Bearer(Tokens(name, _google(provider, ask)))
    if provider.type == "azure" and provider.entra is not None:
        return Bearer(Tokens(name, _azure(provider, ask)))
    service = _SERVICES.get(provider.type)
    if service is not None and not provider.keys:
        region = provider.region or ""
        always = headers(provider.type, provider.place)
        return Signature(Tokens(name, _aws(provider, ask, region)), region, service, always)
    return None


def _google(provider: Provider, ask: Ask) -> google.Source:
    return google.source(ask, file=provider.credentials_file, text=provider.credentials_json)


def _azure(provider: Provider, ask: Ask) -> azure.Source:
    told = provider.entra
    assert told is not None
    client = azure.Client(
        tenant_id=told.tenant_id,
        client_id=told.client_id,
        secret=told.client_secret,
        certificate_file=told.certificate_file,
        certificate_password=told.certificate_password,
        token_file=told.token_file,
        authority=told.authority or azure.AUTHORITY,
        scope=told.scope or azure.SCOPE,
    )
    return azure.source(ask, client)


def _aws(provider: Provider, ask: Ask, region: str) -> aws.Source:
    told = provider.aws
    if told is None:
        return aws.source(ask, aws.Wanted(region=region))
    wanted = aws.Wanted(
        region=region,
        access_key_id=told.access_key_id,
        secret_access_key=told.secret_access_key,
        session_token=told.session_token,
        profile=told.profile,
        role_arn=told.role_arn,
        external_id=told.external_id,
        programs=told.credential_process,
    )
    return aws.source(ask, wanted)
