"""Builds the usage view anew from the log beside the one in use, then puts it into use at once.

Safe while the gateway runs: the steward goes on with the old file until it sees, before its next
batch, that another is in use, and continues with that one where the rebuild ended.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from bifrost.audit import events
from bifrost.audit.events import Event
from bifrost.audit.log import Reader
from bifrost.errors import StoreError
from bifrost.usage import files, schema
from bifrost.usage.intake import Intake
from bifrost.usage.view import UsageView

BATCH = 8_192


def waiting(data_dir: Path) -> int:
    """How many entries of the log the view in use has not seen; all if there is no usable view."""
    reader = Reader(data_dir)
    try:
        with closing(UsageView(data_dir, read_only=True)) as view:
            return max(0, reader.end() - view.last())
    except StoreError:
        return reader.end() - reader.oldest()


def rebuild(
    data_dir: Path,
    names: Iterable[tuple[str, str]],
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Builds the view and puts it into use; returns how many entries of the log are in it.

    ``names`` are the present names of ids; those of deleted ones come from the log and the old
    view. ``progress`` is told how many entries were added. Raises StoreError, also when another
    rebuild is under way.
    """
    with _alone(data_dir):
        files.tidy(data_dir, newer=True)
        path = files.fresh(data_dir)
        try:
            done = _fill(path, data_dir, names, progress)
            files.use(data_dir, path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"Cannot build the usage view {path}: {error}.") from error
        finally:
            if files.current(data_dir) != path:
                files.remove(path)
        return done


def _fill(
    path: Path,
    data_dir: Path,
    names: Iterable[tuple[str, str]],
    progress: Callable[[int], None],
) -> int:
    reader = Reader(data_dir)
    schema.make(path)
    with closing(schema.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")  # nobody uses it before it is whole
        intake = Intake(db)
        with suppress(StoreError), closing(UsageView(data_dir, read_only=True)) as old:
            intake.name(old.names())
        start = position = reader.oldest()
        while batch := reader.read(position, BATCH):
            position += len(batch)
            intake.take(_decoded(batch), position)
            progress(len(batch))
        intake.name(names)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return position - start


def _decoded(batch: list[tuple[int, bytes]]) -> Iterator[tuple[int, Event]]:
    """The events; what cannot be read is left out, as the steward does, which logs it."""
    for index, raw in batch:
        with suppress(msgspec.DecodeError):
            yield index, events.decode(raw)


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    try:
        descriptor = os.open(data_dir / "usage.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"Cannot build the usage view in {data_dir}: {error}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreError(
            f"The usage view in {data_dir} is being built by somebody else; wait for that."
        ) from None
    finally:
        os.close(descriptor)
