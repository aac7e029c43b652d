"""The admin token of a data directory: made once, shown once, stored only as a keyed digest."""

from __future__ import annotations

import hmac
import secrets

from bifrost.governance.directory import Directory

PREFIX = "bf-admin-"
_META = "admin_token"


def mint(directory: Directory) -> str | None:
    """A token for a directory that has none; None when there is one already."""
    token = PREFIX + secrets.token_urlsafe(32)
    digest = directory.digest(token.encode())
    return token if directory.set_credential(_META, digest, overwrite=False) else None


def replace(directory: Directory) -> str:
    """A new token; the old one stops working at once, in every process."""
    token = PREFIX + secrets.token_urlsafe(32)
    directory.set_credential(_META, directory.digest(token.encode()), overwrite=True)
    return token


def is_valid(directory: Directory, token: bytes) -> bool:
    """Whether this is the token, found out in a time that does not tell how much of it is right."""
    stored = directory.meta(_META)
    return stored is not None and hmac.compare_digest(stored, directory.digest(token))
