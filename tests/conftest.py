"""Fixtures shared by all tests: a mock provider and a gateway in front of it, as real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running import RunningGateway, RunningMock, configuration


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
