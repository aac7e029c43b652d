"""What the configuration file says of providers in a cloud: where they are, and who asks there."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta
from msgspec.structs import asdict

from bifrost.config.fields import FilePath, Name, Secret, Spec, Text
from bifrost.config.findings import Findings, inside
from bifrost.config.hosts import TABLE, Kind
from bifrost.config.values import is_address, is_local

_PLACES = {
    "region": (re.compile(r"[a-z0-9-]{2,64}"), "a region such as 'us-east-1' or 'global'"),
    "project": (re.compile(r"[a-z0-9.:-]{3,128}"), "the id of a project"),
    "resource": (re.compile(r"[A-Za-z0-9-]{2,64}"), "a resource's name, not its address"),
    "workspace": (re.compile(r"[A-Za-z0-9_-]{2,128}"), "the id of a workspace (wrkspc_…)"),
}


class Entra(Spec, frozen=True, kw_only=True):
    """Who asks at Azure, by Microsoft Entra ID instead of a key. ``repr`` shows no secret.

    Without a word: as the environment says (AZURE_TENANT_ID, AZURE_CLIENT_ID and so on), or the
    machine's managed identity.
    """

    tenant_id: Annotated[Name | None, Meta(description="The application's tenant.")] = None
    client_id: Annotated[
        Name | None, Meta(description="The application; or which of several managed identities.")
    ] = None
    client_secret: Annotated[Secret | None, Meta(description="Secret of the application.")] = None
    certificate_file: Annotated[
        FilePath | None, Meta(description="PEM file of its certificate and the RSA key.")
    ] = None
    certificate_password: Annotated[Secret | None, Meta(description="Password of that key.")] = None
    token_file: Annotated[
        FilePath | None, Meta(description="File of another issuer's token that it trusts.")
    ] = None
    authority: Annotated[
        Text | None, Meta(description="https address of Entra ID; null: the public cloud's.")
    ] = None
    scope: Annotated[
        Text | None, Meta(description="Scope of the token; null: https://ai.azure.com/.default.")
    ] = None

    def __repr__(self) -> str:
        return f"Entra(tenant_id={self.tenant_id!r}, client_id={self.client_id!r}, …)"


class Aws(Spec, frozen=True, kw_only=True):
    """Who asks at AWS. ``repr`` shows no secret.

    Without a word: the usual chain of environment, profiles, web identity, container, instance.
    """

    access_key_id: Annotated[Text | None, Meta(description="Key of who asks.")] = None
    secret_access_key: Annotated[Secret | None, Meta(description="Its secret.")] = None
    session_token: Annotated[Secret | None, Meta(description="Of a temporary key.")] = None
    profile: Annotated[
        Name | None, Meta(description="Profile of AWS's files; null takes AWS_PROFILE.")
    ] = None
    role_arn: Annotated[
        Text | None, Meta(description="Role that is assumed with what is found.")
    ] = None
    external_id: Annotated[Text | None, Meta(description="What the role asks for.")] = None
    credential_process: Annotated[
        bool, Meta(description="Run the program that a profile names for its credentials.")
    ] = False

    def __repr__(self) -> str:
        return f"Aws(profile={self.profile!r}, role_arn={self.role_arn!r}, …)"


class Cloud(Spec, frozen=True, kw_only=True):
    """What a provider in a cloud has beside what all have. ``repr`` shows no secret."""

    region: Annotated[Name | None, Meta(description="Region in its cloud.")] = None
    project: Annotated[Name | None, Meta(description="Project in Google's cloud.")] = None
    resource: Annotated[Name | None, Meta(description="Resource in Azure.")] = None
    workspace: Annotated[
        Name | None, Meta(description="Id of Claude's workspace in its cloud.")
    ] = None
    credentials_file: Annotated[
        FilePath | None, Meta(description="JSON file of Google's credentials, of any kind.")
    ] = None
    credentials_json: Annotated[
        Secret | None, Meta(description="The same JSON as text; best as env.NAME.")
    ] = None
    entra: Annotated[Entra | None, Meta(description="Who asks at Azure, without a key.")] = None
    aws: Annotated[Aws | None, Meta(description="Who asks at AWS; null: the usual chain.")] = None

    def __repr__(self) -> str:
        shown = {k: v for k, v in asdict(self).items() if k != "credentials_json"}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    @property
    def place(self) -> dict[str, str | None]:
        """Where it is in its cloud."""
        return {name: getattr(self, name) for name in _PLACES}


_KEYS = (*_PLACES, "credentials_file", "credentials_json", "entra", "aws")


def check_cloud(
    place: str, kind: Kind, provider: Cloud, keys: bool, base_url: str | None, findings: Findings
) -> None:
    """Report every rule that a provider breaks as one of a cloud; ``keys``: it has some."""
    row = TABLE[kind]
    for name in _KEYS:
        value, here = getattr(provider, name), inside(place, name)
        if value is not None and name not in row.cloud:
            has = f"has {', '.join(row.cloud)}" if row.cloud else "is in no cloud"
            findings.add(here, f"type {kind!r} has none; it {has}")
        elif name in _PLACES and value:
            shape, what = _PLACES[name]
            if not shape.fullmatch(value):
                findings.add(here, f"expected {what}, got {findings.shown(here, value)}")
        elif name in row.needs and value is None and not (base_url and name == "resource"):
            findings.add(here, f"missing; a provider of type {kind!r} needs it")
    if provider.credentials_file and provider.credentials_json:
        findings.add(inside(place, "credentials_json"), "given beside credentials_file; keep one")
    if keys and "keys" not in row.cloud and row.cloud:
        findings.add(
            inside(place, "keys"),
            f"type {kind!r} takes none; it has {', '.join(row.cloud)}",
        )
    if provider.entra is not None and "entra" in row.cloud:
        _entra(inside(place, "entra"), provider.entra, keys, findings)
    if provider.aws is not None and "aws" in row.cloud:
        _aws(inside(place, "aws"), provider.aws, keys, findings)
    if row.cloud and "entra" in row.cloud and not keys and provider.entra is None:
        findings.add(
            inside(place, "keys"),
            "needs at least one key, or entra (`{}` for a managed identity)",
        )


def _entra(place: str, entra: Entra, keys: bool, findings: Findings) -> None:
    if keys:
        findings.add(place, "given beside keys; keep one of them")
    proofs = ("client_secret", "certificate_file", "token_file")
    given = [name for name in proofs if getattr(entra, name) is not None]
    if len(given) > 1:
        findings.add(place, f"expected one proof, got {' and '.join(given)}; keep one of them")
    if given and (entra.tenant_id is None or entra.client_id is None):
        findings.add(place, f"{given[0]} needs tenant_id and client_id beside it")
    if entra.tenant_id is not None and not given:
        findings.add(place, f"a tenant_id needs one of {', '.join(proofs)} beside it")
    if entra.certificate_password is not None and entra.certificate_file is None:
        findings.add(inside(place, "certificate_password"), "there is no certificate_file")
    if entra.authority:
        sound = is_address(entra.authority)
        if not sound or (entra.authority.startswith("http:") and not is_local(entra.authority)):
            findings.add(inside(place, "authority"), "expected an https address")


def _aws(place: str, aws: Aws, keys: bool, findings: Findings) -> None:
    if keys:
        findings.add(place, "given beside keys; keep one of them")
    if (aws.access_key_id is None) != (aws.secret_access_key is None):
        findings.add(place, "expected access_key_id and secret_access_key together")
    if aws.session_token is not None and aws.access_key_id is None:
        findings.add(inside(place, "session_token"), "there is no access_key_id")
    if aws.access_key_id is not None and aws.profile is not None:
        findings.add(inside(place, "profile"), "given beside access_key_id; keep one of them")
    if aws.external_id is not None and aws.role_arn is None:
        findings.add(inside(place, "external_id"), "there is no role_arn")
