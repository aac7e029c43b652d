"""The master key of a data directory: a file of random bytes that other keys are derived from."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

import blake3

from bifrost.errors import StoreError

SIZE = 32


def lookup_key(path: Path) -> bytes:
    """The key that virtual keys are hashed with; the file is made if there is none.

    Raises StoreError when the file is damaged or cannot be read.
    """
    return _derived(path, "bifrost-gateway 2026 virtual key lookup")


def replay_key(path: Path) -> bytes:
    """The key from which secrets shown under an idempotency key come; raises as the other."""
    return _derived(path, "bifrost-gateway 2026 idempotent secrets")


def vault_key(path: Path) -> bytes:
    """The key that wraps the keys of subjects; raises as the others."""
    return _derived(path, "bifrost-gateway 2026 subject keys")


def _derived(path: Path, purpose: str) -> bytes:
    try:
        if not path.exists():
            _make(path)
        material = path.read_bytes()
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
    if len(material) != SIZE:
        raise StoreError(
            f"{path} should hold {SIZE} bytes; restore it from a backup of this directory."
        )
    return blake3.blake3(material, derive_key_context=purpose).digest()


def _make(path: Path) -> None:
    try:
        write_once(path, secrets.token_bytes(SIZE))
    except OSError as error:
        raise StoreError(
            f"Cannot make {path}: {error.strerror}; make room and let this user write there."
        ) from error


def write_once(path: Path, content: bytes) -> None:
    """Makes a file, whole and on disk, unless another process or thread was first."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
