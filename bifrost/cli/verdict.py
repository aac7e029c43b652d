"""How a verification is shown: its progress at a terminal, and the verdict as text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from bifrost.audit.verdict import Verdict


@contextmanager
def bar(length: int, what: str) -> Iterator[Callable[[int], object]]:
    """A bar on standard error where that is a terminal, nothing elsewhere; yields what moves it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=f"Verifying {what}", file=sys.stderr) as shown:
        yield shown.update


def show_verdict(verdict: Verdict) -> None:
    """Prints what was found, proved and not proved."""
    found = "intact" if verdict.intact else "NOT INTACT"
    if verdict.intact and verdict.unread:
        found = f"NOT WHOLLY READ: {verdict.unread:,} entries are out of reach"
    click.echo(f"Audit log {verdict.origin}: {found}")
    if verdict.first_bad is not None:
        click.echo(f"First bad entry: {verdict.first_bad}")
    for finding in verdict.findings:
        click.echo(f"  - {finding.what}")
    for title, sentences in (("Proved:", verdict.proved), ("Not proved:", verdict.not_proved)):
        if sentences:
            click.echo(title)
        for sentence in sentences:
            click.echo(f"  - {sentence}")
