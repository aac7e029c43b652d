"""Where the usage view lies: ``usage.db`` is a link to the file in use, ``usage-<n>.db``.

SQLite keeps a journal beside each file under that file's name, so a file can never be renamed over
another that somebody has open. A link can be moved: new readers follow it, old ones keep what they
have, and the steward sees at its next batch that its file is no longer the one in use.
"""

from __future__ import annotations

import os
from pathlib import Path

LINK = "usage.db"
ASIDE = "usage-set-aside.db"


def current(data_dir: Path) -> Path:
    """The file in use, whether it exists or not."""
    link = data_dir / LINK
    try:
        return data_dir / Path(os.readlink(link)).name
    except OSError:
        return link


def fresh(data_dir: Path) -> Path:
    """A name no file of the view has yet."""
    taken = [0]
    for path in data_dir.glob("usage-*.db"):
        number = path.stem.removeprefix("usage-")
        if number.isdecimal():
            taken.append(int(number))
    return data_dir / f"usage-{max(taken) + 1}.db"


def use(data_dir: Path, path: Path) -> None:
    """Makes a finished file the one in use, at once for everybody who opens it from now on."""
    aside = data_dir / f"{LINK}.{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(path.name)
    os.replace(aside, data_dir / LINK)


def set_aside(data_dir: Path) -> Path | None:
    """Moves what is in use out of the way, for somebody to look at; returns where it is now."""
    path, kept = current(data_dir), data_dir / ASIDE
    (data_dir / LINK).unlink(missing_ok=True) if path.name != LINK else None
    if not path.exists():
        return None
    remove(kept)
    os.replace(path, kept)
    remove(path)  # its journal: without the file it means nothing
    return kept


def remove(path: Path) -> None:
    """Removes a file and its journals."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def tidy(data_dir: Path) -> None:
    """Removes files that are neither in use nor newer (somebody may be building one)."""
    used = current(data_dir).stem.removeprefix("usage-")
    if not used.isdecimal():
        return
    for path in data_dir.glob("usage-*.db"):
        number = path.stem.removeprefix("usage-")
        if number.isdecimal() and int(number) < int(used):
            remove(path)
