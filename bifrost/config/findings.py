"""The problems of one configuration file, collected so that all of them are told at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from bifrost.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_$*?@:/-]+")
_LONGEST_SHOWN = 48


def inside(place: str, key: str | int) -> str:
    """The path of a member: ``a.b``, ``a[0]``, or ``a['b.c']`` where a dot would mislead."""
    if isinstance(key, int):
        return f"{place}[{key}]"
    if not _PLAIN.fullmatch(key):
        return f"{place}[{key[:_LONGEST_SHOWN]!r}]"
    return f"{place}.{key}" if place else key


def meant(name: str, options: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest option, or nothing."""
    by_fold = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(name.casefold(), list(by_fold), n=1, cutoff=0.6)
    return f"; did you mean {by_fold[near[0]]!r}?" if near else ""


def listed(options: Sequence[str]) -> str:
    """``'a'``, ``'a' or 'b'``, ``'a', 'b' or 'c'``."""
    quoted = [repr(option) for option in options]
    return " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))


class Findings:
    """Problems and warnings of one file, in the order found.

    ``told`` are the problems as (path, problem), ``places`` their paths. ``references`` maps a
    place to the ``env.`` or ``file:`` value written there: messages show it instead of what it
    stands for.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.places: set[str] = set()
        self.references: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        """The problems, each a line."""
        return [f"{place or 'the top level'}: {text}" for place, text in self.told]

    def add(self, place: str, text: str) -> None:
        """Note a problem; the file cannot be used."""
        self.places.add(place)
        self.told.append((place, text))

    def warn(self, place: str, text: str) -> None:
        """Note something that works but deserves a look."""
        self.warnings.append(f"{place}: {text}")

    def shown(self, place: str, value: str) -> str:
        """The value as messages may show it."""
        text = self.references.get(place, value)
        if len(text) > _LONGEST_SHOWN or "sk-" in text:
            return "text"
        return repr(text)

    def finish(self, where: str) -> None:
        """Raise ConfigError with every problem, one a line, if there is any."""
        if self.problems:
            count = len(self.problems)
            head = f"{where} cannot be used; {count} problem{'s' if count > 1 else ''}:"
            raise ConfigError("\n".join((head, *self.problems)))
