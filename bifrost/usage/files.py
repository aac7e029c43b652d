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
JOURNALS = ("-wal", "-shm", "-journal")


def current(data_dir: Path) -> Path:
    """The file in use, whether it exists or not."""
    link = data_dir / LINK
    try:
        return data_dir / Path(os.readlink(link)).name
    except OSError:
        return link


def numbered(data_dir: Path) -> dict[int, Path]:
    """The files of the view by number."""
    found: dict[int, Path] = {}
    for path in data_dir.glob("usage-*.db"):
        number = path.stem.removeprefix("usage-")
        if number.isdecimal():
            found[int(number)] = path
    return found


def fresh(data_dir: Path) -> Path:
    """A name no file of the view has yet."""
    return data_dir / f"usage-{max(numbered(data_dir), default=0) + 1}.db"


def use(data_dir: Path, path: Path) -> None:
    """Makes a finished file the one in use, at once for everybody who opens it from now on."""
    aside = data_dir / f"{LINK}.{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(path.name)
    os.replace(aside, data_dir / LINK)


def set_aside(data_dir: Path) -> Path | None:
    """Moves what is in use out of the way, for somebody to look at; returns where it is now."""
    path, kept = current(data_dir), data_dir / ASIDE
    remove(kept)
    for suffix in ("", *JOURNALS):
        if (journal := beside(path, suffix)).exists():
            os.replace(journal, beside(kept, suffix))
    (data_dir / LINK).unlink(missing_ok=True)
    return kept if kept.exists() else None


def beside(path: Path, suffix: str) -> Path:
    """The file that SQLite keeps beside another."""
    return path.with_name(path.name + suffix)


def remove(path: Path) -> None:
    """Removes a file and its journals."""
    for suffix in ("", *JOURNALS):
        beside(path, suffix).unlink(missing_ok=True)


def tidy(data_dir: Path, *, newer: bool = False) -> None:
    """Removes files that are not in use; with ``newer`` also those a killed rebuild left."""
    used = current(data_dir)
    every = numbered(data_dir)
    mine = next((number for number, path in every.items() if path == used), None)
    for number, path in every.items():
        if mine is not None and (number < mine or (newer and number > mine)):
            remove(path)
