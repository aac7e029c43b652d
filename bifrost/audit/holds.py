"""Legal holds: while there is one, nothing that was recorded is removed.

Each is a file in ``holds/``, so that a copy of the log shows them; who set and released them is in
the log. ``guarded`` keeps a hold from being set in the middle of a removal.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bifrost.audit.tiles import sync_folder, write_whole
from bifrost.errors import Conflict, NotFound, StoreError

FOLDER = "holds"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAMED = "expected 1 to 64 of A-Z a-z 0-9 . _ -, first a letter or digit"
_NAME = re.compile(NAME)
_GUARD = "guard"


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold: since when (ns), who set it, and why."""

    name: str
    at: int
    actor: str
    reason: str = ""


def holds(folder: Path) -> list[Hold]:
    """The holds of the log in a folder, by name. Raises StoreError; then nothing may be removed."""
    try:
        names = sorted(path for path in (folder / FOLDER).glob("*.json"))
        return [msgspec.json.decode(path.read_bytes(), type=Hold) for path in names]
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"The holds in {folder / FOLDER} cannot be read: {error}") from error


def is_name(text: str) -> bool:
    """Whether a hold may be called so."""
    return _NAME.fullmatch(text) is not None


def add(folder: Path, name: str, actor: str, reason: str, record: Callable[[], None]) -> Hold:
    """Sets a hold, recorded by ``record``; when it returns nothing is removed any more."""
    if not is_name(name):
        raise Conflict(f"This is no name of a hold: {NAMED}.")
    hold = Hold(name=name, at=time.time_ns(), actor=actor, reason=reason)
    path = folder / FOLDER / f"{name}.json"
    with guarded(folder):
        if path.exists():
            raise Conflict(f"There is a hold {name!r} already.")
        write_whole(path, msgspec.json.encode(hold))
        try:
            record()
        except BaseException:
            path.unlink()
            raise
    return hold


def release(folder: Path, name: str, record: Callable[[], None]) -> None:
    """Ends a hold, after that was recorded."""
    path = folder / FOLDER / f"{name}.json"
    with guarded(folder):
        if not is_name(name) or not path.exists():
            raise NotFound(f"There is no hold {name!r}.")
        record()
        path.unlink()
        sync_folder(path.parent)


@contextmanager
def guarded(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Alone with the holds for the block, among all processes.

    Raises BlockingIOError if somebody else is and we do not ``wait``.
    """
    place = folder / FOLDER
    if not place.is_dir():
        place.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder)
    fd = os.open(place / _GUARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)
