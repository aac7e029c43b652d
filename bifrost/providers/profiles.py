"""AWS's profiles, in ``~/.aws/config`` and ``~/.aws/credentials``, and programs that they name.

Facts: AWS's "SDKs and Tools Reference", shared config and credentials files (read 2026-11).
"""

from __future__ import annotations

import asyncio
import configparser
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from bifrost.providers.asking import CredentialError, decoded
from bifrost.providers.sts import Role
from bifrost.sigv4 import Credentials

PROGRAM_S = 20.0
_PERSONAL = {
    "sso_session": "SSO", "sso_start_url": "SSO", "login_session": "`aws login`",
}  # fmt: skip


class Profile(msgspec.Struct, frozen=True):
    """One profile: what both files say of it. ``repr`` shows the name alone."""

    name: str
    entries: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Profile({self.name!r})"

    @property
    def assumes(self) -> bool:
        """Whether it is a role."""
        return "role_arn" in self.entries

    @property
    def gives(self) -> bool:
        """Whether it says anything of credentials; CredentialError if only a person can use it."""
        if self.assumes or self.keys is not None or self.command is not None:
            return True
        for entry, what in _PERSONAL.items():
            if entry in self.entries:
                raise CredentialError(
                    f"The profile {self.name!r} signs in a person by {what}, which a gateway"
                    " cannot; give it keys, a role or a web identity.",
                    lasting=True,
                )
        return False

    @property
    def keys(self) -> Credentials | None:
        """Its access key, with the token of a session."""
        key, secret = (self.entries.get(f"aws_{n}") for n in ("access_key_id", "secret_access_key"))
        if not key and not secret:
            return None
        if not key or not secret:
            raise CredentialError(f"The profile {self.name!r} has half of a key.", lasting=True)
        return Credentials(key, secret, self.entries.get("aws_session_token", ""))

    @property
    def command(self) -> str | None:
        """The program that prints its credentials."""
        return self.entries.get("credential_process")

    @property
    def source_profile(self) -> str | None:
        """The profile that its role is assumed with."""
        return self.entries.get("source_profile")

    @property
    def credential_source(self) -> str | None:
        """The place of the credentials that its role is assumed with."""
        return self.entries.get("credential_source")

    def role(self) -> Role:
        """Its role; CredentialError if only a person can assume it."""
        if "mfa_serial" in self.entries:
            raise CredentialError(
                f"The role of the profile {self.name!r} needs a person's second factor (MFA),"
                " which a gateway has not.",
                lasting=True,
            )
        lasts = self.entries.get("duration_seconds", "")
        return Role(
            arn=self.entries["role_arn"],
            session_name=self.entries.get("role_session_name"),
            external_id=self.entries.get("external_id"),
            duration_s=int(lasts) if lasts.isdecimal() else None,
            token_file=self.entries.get("web_identity_token_file"),
        )


class Profiles:
    """All profiles of both files."""

    def __init__(self, entries: Mapping[str, Mapping[str, str]], places: str) -> None:
        self._entries = entries
        self.places = places

    @classmethod
    def read(cls, environ: Mapping[str, str], home: Path) -> Self:
        """From the usual places or those that the environment names; a file may be missing."""
        named = environ.get("AWS_CONFIG_FILE"), environ.get("AWS_SHARED_CREDENTIALS_FILE")
        config = _expanded(named[0], home) if named[0] else home / ".aws" / "config"
        shared = _expanded(named[1], home) if named[1] else home / ".aws" / "credentials"
        entries: dict[str, dict[str, str]] = {}
        for section, values in _sections(config).items():
            name = _name(section)
            if name is not None:
                entries.setdefault(name, {}).update(values)
        for section, values in _sections(shared).items():
            entries.setdefault(section, {}).update(values)
        return cls(entries, f"{config} and {shared}")

    @property
    def names(self) -> list[str]:
        """The names of all profiles."""
        return list(self._entries)

    def find(self, name: str) -> Profile | None:
        """A profile by its name."""
        entries = self._entries.get(name)
        return None if entries is None else Profile(name, entries)


async def run(command: str, name: str) -> dict[str, Any]:
    """What a profile's program prints; CredentialError if it is not a document of version 1."""
    what = f"The credential_process of {name!r}"
    try:
        words = shlex.split(command)
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except (OSError, ValueError, TypeError) as error:
        raise CredentialError(f"{what} cannot be run: {error}.", lasting=True) from None
    try:
        async with asyncio.timeout(PROGRAM_S):
            output, errors = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise CredentialError(f"{what} has not ended within {PROGRAM_S:g} s.") from None
        raise
    told = decoded(output)
    if process.returncode != 0 or told is None or told.get("Version") != 1:
        said = " ".join(errors.decode("utf-8", "replace").split())[:300]
        raise CredentialError(f"{what} gives none (exit code {process.returncode}): {said}")
    return told


def _sections(file: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(
        default_section="", strict=False, delimiters=("=",), comment_prefixes=("#", ";"),
        allow_no_value=True,
    )  # fmt: skip
    try:
        parser.read_string(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, configparser.Error) as error:
        line = str(error).partition("\n")[0]
        raise CredentialError(f"{file} cannot be read: {line}", lasting=True) from None
    return {
        name: {key: value for key, value in parser.items(name) if value}
        for name in parser.sections()
    }


def _name(section: str) -> str | None:
    """The profile that a section of the config file is of; None if it is of something else."""
    try:
        words = shlex.split(section)
    except ValueError:
        return None
    if words == ["default"]:
        return "default"
    return words[1] if len(words) == 2 and words[0] == "profile" else None


def _expanded(path: str, home: Path) -> Path:
    return home / path[2:] if path.startswith("~/") else Path(path)
