"""What workers learn together of how many tokens a model makes of text."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bifrost._fast.density import OVERHEAD, PER_KIB, Densities, Density


def test_input_is_bound_by_the_densest_request_seen_and_a_quarter() -> None:
    density = Density()
    for _ in range(31):
        density.learn(10_240, OVERHEAD + 2_000)
    density.learn(100, 10_000)  # too short to tell anything
    assert density.per_kib == PER_KIB
    density.learn(10_240, OVERHEAD + 3_000)
    assert density.per_kib == 375
    density.learn(10_240, OVERHEAD + 100_000)
    assert density.per_kib == PER_KIB  # never above what is assumed of the unknown
    sparse = Density()
    for _ in range(40):
        sparse.learn(1_000_000, 1)
    assert sparse.per_kib == 128


def test_output_is_the_average_of_text() -> None:
    density = Density()
    density.hear(1_596, 399)
    assert density.output is None  # too little to go by
    density.hear(1_000, 900)  # hidden thinking
    density.hear(90_000, 10)  # no text
    density.hear(0, 0)
    density.hear(-5, -1)
    assert density.output is None
    density.hear(3, 1)
    assert density.output == (1_599, 400)
    for _ in range(200):
        density.hear(30_000, 10_000)
    size, tokens = density.output
    assert tokens < 1_100_000  # the past counts less and less
    assert size / tokens == pytest.approx(3.0, abs=0.01)


def test_all_who_map_the_file_learn_together_and_it_outlives_them(tmp_path: Path) -> None:
    path = tmp_path / "densities"
    script = (
        "import sys; from bifrost._fast.density import Densities; "
        "Densities(sys.argv[1]).find('host', 'model').hear(2_000, 500)"
    )
    mine = Densities(path).find("host", "model")
    with ThreadPoolExecutor(4) as pool:
        one = [sys.executable, "-c", script, str(path)]
        list(pool.map(lambda _: subprocess.run(one, check=True, timeout=60), range(4)))
    assert mine.output == (8_000, 2_000)
    assert Densities(path).find("host", "model").output == (8_000, 2_000)
    assert Densities(path).find("host", "another").output is None
    assert Densities(path).find("hostm", "odel").output is None


def test_more_models_than_the_file_holds_are_learned_alone(tmp_path: Path) -> None:
    densities = Densities(tmp_path / "densities")
    found = [densities.find("host", f"m-{n}") for n in range(2_100)]
    for each in found:
        each.hear(4_000, 1_000)
    assert {each.output for each in found} == {(4_000, 1_000)}


@pytest.mark.parametrize("seed", range(5))
def test_a_garbled_file_is_no_worse_than_none(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "densities"
    path.write_bytes(random.Random(seed).randbytes(70_000))
    density = Densities(path).find("host", "model")
    density.learn(10_240, 4_000)
    density.hear(4_000, 1_000)
    assert 128 <= density.per_kib <= PER_KIB
    size, tokens = density.output or (18, 5)
    assert 2 <= size / tokens <= 8


def test_where_nothing_can_be_written_it_learns_alone(tmp_path: Path) -> None:
    density = Densities(tmp_path / "no" / "such" / "folder").find("host", "model")
    density.hear(4_000, 1_000)
    assert density.output == (4_000, 1_000)
