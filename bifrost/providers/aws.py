"""AWS credentials by the usual chain: environment, profiles, web identity, container, instance.

Facts: botocore 1.44 and AWS's "SDKs and Tools Reference" (read 2026-11). What needs a person (SSO,
MFA, ``aws login``) is refused; programs are run only where the configuration says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from bifrost.config.values import instant_ns
from bifrost.errors import BifrostError
from bifrost.providers import sts
from bifrost.providers.asking import Ask, CredentialError, Errand, document, refused
from bifrost.providers.profiles import Profile, Profiles, run
from bifrost.providers.tokens import Lease, lease
from bifrost.sigv4 import Credentials

MACHINE_MARGIN_S = 270.0  # new ones are there at least five minutes before the old ones end
STALE_S = 600.0  # an instance whose service gives old ones goes on with them, as AWS's SDKs do
READ_AGAIN_S = 300.0  # files of keys that have no end
_CONTAINER = "http://169.254.170.2"
_CONTAINERS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "localhost")
_INSTANCE = "http://169.254.169.254"
_ROLES = "/latest/meta-data/iam/security-credentials/"
_SESSION_S = "21600"

Source = Callable[[], Awaitable[Lease[Credentials]]]
Granted = Lease[Credentials]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of the credentials; nothing: the usual chain.

    ``role_arn``: a role to assume with what is found. ``programs``: a profile's
    ``credential_process`` may be run. ``repr`` shows no secret.
    """

    region: str
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    programs: bool = False

    def __repr__(self) -> str:
        return f"Wanted(region={self.region!r}, profile={self.profile!r}, …)"


