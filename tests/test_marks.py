"""Tests that go through a listener are found, whatever way they come by their gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.listeners import marks, words
from tests.running import BIFROST, Process, RunningGateway


def direct(tmp_path: Any) -> RunningGateway:
    return RunningGateway(tmp_path, {})


def through_a_loop(tmp_path: Any) -> list[Any]:
    return [(lambda: direct(tmp_path))() for _ in "x"]


class House:
    def start(self) -> None:
        direct(None)


def in_a_method() -> None:
    House().start()


def by_command() -> None:
    Process([*BIFROST, "serve"], "", None)  # type: ignore[arg-type]


def chosen(tmp_path: Any) -> None:
    RunningGateway(tmp_path, {}, "--listener", "asgi")


def another_command() -> None:
    Process([*BIFROST, "mock"], "", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("test", [direct, through_a_loop, in_a_method, by_command])
def test_what_starts_a_gateway_is_marked(test: Callable[..., Any]) -> None:
    assert marks([another_command, test]) == {"gateway"}


def test_others_are_not() -> None:
    assert marks([chosen]) == {"gateway", "listeners"}
    assert marks([another_command, None, len]) == set()
    assert "mock" in words(another_command)


def test_this_run_is_marked(request: pytest.FixtureRequest) -> None:
    doors = [one for one in request.session.items if one.nodeid.startswith("tests/test_door.py")]
    assert all(one.get_closest_marker("gateway") for one in doors)
    assert request.node.get_closest_marker("gateway") is None
