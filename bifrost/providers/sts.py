"""AWS's Security Token Service: roles assumed, and what it answers. Pure.

Facts: the service's Query API of 2011-06-15, as botocore 1.44 has it.
"""

from __future__ import annotations

import hashlib
import html
import re
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from bifrost.config.values import instant_ns
from bifrost.providers.asking import CredentialError, Errand, Reply, form, safe_address
from bifrost.providers.tokens import Lease, lease
from bifrost.sigv4 import Credentials, signed_headers

MARGIN_S = 600.0
_VERSION = "2011-06-15"
_PASSING = ("Throttling", "ServiceUnavailable", "InternalFailure", "IDPCommunicationError")


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A role to assume: with other credentials, or with the web identity in ``token_file``."""

    arn: str
    session_name: str | None = None
    external_id: str | None = None
    duration_s: int | None = None
    token_file: str | None = None


def address(region: str) -> str:
    """The service's address in a region."""
    china = ".cn" if region.startswith("cn-") else ""
    return f"https://sts.{region}.amazonaws.com{china}"


def assume(role: Role, credentials: Credentials, endpoint: str, region: str, now: float) -> Errand:
    """AssumeRole, signed with the credentials of who may."""
    fields = {"Action": "AssumeRole", **_fields(role, now)}
    if role.external_id is not None:
        fields["ExternalId"] = role.external_id
    errand = form(_url(endpoint), fields)
    headers = signed_headers(
        credentials, method="POST", host=urlsplit(errand.url).netloc,
        path=urlsplit(errand.url).path, headers=errand.headers,
        body_sha256=hashlib.sha256(errand.body).hexdigest(), region=region, service="sts",
        now=datetime.fromtimestamp(now, UTC),
    )  # fmt: skip
    return msgspec.structs.replace(errand, headers=headers)


def assume_with_web_identity(role: Role, token: str, endpoint: str, now: float) -> Errand:
    """AssumeRoleWithWebIdentity: the token of another issuer is what proves it."""
    fields = {"Action": "AssumeRoleWithWebIdentity", **_fields(role, now)}
    return form(_url(endpoint), fields | {"WebIdentityToken": token})


def granted(errand: Errand, reply: Reply, now: float) -> Lease[Credentials]:
    """The credentials of an answer; CredentialError if it is a refusal."""
    text = reply.body.decode("utf-8", "replace")
    if reply.status != 200:
        code = _element(text, "Code") or str(reply.status)
        said = " ".join(_element(text, "Message").split())[:300]
        passing = reply.status >= 500 or code.startswith(_PASSING)
        raise CredentialError(
            f"{errand.place} refuses to let the role be assumed: {code}{said and f' ({said})'}.",
            lasting=not passing,
        )
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    key, secret, token, expiration = (_element(text, name) for name in names)
    try:
        ends = instant_ns(expiration) / 1e9
    except ValueError:
        ends = 0.0
    if not (key and secret and token and ends):
        raise CredentialError(f"{errand.place} answers without usable credentials.")
    return lease(Credentials(key, secret, token), ends - now, now, margin_s=MARGIN_S)


def _fields(role: Role, now: float) -> dict[str, str]:
    fields = {
        "Version": _VERSION,
        "RoleArn": role.arn,
        "RoleSessionName": role.session_name or f"bifrost-gateway-{int(now)}",
    }
    if role.duration_s is not None:
        fields["DurationSeconds"] = str(role.duration_s)
    return fields


def _url(endpoint: str) -> str:
    return safe_address(endpoint.rstrip("/"), "The address of AWS STS") + "/"


def _element(text: str, name: str) -> str:
    """The text of the first element of this name; "" if there is none."""
    found = re.search(rf"<{name}>\s*([^<]*?)\s*</{name}>", text)
    return html.unescape(found[1]) if found else ""