def source(
    ask: Ask,
    wanted: Wanted,
    *,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Source:
    """How to get the credentials that ``wanted`` describes."""
    return _Chain(ask, wanted, environ, home or Path.home(), clock).fetch


class _Chain:
    def __init__(
        self,
        ask: Ask,
        wanted: Wanted,
        environ: Mapping[str, str],
        home: Path,
        clock: Callable[[], float],
    ) -> None:
        self._ask, self._wanted, self._environ = ask, wanted, environ
        self._home, self._clock = home, clock

    async def fetch(self) -> Granted:
        wanted = self._wanted
        found = await self._found()
        if wanted.role_arn is None:
            return found
        role = sts.Role(arn=wanted.role_arn, external_id=wanted.external_id)
        return await self._assumed(role, found)

    async def _found(self) -> Granted:
        wanted = self._wanted
        if wanted.access_key_id is not None and wanted.secret_access_key is not None:
            return _lasting(
                Credentials(
                    wanted.access_key_id, wanted.secret_access_key, wanted.session_token or ""
                )
            )
        if wanted.profile is None and (own := self._from_environment()) is not None:
            return own
        profiles = await asyncio.to_thread(Profiles.read, self._environ, self._home)
        name = wanted.profile or self._environ.get("AWS_PROFILE") or "default"
        profile = profiles.find(name)
        if profile is None and (wanted.profile or self._environ.get("AWS_PROFILE")):
            raise CredentialError(
                f"There is no profile {name!r} in {profiles.places} (known:"
                f" {', '.join(profiles.names) or 'none'}).",
                lasting=True,
            )
        if profile is not None and profile.assumes:
            return await self._by_profile(profiles, profile, ())
        if wanted.profile is None and (web := self._web_identity()) is not None:
            return await self._by_web_identity(web)
        if profile is not None and profile.gives:
            return await self._by_profile(profiles, profile, ())
        if wanted.profile is not None:
            raise CredentialError(f"The profile {name!r} holds no credentials.", lasting=True)
        if (container := self._container()) is not None:
            return await self._from_container(container)
        return await self._from_instance()

    # -- environment ---------------------------------------------------------------------------

    def _from_environment(self) -> Granted | None:
        key = self._environ.get("AWS_ACCESS_KEY_ID")
        if not key:
            return None
        secret = self._environ.get("AWS_SECRET_ACCESS_KEY")
        if not secret:
            raise CredentialError(
                "AWS_ACCESS_KEY_ID is set, but not AWS_SECRET_ACCESS_KEY.", lasting=True
            )
        token = self._environ.get("AWS_SESSION_TOKEN") or self._environ.get("AWS_SECURITY_TOKEN")
        return _lasting(Credentials(key, secret, token or ""))

    def _web_identity(self) -> sts.Role | None:
        """The role of a pod with a service account (EKS), or of any other federated workload."""
        file, arn = (self._environ.get(f"AWS_{n}") for n in ("WEB_IDENTITY_TOKEN_FILE", "ROLE_ARN"))
        if not file:
            return None
        if not arn:
            raise CredentialError(
                "AWS_WEB_IDENTITY_TOKEN_FILE is set, but not AWS_ROLE_ARN.", lasting=True
            )
        name = self._environ.get("AWS_ROLE_SESSION_NAME")
        return sts.Role(arn=arn, session_name=name, token_file=file)

    # -- profiles ------------------------------------------------------------------------------

    async def _by_profile(
        self, profiles: Profiles, profile: Profile, seen: tuple[str, ...]
    ) -> Granted:
        """By one profile, ``seen`` being those that led to it."""
        if profile.assumes and not (seen and profile.keys):
            role = profile.role()
            if role.token_file is not None:
                return await self._by_web_identity(role)
            return await self._assumed(role, await self._behind(profiles, profile, seen))
        if profile.keys is not None:
            return Lease(profile.keys, float("inf"), self._clock() + READ_AGAIN_S)
        command = profile.command
        if command is None:
            raise CredentialError(f"The profile {profile.name!r} holds no credentials.")
        if not self._wanted.programs:
            raise CredentialError(
                f"The profile {profile.name!r} names a credential_process; the gateway runs"
                " programs only where aws.credential_process is true.",
                lasting=True,
            )
        told = await run(command, profile.name)
        return self._granted(f"The credential_process of {profile.name!r}", told, 900.0, "Session")

    async def _behind(self, profiles: Profiles, profile: Profile, seen: tuple[str, ...]) -> Granted:
        """What a role is assumed with."""
        other, place = profile.source_profile, profile.credential_source
        if other is not None and place is None:
            if other in seen or (other == profile.name and profile.keys is None):
                way = " → ".join((*seen, profile.name, other))
                raise CredentialError(f"The profiles lead in a circle: {way}.", lasting=True)
            found = profiles.find(other)
            if found is None:
                raise CredentialError(
                    f"The source_profile {other!r} of {profile.name!r} is not there.", lasting=True
                )
            return await self._by_profile(profiles, found, (*seen, profile.name))
        if place == "Environment" and (own := self._from_environment()) is not None:
            return own
        if place == "EcsContainer" and (container := self._container()) is not None:
            return await self._from_container(container)
        if place == "Ec2InstanceMetadata":
            return await self._from_instance()
        raise CredentialError(
            f"The profile {profile.name!r} needs either a source_profile or a credential_source"
            " (Environment, EcsContainer, Ec2InstanceMetadata) that has credentials.",
            lasting=True,
        )

    # -- roles ---------------------------------------------------------------------------------

    async def _assumed(self, role: sts.Role, by: Granted) -> Granted:
        errand = sts.assume(role, by.value, self._endpoint(), self._wanted.region, self._clock())
        return sts.granted(errand, await self._ask(errand), self._clock())

    async def _by_web_identity(self, role: sts.Role) -> Granted:
        file = Path(role.token_file or "")
        try:
            token = (await asyncio.to_thread(file.read_text, "utf-8")).strip()
        except (OSError, ValueError) as error:
            raise CredentialError(
                f"The web identity token {file} cannot be read: {error}"
            ) from None
        errand = sts.assume_with_web_identity(role, token, self._endpoint(), self._clock())
        return sts.granted(errand, await self._ask(errand), self._clock())

    def _endpoint(self) -> str:
        own = self._environ.get("AWS_ENDPOINT_URL_STS") or self._environ.get("AWS_ENDPOINT_URL")
        return own or sts.address(self._wanted.region)

    # -- the machine ---------------------------------------------------------------------------

    def _container(self) -> str | None:
        """Where a task (ECS) or pod (EKS) asks for its credentials."""
        relative = self._environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        if relative:
            return _CONTAINER + relative
        full = self._environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not full:
            return None
        parts = urlsplit(full)
        host = parts.hostname or ""
        local = host in _CONTAINERS
        with contextlib.suppress(ValueError):
            local = local or ip_address(host).is_loopback
        if parts.scheme != "https" and not local:
            raise CredentialError(
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI names {host!r}: http leads only to this"
                f" machine or to {', '.join(_CONTAINERS)}.",
                lasting=True,
            )
        return full

    async def _from_container(self, url: str) -> Granted:
        file = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        token = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if file:
            try:
                token = (await asyncio.to_thread(Path(file).read_text, "utf-8")).strip()
            except (OSError, ValueError) as error:
                raise CredentialError(f"The token {file} cannot be read: {error}") from None
        if token and not token.isprintable():
            raise CredentialError("The container's authorization token holds a line break.")
        headers = {"accept": "application/json"} | ({"authorization": token} if token else {})
        errand = Errand(url, headers=headers, near=url.startswith("http:"))
        told = document(errand, await self._ask(errand))
        return self._granted(errand.place, told, MACHINE_MARGIN_S, "")

    async def _from_instance(self) -> Granted:
        """By version 2 of the instance's metadata service; version 1 is never asked."""
        if self._environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise CredentialError(f"{_NOTHING}, and AWS_EC2_METADATA_DISABLED is true.")
        base = self._environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _INSTANCE
        base = base.rstrip("/")
        opening = Errand(
            f"{base}/latest/api/token", "PUT",
            {"x-aws-ec2-metadata-token-ttl-seconds": _SESSION_S}, near=True,
        )  # fmt: skip
        try:
            reply = await self._ask(opening)
        except BifrostError as error:
            raise CredentialError(f"{_NOTHING}, and there is no instance ({error})") from error
        if reply.status != 200:
            no = refused(opening, reply)
            raise CredentialError(f"{_NOTHING}. {no}", lasting=no.lasting)
        headers = {"x-aws-ec2-metadata-token": reply.body.decode("ascii", "replace").strip()}
        listing = Errand(base + _ROLES, headers=headers, near=True)
        reply = await self._ask(listing)
        name = reply.body.decode("utf-8", "replace").strip().partition("\n")[0]
        if reply.status != 200 or not name:
            raise CredentialError(f"{_NOTHING}, and the instance has no role.", lasting=True)
        errand = Errand(base + _ROLES + quote(name), headers=headers, near=True)
        reply = await self._ask(errand)
        told = document(errand, reply)
        if told.get("Code", "Success") != "Success":
            raise refused(errand, reply)
        return self._granted(errand.place, told, MACHINE_MARGIN_S, "", stale=True)

    def _granted(
        self, what: str, told: Mapping[str, Any], margin_s: float, kind: str, *, stale: bool = False
    ) -> Granted:
        """Credentials in the JSON that machines and programs use; their tokens differ by name."""
        names = ("AccessKeyId", "SecretAccessKey", f"{kind}Token")
        key, secret, token = (told.get(name) or "" for name in names)
        usable = all(isinstance(one, str) and one.isprintable() for one in (key, secret, token))
        if not usable or not key or not secret:
            raise CredentialError(f"{what} gives no usable credentials.")
        found = Credentials(key, secret, token)
        if not told.get("Expiration"):
            return Lease(found, float("inf"), self._clock() + READ_AGAIN_S)
        try:
            ends = instant_ns(str(told["Expiration"])) / 1e9
        except ValueError:
            raise CredentialError(f"{what} gives no usable Expiration.") from None
        now = self._clock()
        if stale:
            ends = max(ends, now + STALE_S)
        return lease(found, ends - now, now, margin_s=margin_s)


_NOTHING = (
    "There are no AWS credentials: none are configured, neither AWS_ACCESS_KEY_ID nor a profile,"
    " a web identity or a container gives any"
)


def _lasting(credentials: Credentials) -> Granted:
    return Lease(credentials, float("inf"), float("inf"))
