"""The trials in benchmarks/: they run against any gateway and tell passed from failed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks import budgets
from benchmarks.limits import most_in
from benchmarks.revocation import quantile
from benchmarks.subject import PACE, SIZES, table
from tests.running import KEY, RunningGateway, RunningMock, budget, configuration

SPENT = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1] + "/api/governance/virtual-keys/quota",
                                 headers={"authorization": "Bearer " + sys.argv[2]})
with urllib.request.urlopen(request) as answer:
    levels = json.load(answer)["levels"]
print(next(one["budgets"][0]["current_usage"] for one in levels if one["level"] == "key"))
"""


def test_another_gateway_is_tried_by_its_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mock = RunningMock(tmp_path, *PACE, *SIZES)
    gateway = RunningGateway(tmp_path / "gateway", configuration(mock.url, budgets=budget("2")))
    spent = shlex.join([sys.executable, "-c", SPENT, gateway.url, KEY])
    given = ["--url", gateway.url, "--key", KEY, "--account-url", mock.url, "--only"]
    try:
        asked = [*given, "large", "--spent-command", spent, "--out", str(tmp_path)]
        assert budgets.main(asked) == 0
        [found] = json.loads((tmp_path / "budgets.json").read_text())["result"]
        assert (found["asked"], found["answered"], found["passed"]) == (32, 32, True)
        assert found["billed"] == found["booked"] == 420_000_000
        assert budgets.main([*given, "killed"]) == 0  # nobody said how, so it is not judged
        assert "not judged" in capsys.readouterr().out
        assert budgets.main([*given, "flight"]) == 1  # its budget holds for more than 10
        assert "FAILED" in capsys.readouterr().out
    finally:
        gateway.stop()
        mock.stop()


def test_an_address_alone_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        budgets.options(["--url", "http://127.0.0.1:1"])
    assert "--url needs --key and --account-url" in capsys.readouterr().err


def test_the_sums_of_the_trials() -> None:
    assert most_in([0, 5, 9, 10], 10) == 3  # a stretch is half-open
    assert most_in([], 10) == 0
    values = [float(n) for n in range(1, 201)]
    assert [quantile(values, q) for q in (0.5, 0.99, 1.0)] == [100.0, 198.0, 200.0]
    assert table([("a", "b"), ("1", "2")]).splitlines() == ["| a | b |", "|---|---|", "| 1 | 2 |"]
