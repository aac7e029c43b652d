"""Microsoft Entra ID's access tokens: a client's secret, certificate or federated token, or the
managed identity of the machine.

Facts: msal 1.39, azure-identity 1.27 and Microsoft's "OAuth 2.0 client credentials flow" and
"certificate credentials" (read 2026-11).
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from bifrost.errors import BifrostError
from bifrost.providers.asking import (
    Ask,
    CredentialError,
    Errand,
    Reply,
    document,
    form,
    member,
    safe_address,
    seconds,
)
from bifrost.providers.assertions import base64url, private_key, signed_ps256
from bifrost.providers.tokens import Lease, lease

AUTHORITY = "https://login.microsoftonline.com"
SCOPE = "https://ai.azure.com/.default"
_INSTANCE = "http://169.254.169.254"
_IDENTITY = "/metadata/identity/oauth2/token"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_S = 600
_HOUR_S = 3_600
MARGIN_S = 300.0
_LONG_S = 7_200  # one that lasts longer is renewed at its half, as Microsoft's libraries do

Source = Callable[[], Awaitable[Lease[str]]]


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. With at most one of ``secret``, ``certificate_file`` (PEM with its key) and
    ``token_file`` it is an application of ``tenant_id``; with none of them, the managed identity of
    the machine, ``client_id`` naming one of several. ``repr`` shows no secret.
    """

    tenant_id: str | None = None
    client_id: str | None = None
    secret: str | None = None
    certificate_file: str | None = None
    certificate_password: str | None = None
    token_file: str | None = None
    authority: str = AUTHORITY
    scope: str = SCOPE

    def __repr__(self) -> str:
        return f"Client(tenant_id={self.tenant_id!r}, client_id={self.client_id!r}, …)"

    @property
    def proves_itself(self) -> bool:
        """Whether it has something to prove itself with."""
        return bool(self.secret or self.certificate_file or self.token_file)

    def completed(self, environ: Mapping[str, str]) -> Client:
        """One of which nothing is said, by the variables that Microsoft's libraries read."""
        if self.proves_itself or self.client_id or self.tenant_id:
            return self
        found = {name: environ.get(f"AZURE_{variable}") or None for name, variable in _VARIABLES}
        if not found["tenant_id"]:
            found = {"client_id": found["client_id"]}
        elif found["secret"]:
            found |= {"certificate_file": None, "token_file": None}
        elif found["certificate_file"]:
            found["token_file"] = None
        authority = environ.get("AZURE_AUTHORITY_HOST")
        if authority and self.authority == AUTHORITY:
            found["authority"] = authority if "//" in authority else f"https://{authority}"
        return msgspec.structs.replace(self, **found)


_VARIABLES = (
    ("tenant_id", "TENANT_ID"),
    ("client_id", "CLIENT_ID"),
    ("secret", "CLIENT_SECRET"),
    ("certificate_file", "CLIENT_CERTIFICATE_PATH"),
    ("certificate_password", "CLIENT_CERTIFICATE_PASSWORD"),
    ("token_file", "FEDERATED_TOKEN_FILE"),
)


def source(
    ask: Ask,
    client: Client,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> Source:
    """How to get an access token for ``client``; files are read anew each time."""

    async def fetch() -> Lease[str]:
        who = client.completed(environ)
        if who.proves_itself:
            return await _application(ask, who, clock)
        return await _managed(ask, who, environ, clock)

    return fetch


async def _application(ask: Ask, who: Client, clock: Callable[[], float]) -> Lease[str]:
    if not who.tenant_id or not who.client_id:
        raise CredentialError("An application needs a tenant_id and a client_id.", lasting=True)
    base = safe_address(who.authority.rstrip("/"), "authority")
    url = f"{base}/{quote(who.tenant_id)}/oauth2/v2.0/token"
    fields = {"client_id": who.client_id, "grant_type": "client_credentials", "scope": who.scope}
    if who.secret is not None:
        fields["client_secret"] = who.secret
    else:
        fields["client_assertion_type"] = _ASSERTION_TYPE
        fields["client_assertion"] = await asyncio.to_thread(_assertion, who, url, clock())
    errand = form(url, fields, {"accept": "application/json"})
    advice = "Has the secret or certificate ended, and does the application exist in this tenant?"
    if who.token_file is not None and who.secret is None:
        advice = "Has the application a federated credential for this issuer and subject?"
    return _token(errand, document(errand, await ask(errand), advice), clock())


def _assertion(who: Client, url: str, now: float) -> str:
    """What proves the application: another issuer's token, or one that its certificate signs."""
    if who.certificate_file is None:
        token = _read(who.token_file or "").decode("utf-8", "replace").strip()
        if not token:
            raise CredentialError(f"{who.token_file} holds no token.")
        return token
    pem = _read(who.certificate_file)
    key = private_key(pem, f"the key in {who.certificate_file}", who.certificate_password)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise CredentialError(
            f"{who.certificate_file} holds no PEM certificate beside its key.", lasting=True
        ) from None
    claims = {
        "aud": url, "iss": who.client_id, "sub": who.client_id, "jti": str(uuid.uuid4()),
        "nbf": int(now), "iat": int(now), "exp": int(now) + _ASSERTION_S,
    }  # fmt: skip
    thumbprint = base64url(certificate.fingerprint(hashes.SHA256()))
    return signed_ps256({"x5t#S256": thumbprint}, claims, key)


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CredentialError(f"{file} cannot be read: {error.strerror}.", lasting=True) from None


async def _managed(
    ask: Ask, who: Client, environ: Mapping[str, str], clock: Callable[[], float]
) -> Lease[str]:
    """The identity of an app (App Service, Functions, Container Apps) or of a virtual machine."""
    fields = {"resource": who.scope.removesuffix("/.default")}
    if who.client_id:
        fields["client_id"] = who.client_id
    endpoint, secret = environ.get("IDENTITY_ENDPOINT"), environ.get("IDENTITY_HEADER")
    if endpoint and secret:
        query = urlencode({"api-version": "2019-08-01", **fields})
        errand = Errand(f"{endpoint}?{query}", headers={"x-identity-header": secret}, near=True)
        return _token(errand, document(errand, await ask(errand)), clock())
    base = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST") or _INSTANCE
    query = urlencode({"api-version": "2018-02-01", **fields})
    errand = Errand(
        f"{base.rstrip('/')}{_IDENTITY}?{query}", headers={"metadata": "true"}, near=True
    )
    try:
        reply: Reply = await ask(errand)
    except BifrostError as error:
        raise CredentialError(
            "There are no Azure credentials: neither a key nor a client secret, certificate or"
            f" federated token is configured, and the machine has no managed identity ({error})"
        ) from error
    advice = "Has this machine a managed identity, and one with this client_id?"
    return _token(errand, document(errand, reply, advice), clock())


def _token(errand: Errand, told: Mapping[str, Any], now: float) -> Lease[str]:
    value = member(errand, told, "access_token")
    ends = seconds(told, "expires_on")
    lasts = ends - now if ends is not None else seconds(told, "expires_in") or _HOUR_S
    half = seconds(told, "refresh_in") or (lasts / 2 if lasts >= _LONG_S else None)
    found = lease(value, lasts, now, margin_s=MARGIN_S)
    if half is None:
        return found
    return msgspec.structs.replace(found, renew=min(found.renew, now + half))
