"""Fixtures shared by all tests: a mock provider and a gateway in front of it, as real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.listeners import marks
from tests.running import RunningGateway, RunningMock, configuration


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that go through a listener, so that a run can be of just these."""
    for item in items:
        functions = [getattr(item, "obj", None)]
        for name, fixtures in item._fixtureinfo.name2fixturedefs.items():
            over = name in fixtures[-1].argnames  # it builds on the one it replaces
            functions += [one.func for one in (fixtures if over else fixtures[-1:])]
        for mark in marks(functions):
            item.add_marker(mark)


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    """One mock provider per test file."""
    running = RunningMock(tmp_path_factory.mktemp("mock"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One gateway with the example governance in front of the mock, per test file."""
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), configuration(mock.url))
    yield running
    running.stop()
