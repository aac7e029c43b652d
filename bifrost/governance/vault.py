"""The vault: a key for each subject whose content is recorded, outside of the log it seals.

Destroying the key makes that content unreadable for ever, wherever copies of the log are, and
leaves every proof about the log as it is. Keys are wrapped by the master key: both are needed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Any

import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bifrost.errors import StoreError
from bifrost.governance.environment import make_folder
from bifrost.governance.master_key import vault_key, write_once

FOLDER = "subjects"
KEY = 32
NONCE = 12
_SUBJECT = re.compile(r"[A-Za-z0-9_]{1,64}")


class Sealer:
    """What one subject's key does; ``name`` tells keys apart and nothing about them."""

    def __init__(self, key: bytes) -> None:
        self.name = hashlib.sha256(b"bifrost subject key\0" + key).hexdigest()[:16]
        self._cipher = AESGCM(_derived(key, "bifrost-gateway 2026 content sealing"))
        self._mac_key = _derived(key, "bifrost-gateway 2026 content digest")

    def mac(self) -> hmac.HMAC:
        """An HMAC-SHA-256 to be fed with content."""
        return hmac.new(self._mac_key, digestmod=hashlib.sha256)

    def seal(self, plain: bytes, label: bytes) -> bytes:
        """AES-256-GCM under a random nonce, which comes first; ``label`` is bound to it."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, label)

    def open(self, sealed: bytes, label: bytes) -> bytes:
        """What was sealed; raises StoreError if it is not of this key and label."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], label)
        except InvalidTag as error:
            raise StoreError("The sealed content cannot be opened with this key.") from error


class Vault:
    """The subject keys of one data directory; safe to use from any process."""

    def __init__(self, data_dir: Path) -> None:
        """Makes nothing; raises StoreError for a bad master key when a key is asked for."""
        self._folder = data_dir / FOLDER
        self._master = data_dir / "master.key"
        self._known: dict[str, tuple[tuple[int, int], Sealer]] = {}

    def _path(self, subject: str) -> Path:
        if not _SUBJECT.fullmatch(subject):
            raise StoreError(f"{subject!r} is no id of a user or virtual key.")
        return self._folder / subject[-2:] / subject

    def sealer(self, subject: str) -> Sealer:
        """The subject's key, made if there is none. Raises StoreError."""
        found = self.find(subject)
        if found is None:
            path = self._path(subject)
            try:
                make_folder(path.parent)
                write_once(path, self._wrapped(subject, secrets.token_bytes(KEY)))
            except OSError as error:
                raise StoreError(
                    f"Cannot make {path}: {error.strerror}; make room and let this user write "
                    "there."
                ) from error
            found = self.find(subject)
        if found is None:
            raise StoreError(f"The key of {subject} was destroyed as it was made; try again.")
        return found

    def find(self, subject: str) -> Sealer | None:
        """The subject's key, None if there is none (any more). Raises StoreError."""
        path = self._path(subject)
        try:
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns)
            known = self._known.get(subject)
            if known is not None and known[0] == mark:
                return known[1]
            raw = path.read_bytes()
        except FileNotFoundError:
            self._known.pop(subject, None)
            return None
        except OSError as error:
            raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
        sealer = Sealer(self._unwrapped(subject, raw))
        if len(self._known) > 10_000:
            self._known.clear()
        self._known[subject] = (mark, sealer)
        return sealer

    def subjects(self) -> list[str]:
        """Everybody who has a key."""
        return sorted(
            path.name for path in self._folder.glob("??/*") if _SUBJECT.fullmatch(path.name)
        )

    def destroy(self, subject: str) -> None:
        """Overwrites and removes the subject's key; harmless without one. Raises StoreError."""
        path = self._path(subject)
        self._known.pop(subject, None)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, bytes(os.fstat(fd).st_size), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            path.unlink()
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"Cannot remove {path}: {error.strerror}; try again.") from error

    def _wrapped(self, subject: str, key: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE)
        cipher = AESGCM(vault_key(self._master))
        return nonce + cipher.encrypt(nonce, key, subject.encode())

    def _unwrapped(self, subject: str, raw: bytes) -> bytes:
        try:
            cipher = AESGCM(vault_key(self._master))
            return cipher.decrypt(raw[:NONCE], raw[NONCE:], subject.encode())
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"{self._path(subject)} does not fit {self._master}; restore both from one backup."
            ) from error


def _derived(key: bytes, purpose: str) -> bytes:
    derived: Any = blake3.blake3(key, derive_key_context=purpose)
    return bytes(derived.digest())
