"""Health: which parts rest after which faults, for how long, and what ends it. Time is given."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bifrost.routing.health import (
    DENIED,
    FAILING,
    FORBIDDEN,
    LIMITED,
    LONGEST_ASKED_NS,
    MOST_TROUBLES,
    SILENT,
    TRIAL_NS,
    UNREACHED,
    Fault,
    Health,
    Place,
    fault_of,
)
from bifrost.routing.order import draw, seed_of

S = 1_000_000_000
HERE = Place("anthropic", "main", "claude-sonnet-4-5")
OTHER_KEY = Place("anthropic", "spare", "claude-sonnet-4-5")
OTHER_MODEL = Place("anthropic", "main", "claude-haiku-4-5")
ELSEWHERE = Place("mirror", "main", "claude-sonnet-4-5")


@pytest.mark.parametrize(
    ("fault", "resting"),
    [
        (UNREACHED, {HERE, OTHER_KEY, OTHER_MODEL}),
        (SILENT, {HERE, OTHER_KEY}),
        (LIMITED, {HERE}),
        (DENIED, {HERE, OTHER_MODEL}),
    ],
    ids=lambda given: given.name if isinstance(given, Fault) else "",
)
def test_a_fault_lets_rest_what_it_speaks_of(fault: Fault, resting: set[Place]) -> None:
    health = Health()
    health.failed(HERE, fault, 0, 10)
    all_of_them = {HERE, OTHER_KEY, OTHER_MODEL, ELSEWHERE}
    assert {one for one in all_of_them if health.rests_until(one, 11)} == resting
    assert len(list(health.resting(11))) == 1


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (200, None), (400, None), (404, None), (413, None), (422, None),
        (401, DENIED), (402, DENIED), (403, FORBIDDEN), (429, LIMITED),
        (408, FAILING), (500, FAILING), (503, FAILING), (529, FAILING),
    ],
)  # fmt: skip
def test_what_a_status_says_of_its_target(status: int, fault: Fault | None) -> None:
    assert fault_of(status) is fault


def test_cool_downs_double_up_to_the_longest_and_one_attempt_tries() -> None:
    health = Health()
    health.settle(2, 7)
    now = 0
    for pause in (2, 4, 7, 7):
        assert health.rests_until(HERE, now) == 0
        health.begin(HERE, now)
        if now:
            assert health.rests_until(HERE, now) == now + TRIAL_NS  # for everybody else
        health.failed(HERE, UNREACHED, now, now)
        assert health.rests_until(HERE, now) == now + pause * S
        now += pause * S
    health.begin(HERE, now)
    health.served(HERE, now)
    assert health.rests_until(HERE, now) == 0
    health.failed(HERE, UNREACHED, now, now)
    assert health.rests_until(HERE, now) == now + 2 * S


def test_errors_must_come_in_a_row() -> None:
    health = Health()
    for _ in range(5):
        health.failed(HERE, FAILING, 1, 1)
        health.failed(HERE, FAILING, 1, 1)
        assert not health.rests_until(HERE, 2)
        health.served(HERE, 1)
    for _ in range(3):
        health.failed(HERE, FAILING, 1, 1)
    assert health.rests_until(HERE, 2)


def test_a_provider_is_left_alone_as_long_as_it_asks() -> None:
    health = Health()
    health.failed(HERE, LIMITED, 0, 0, 42 * S)
    assert health.rests_until(HERE, 1) == 42 * S
    health.failed(HERE, FAILING, 0, 0, 60 * S)  # at the first time already
    assert health.rests_until(HERE, 1) == 60 * S
    health.failed(HERE, LIMITED, 0, 0, 10**9 * S)
    assert health.rests_until(HERE, 1) == LONGEST_ASKED_NS


def test_what_was_under_way_neither_prolongs_a_cool_down_nor_ends_it() -> None:
    health = Health()
    health.settle(2, 300)
    for _ in range(50):
        health.failed(HERE, UNREACHED, 5, 10)
    assert health.rests_until(HERE, 10) == 10 + 2 * S
    health.served(HERE, 5)
    assert health.rests_until(HERE, 11)
    health.failed(HERE, UNREACHED, 5, 20 + 2 * S)  # late news of the same failure
    assert not health.rests_until(HERE, 20 + 2 * S)
    health.served(HERE, 11)  # it was tried all the same
    assert not health.rests_until(HERE, 12)


def test_a_trial_that_is_given_up_lets_the_next_one_try() -> None:
    health = Health()
    health.failed(HERE, UNREACHED, 0, 0)
    now = 5 * S
    health.begin(HERE, now)
    assert health.rests_until(HERE, now)
    health.leave(HERE)
    assert not health.rests_until(HERE, now)
    health.begin(HERE, now)
    assert not health.rests_until(HERE, now + TRIAL_NS)


def test_memory_is_bounded() -> None:
    health = Health()
    for number in range(MOST_TROUBLES + 10):
        health.failed(Place("p", "k", f"m{number}"), LIMITED, 0, 0)
    assert len(list(health.resting(1))) == MOST_TROUBLES


def test_targets_get_their_shares_and_a_session_its_target() -> None:
    weights = {"a": 8.0, "b": 1.0, "c": 1.0}

    def first(seed: bytes, names: str) -> str:
        return min(names, key=lambda name: draw(seed, name, weights[name]))

    chance = random.Random(7)
    seeds = [seed_of([chance.randbytes(8)]) for _ in range(4_000)]
    found = [first(seed, "abc") for seed in seeds]
    assert found == [first(seed, "abc") for seed in seeds]
    shares = Counter(found)
    assert 0.77 < shares["a"] / 4_000 < 0.83
    assert 0.08 < shares["b"] / 4_000 < 0.12
    without = [first(seed, "ac") for seed in seeds]
    assert all(after == before for before, after in zip(found, without, strict=True)
               if before != "b")  # fmt: skip
