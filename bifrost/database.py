"""A small SQLite file of the data directory: how one is made, written and looked at. A leaf."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from bifrost.errors import StoreError


class Database:
    """One connection to a file of ours; every failure is a StoreError.

    A kind says what it is called in messages, what to do about a damaged one, and how it is made.
    """

    APPLICATION: ClassVar[int]
    VERSION: ClassVar[int] = 1
    SCHEMA: ClassVar[str]
    CALLED: ClassVar[str]  # as in "Cannot use the webhooks' queue /path: …"
    REMEDY: ClassVar[str] = ""
    PATIENCE_S: ClassVar[float] = 10
    ONE_THREAD: ClassVar[bool] = True

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        with self._guarded():
            self._db = self._look() if read_only else self._open()

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def _look(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)

    def _open(self) -> sqlite3.Connection:
        _private(self._path)
        db = sqlite3.connect(
            self._path,
            timeout=self.PATIENCE_S,
            isolation_level=None,
            check_same_thread=self.ONE_THREAD,
        )
        try:
            db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
            with _transaction(db):
                if db.execute("PRAGMA application_id").fetchone()[0] != self.APPLICATION:
                    for statement in filter(str.strip, self.SCHEMA.split(";")):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {self.APPLICATION}")
                    db.execute(f"PRAGMA user_version = {self.VERSION}")
                elif db.execute("PRAGMA user_version").fetchone()[0] > self.VERSION:
                    raise StoreError(
                        f"{self._path} was written by a newer Bifrost; upgrade this one."
                    )
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            remedy = f"; if it is damaged, {self.REMEDY}" if self.REMEDY else ""
            raise StoreError(f"Cannot use {self.CALLED}{self._path}: {error}{remedy}.") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._guarded(), _transaction(self._db):
            yield


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def asked(path: Path, question: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows that answer a question, for any process that only looks.

    No rows while there is no file, or its owner is about to make it; StoreError if unreadable.
    """
    if not path.exists():
        return []
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return db.execute(question, values).fetchall()
        finally:
            db.close()
    except sqlite3.Error as error:
        if "no such table" in str(error):
            return []
        raise StoreError(f"Cannot read {path}: {error}.") from error


def _private(path: Path) -> None:
    """Makes a file only we may read, if there is none.

    One that exists is not opened: closing it again would let go of the locks that SQLite's other
    connections in this process hold on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
