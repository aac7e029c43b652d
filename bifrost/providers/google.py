"""Google's access tokens, by every kind of Application Default Credentials but those of a person's
browser, programs and mTLS. Facts: google-auth 2.62 and Google's AIP-4110 to 4117 (read 2026-11).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from bifrost.config.values import instant_ns
from bifrost.errors import BifrostError
from bifrost.providers.asking import (
    Ask,
    CredentialError,
    Errand,
    decoded,
    document,
    form,
    member,
    safe_address,
    seconds,
)
from bifrost.providers.assertions import private_key, signed_rs256
from bifrost.providers.tokens import Lease, lease

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
IAM_SCOPE = "https://www.googleapis.com/auth/iam"
TOKEN_URL = "https://oauth2.googleapis.com/token"
STS_URL = "https://sts.googleapis.com/v1/token"
METADATA_HOST = "metadata.google.internal"
_TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_HOUR_S = 3_600
_LONGEST_FILE = 64 << 10

Source = Callable[[], Awaitable[Lease[str]]]


def source(
    ask: Ask,
    *,
    file: str | None = None,
    text: str | None = None,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Source:
    """How to get an access token: by the JSON in ``file`` or ``text``, or where Google's own
    libraries look (GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, the metadata server).

    A file is read anew each time, so that a new key needs no restart.
    """

    async def fetch() -> Lease[str]:
        info = await asyncio.to_thread(
            _information, Path(file) if file else None, text, environ, home
        )
        if info is None:
            return await _from_metadata(ask, environ, clock)
        return await _by(ask, info, SCOPE, clock)

    return fetch


def _information(
    file: Path | None, text: str | None, environ: Mapping[str, str], home: Path | None
) -> dict[str, Any] | None:
    """The JSON that says how; None where only the metadata server is left."""
    if text is not None:
        return _parsed(text.encode(), "The credentials text")
    if file is None:
        named = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        file = Path(named) if named else None
    if file is None:
        folder = environ.get("CLOUDSDK_CONFIG")
        own = Path(folder) if folder else (home or Path.home()) / ".config" / "gcloud"
        well_known = own / "application_default_credentials.json"
        if not well_known.is_file():
            return None
        file = well_known
    return _parsed(_read(file), f"The credentials file {file}")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LONGEST_FILE)
    except OSError as error:
        raise CredentialError(f"{file} cannot be read: {error.strerror}.", lasting=True) from None


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    info = decoded(text)
    if info is None:
        raise CredentialError(f"{what} holds no JSON object.", lasting=True)
    return info


async def _by(ask: Ask, info: dict[str, Any], scope: str, clock: Callable[[], float]) -> Lease[str]:
    """A token for ``scope`` by what a credentials file says."""
    kinds = {
        "service_account": _service_account,
        "authorized_user": _authorized_user,
        "external_account": _external_account,
        "impersonated_service_account": _impersonated,
    }
    kind = info.get("type")
    if kind not in kinds:
        known = ", ".join(kinds)
        raise CredentialError(
            f"The credentials are of the type {kind!r}, which is not known here (known: {known}).",
            lasting=True,
        )
    return await kinds[kind](ask, info, scope, clock)


async def _service_account(
    ask: Ask, info: dict[str, Any], scope: str, clock: Callable[[], float]
) -> Lease[str]:
    email = _needed(info, "client_email")
    key = private_key(_needed(info, "private_key").encode(), f"the key of {email}")
    url = safe_address(str(info.get("token_uri") or TOKEN_URL), "token_uri")
    now = int(clock())
    claims = {"iat": now, "exp": now + _HOUR_S, "iss": email, "aud": TOKEN_URL, "scope": scope}
    named = info.get("private_key_id")
    assertion = signed_rs256({"kid": named} if named else {}, claims, key)
    errand = form(url, {"assertion": assertion, "grant_type": _JWT_BEARER})
    advice = "Is the key deleted, the account disabled, or the clock of this machine wrong?"
    return _token(errand, document(errand, await ask(errand), advice), clock())


async def _authorized_user(
    ask: Ask, info: dict[str, Any], scope: str, clock: Callable[[], float]
) -> Lease[str]:
    """What ``gcloud auth application-default login`` leaves; its scopes are those of the login."""
    fields = {name: _needed(info, name) for name in ("client_id", "client_secret", "refresh_token")}
    url = safe_address(str(info.get("token_uri") or TOKEN_URL), "token_uri")
    errand = form(url, {"grant_type": "refresh_token", **fields})
    advice = "Log in again (`gcloud auth application-default login`)."
    return _token(errand, document(errand, await ask(errand), advice), clock())


async def _external_account(
    ask: Ask, info: dict[str, Any], scope: str, clock: Callable[[], float]
) -> Lease[str]:
    """Workload identity federation: a foreign token is exchanged for one of Google's."""
    impersonates = info.get("service_account_impersonation_url")
    subject = await _subject(ask, info)
    fields = {
        "grant_type": _EXCHANGE,
        "audience": _needed(info, "audience"),
        "scope": IAM_SCOPE if impersonates else scope,
        "requested_token_type": _ACCESS_TOKEN,
        "subject_token": subject,
        "subject_token_type": _needed(info, "subject_token_type"),
    }
    headers = {}
    client, project = info.get("client_id"), info.get("workforce_pool_user_project")
    if client:
        pair = f"{client}:{info.get('client_secret') or ''}".encode()
        headers["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif project:
        fields["options"] = quote(json.dumps({"userProject": project}))
    url = safe_address(str(info.get("token_url") or STS_URL), "token_url")
    errand = form(url, fields, headers)
    advice = "Does the pool's provider accept this token (issuer, audience, condition)?"
    found = _token(errand, document(errand, await ask(errand), advice), clock())
    if not impersonates:
        return found
    options = info.get("service_account_impersonation_options") or {}
    lasts = int(seconds(options, "token_lifetime_seconds") or _HOUR_S)
    return await _impersonate(ask, str(impersonates), found.value, scope, lasts, [], clock)


async def _subject(ask: Ask, info: Mapping[str, Any]) -> str:
    """The foreign token, from where ``credential_source`` says."""
    place = info.get("credential_source")
    place = place if isinstance(place, dict) else {}
    if "file" in place:
        path = Path(str(place["file"]))
        content, where = await asyncio.to_thread(_read, path), str(path)
    elif "url" in place:
        url, headers = str(place["url"]), place.get("headers") or {}
        errand = Errand(
            url, headers={str(k).lower(): str(v) for k, v in headers.items()}, near=True
        )
        reply = await ask(errand)
        if reply.status != 200:
            raise CredentialError(f"{errand.place} answers {reply.status} instead of a token.")
        content, where = reply.body, errand.place
    else:
        given = ", ".join(map(str, place)) or "nothing"
        raise CredentialError(
            f"The credential_source of an external account has to be a file or a url, got {given}.",
            lasting=True,
        )
    how = place.get("format") or {}
    if how.get("type", "text") == "text":
        token = content.decode("utf-8", "replace").strip()
    else:
        token = str((decoded(content) or {}).get(str(how.get("subject_token_field_name"))) or "")
    if not token:
        raise CredentialError(f"{where} holds no token.")
    return token


async def _impersonated(
    ask: Ask, info: dict[str, Any], scope: str, clock: Callable[[], float]
) -> Lease[str]:
    """Another credential that speaks for a service account."""
    base = info.get("source_credentials")
    if not isinstance(base, dict) or base.get("type") == "impersonated_service_account":
        raise CredentialError("The credentials lack usable source_credentials.", lasting=True)
    found = await _by(ask, base, IAM_SCOPE, clock)
    url, delegates = _needed(info, "service_account_impersonation_url"), info.get("delegates")
    return await _impersonate(ask, url, found.value, scope, _HOUR_S, delegates or [], clock)


async def _impersonate(
    ask: Ask,
    url: str,
    token: str,
    scope: str,
    lasts_s: int,
    delegates: list[Any],
    clock: Callable[[], float],
) -> Lease[str]:
    body = {"delegates": delegates, "scope": [scope], "lifetime": f"{lasts_s}s"}
    url = safe_address(url, "service_account_impersonation_url")
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    errand = Errand(url, "POST", headers, json.dumps(body).encode())
    advice = "Has the caller the role roles/iam.serviceAccountTokenCreator on the account?"
    told = document(errand, await ask(errand), advice)
    found = member(errand, told, "accessToken")
    try:
        ends = instant_ns(member(errand, told, "expireTime")) / 1e9
    except ValueError:
        raise CredentialError(f"{errand.place} answers without a usable 'expireTime'.") from None
    return lease(found, ends - clock(), clock())


async def _from_metadata(
    ask: Ask, environ: Mapping[str, str], clock: Callable[[], float]
) -> Lease[str]:
    host = environ.get("GCE_METADATA_HOST") or METADATA_HOST
    url = f"http://{host}{_TOKEN}?{urlencode({'scopes': SCOPE})}"
    errand = Errand(url, headers={"metadata-flavor": "Google"}, near=True)
    try:
        reply = await ask(errand)
    except BifrostError as error:
        raise CredentialError(
            "There are no Google credentials: none are configured, GOOGLE_APPLICATION_CREDENTIALS"
            f" is not set, gcloud has left none, and there is no metadata server ({error})"
        ) from error
    advice = "Has this machine a service account?"
    return _token(errand, document(errand, reply, advice), clock())


def _token(errand: Errand, told: Mapping[str, Any], now: float) -> Lease[str]:
    value = member(errand, told, "access_token")
    return lease(value, seconds(told, "expires_in") or _HOUR_S, now)


def _needed(info: Mapping[str, Any], name: str) -> str:
    value = info.get(name)
    if not isinstance(value, str) or not value:
        kind = info.get("type")
        raise CredentialError(f"The credentials of type {kind!r} lack {name!r}.", lasting=True)
    return value
