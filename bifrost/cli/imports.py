"""``bifrost keys import``: many virtual keys from a file, in batches that are whole or absent."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec
from msgspec.structs import replace

from bifrost.cli.options import MOST_RATE, Governed, budget_of, rate_of
from bifrost.cli.store import data_dir_option, opened
from bifrost.config.rules import key_value_fault
from bifrost.config.settings import instant_ns
from bifrost.errors import BadRows, BifrostError, Conflict
from bifrost.governance.directory import Directory
from bifrost.governance.entities import ProviderRule, new_id, new_secret

BATCH = 20_000
MOST_FAULTS = 20  # shown; the rest is counted


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One row: what the options of ``keys create`` say. Lists in CSV are parted by semicolons."""

    name: str
    value: str | None = None
    user: str | None = None
    team: str | None = None
    customer: str | None = None
    budget: str | list[str] = ""
    rate_limit: str | list[str] = ""
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    models: str | None = None
    blocked_models: str | None = None
    provider: str | None = None
    expires: str | None = None

    def check(self) -> None:
        """Raises ValueError or Conflict with what is wrong."""
        if self.value is not None and (fault := key_value_fault(self.value)):
            raise ValueError(f"value: {fault}")
        self._model()

    def _model(self) -> dict[str, Any]:
        return _model(
            _parts(self.budget), _parts(self.rate_limit), self.rpm, self.tpm, self.concurrency,
            self.models, self.blocked_models, self.provider, self.expires,
        )  # fmt: skip

    def fields(self) -> dict[str, Any]:
        """What the directory stores of a row that was checked; budgets and limits are new ones."""
        fields = dict(self._model())
        now = time.time_ns()
        if budgets := fields.get("budgets"):
            fields["budgets"] = tuple(
                replace(one, id=new_id("budget"), created_at=now) for one in budgets
            )
        if limits := fields.get("rate_limits"):
            fields["rate_limits"] = tuple(replace(one, id=new_id("rate_limit")) for one in limits)
        owner = {"user": self.user, "team": self.team, "customer": self.customer}
        return fields | owner


def _parts(text: str | list[str]) -> tuple[str, ...]:
    parts = text.split(";") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())


@lru_cache(maxsize=4096)
def _model(
    budgets: tuple[str, ...],
    rate_limits: tuple[str, ...],
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    models: str | None,
    blocked: str | None,
    provider: str | None,
    expires: str | None,
) -> dict[str, Any]:
    """What such columns say; most rows of a file say the same."""
    given = Governed(
        budgets=tuple(map(budget_of, budgets)),
        rate_limits=tuple(map(rate_of, rate_limits)),
        rpm=_most("rpm", rpm),
        tpm=_most("tpm", tpm),
        concurrency=_most("concurrency", concurrency),
        models=models,
        blocked=blocked,
        provider=provider,
    )
    expiry = {"expires_at": instant_ns(expires)} if expires else {}
    return given.changes(None, (ProviderRule(),)) | expiry


def _most(name: str, most: int | None) -> int | None:
    if most is not None and not 0 <= most <= MOST_RATE:
        raise ValueError(f"{name}: expected a number from 0 to {MOST_RATE}, got {most}")
    return most


class Sheet:
    """The rows of a CSV file with a header, or of a file of JSON objects, one a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[tuple[int, Row | str]]:
        """(line number, row or what is wrong with it), from the beginning."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                yield from self._csv(file) if self._is_csv(file) else self._json(file)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BifrostError(f"Cannot read {self.path}: {error}.") from error

    @staticmethod
    def _is_csv(file: TextIO) -> bool:
        first = file.readline()
        file.seek(0)
        return not first.lstrip().startswith("{")

    def _csv(self, file: TextIO) -> Iterator[tuple[int, Row | str]]:
        lines = csv.reader(file, strict=True)
        header = [name.strip() for name in next(lines, [])]
        strange = [name for name in header if name not in Row.__struct_fields__]
        if strange or "name" not in header or len(set(header)) != len(header):
            raise BifrostError(
                f"{self.path}, line 1: a header with 'name' is needed and maybe "
                f"{', '.join(Row.__struct_fields__[1:])}"
                + (f"; {strange[0]!r} is none of these." if strange else ", each once.")
            )
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                yield lines.line_num, f"{len(cells)} cells under {len(header)} columns"
                continue
            given = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
            try:
                yield lines.line_num, msgspec.convert(given, Row, strict=False)
            except msgspec.ValidationError as error:
                yield lines.line_num, _told(error)

    @staticmethod
    def _json(file: TextIO) -> Iterator[tuple[int, Row | str]]:
        decoder = msgspec.json.Decoder(Row)
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, decoder.decode(line)
                except msgspec.DecodeError as error:
                    yield number, _told(error)


def _told(error: msgspec.DecodeError) -> str:
    """What is wrong, with the column in front."""
    text, _, place = str(error).replace("`", "").partition(" - at $.")
    return f"{place}: {text}" if place else text


Ready = tuple[int, str, str | None, dict[str, Any]]  # line, name, value, fields


