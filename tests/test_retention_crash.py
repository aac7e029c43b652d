"""Retention: nothing is lost at any step at which the power goes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bifrost.audit import keeper, parts
from bifrost.audit.parts import Parts
from bifrost.audit.segments import segments
from tests.keeping import Keeping, check_kept, entries, expire


class Crash(Exception):
    """The power went."""


POINTS: list[tuple[Any, str, int]] = [
    *((keeper, "pack", 1), (keeper, "write_whole", 1), (keeper, "sync_folder", 1)),
    *((parts.Parts, "manifest", 3), (os, "fdatasync", 3), (os, "fsync", 5), (Path, "unlink", 1)),
]


def crashing(done: Callable[..., Any], when: int, count: list[int]) -> Callable[..., Any]:
    """The function, which fails for good from some call on, before it works or after that."""

    def called(*given: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] * 2 > when and when % 2 == 0:
            raise Crash
        found = done(*given, **more)
        if count[0] * 2 > when:
            raise Crash
        return found

    return called


@pytest.mark.parametrize(
    ("owner", "name", "stride"), POINTS, ids=lambda value: str(getattr(value, "__name__", value))
)
def test_a_crash_between_any_two_steps_loses_nothing(
    owner: Any, name: str, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Keeping(tmp_path / "first", archive_after="30d", duration="365d")
    first.fill(20)
    third = segments(first.folder)[2]
    first.close()
    crashes, done = 0, 0
    for when in range(0, 90, stride):
        place = tmp_path / f"n{when}"
        shutil.copytree(tmp_path / "first", place)
        keeping = Keeping(place, archive_after="30d", duration="365d")
        before = entries(keeping.folder)
        keeping.age(-31 * 86_400)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, crashing(getattr(owner, name), when, [0]))
                keeping.settle()
                expire(keeping.folder, third)
                keeping.settle()
            done += 1
        except Crash:
            crashes += 1
        if keeping.keeper._task is not None:
            keeping.keeper._task.join(60)
        keeping.log.close()
        check_kept(place, before)
        again = Keeping(place, archive_after="30d", duration="365d")
        again.settle()
        expire(again.folder, third)
        again.settle()
        again.settle()
        check_kept(place, before)
        assert not again.trouble, again.trouble
        assert again.keeper._task is None
        assert Parts(again.folder).minimum() == third
        again.close()
        if done == 2:
            break
    assert crashes