def checked(sheet: Sheet) -> tuple[int, bool]:
    """How many rows there are, and whether one has no value; raises when one is wrong."""
    faults: list[tuple[int, str]] = []
    rows, open_ = 0, False
    for line, row in sheet.rows():
        rows += 1
        if isinstance(row, str):
            faults.append((line, row))
            continue
        try:
            row.check()
        except (ValueError, Conflict) as error:
            faults.append((line, str(error)))
        open_ = open_ or row.value is None
    if faults:
        refuse(sheet, faults, "Nothing was stored.")
    return rows, open_


def ready(sheet: Sheet) -> Iterator[Ready]:
    """The rows of a sheet that was checked, as they are stored."""
    for line, row in sheet.rows():
        if not isinstance(row, str):
            yield line, row.name, row.value, row.fields()


def refuse(sheet: Sheet, faults: list[tuple[int, str]], outcome: str) -> None:
    """One line for each wrong row, then what was done, and exit code 1."""
    for line, why in faults[:MOST_FAULTS]:
        click.echo(f"{sheet.path}, line {line}: {why.rstrip('.')}.", err=True)
    if len(faults) > MOST_FAULTS:
        click.echo(f"... and {len(faults) - MOST_FAULTS:,} more rows.", err=True)
    raise BifrostError(outcome)


class Import:
    """Stores the rows of a sheet in a directory; secrets it makes go into a file first."""

    def __init__(self, sheet: Sheet, directory: Directory, secrets: TextIO | None) -> None:
        self._sheet = sheet
        self._directory = directory
        self._secrets = secrets
        self.stored = self.left = 0

    def batch(self, batch: list[Ready], *, skip: bool) -> None:
        """Stores some rows, all or none; ``skip`` leaves out names that are stored already."""
        if skip:
            known = [self._directory.find("virtual_key", name) for _, name, _, _ in batch]
            self.left += sum(one is not None for one in known)
            batch = [row for row, one in zip(batch, known, strict=True) if one is None]
        wanted = [(name, value or new_secret(), fields) for _, name, value, fields in batch]
        if self._secrets is not None:  # before they count: what is stored is never lost
            lines = csv.writer(self._secrets)
            lines.writerows(
                (name, secret)
                for (name, secret, _), (_, _, value, _) in zip(wanted, batch, strict=True)
                if value is None
            )
            self._secrets.flush()
            os.fsync(self._secrets.fileno())
        try:
            if wanted:
                self._directory.create_keys(wanted)
        except BadRows as error:
            faults = [(batch[position][0], why) for position, why in error.rows]
            refuse(self._sheet, faults, self._outcome(batch))
        self.stored += len(batch)

    def _outcome(self, batch: list[Ready]) -> str:
        return (
            f"Nothing of lines {batch[0][0]} to {batch[-1][0]} was stored; {self.stored:,} keys "
            "of the lines before were. Mend the file and run it again with --skip-existing."
        )


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--secrets", type=click.Path(dir_okay=False, path_type=Path),
              help="New file for the secrets of rows without a value: name,value.")  # fmt: skip
@click.option("--skip-existing", is_flag=True, help="Leave keys whose name is stored as they are.")
@click.option("--batch", "size", type=click.IntRange(1, 200_000), default=BATCH, show_default=True,
              help="Rows stored together, all or none.")  # fmt: skip
@data_dir_option
def import_keys(
    file: Path, secrets: Path | None, skip_existing: bool, size: int, data_dir: Path
) -> None:
    """Create the virtual keys of a CSV file or of JSON lines.

    Columns: name, and maybe value, user, team, customer, budget, rate_limit, rpm, tpm, concurrency,
    models, blocked_models, provider, expires, as the options of `keys create` say them; several
    budgets or rate limits are parted by semicolons. All rows are checked before one is stored.

    \b
    Example:
      bifrost keys import keys.csv --secrets secrets.csv

    \b
    with, in keys.csv:
      name,user,budget,rpm
      alice-dev,alice,75/1M,60
    """
    sheet = Sheet(file)
    rows, needs_secrets = checked(sheet)
    if needs_secrets and secrets is None:
        raise BifrostError(
            f"Some rows of {file} have no value: name a new file with --secrets, where the secrets "
            "made for them are written."
        )
    began = time.monotonic()
    with opened(data_dir, create=True) as (directory, _), _new(secrets) as out:
        work = Import(sheet, directory, out)
        whole = ready(sheet)
        with click.progressbar(length=rows, file=sys.stderr, label="Importing") as bar:
            while batch := list(islice(whole, size)):
                work.batch(batch, skip=skip_existing)
                bar.update(len(batch))
    took = time.monotonic() - began
    left = f", {work.left:,} were there already" if skip_existing else ""
    click.echo(f"Created {work.stored:,} virtual keys in {took:.1f} s{left}.")


@contextmanager
def _new(path: Path | None) -> Iterator[TextIO | None]:
    """A new file for secrets, for its owner only; nothing without a path."""
    if path is None:
        yield None
        return
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BifrostError(
            f"Cannot make {path}: {error.strerror}; --secrets needs a new file."
        ) from error
    with os.fdopen(fd, "w", newline="", encoding="utf-8") as file:
        file.write("name,value\r\n")
        yield file
