"""Pace: a backlog is worked off in small pieces, with rests that end when it grows."""

from __future__ import annotations

import threading

import pytest

from bifrost import pace
from bifrost.pace import PIECE, Pace


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1])
def test_pieces_are_the_whole_in_order(count: int) -> None:
    pieces = list(Pace().pieces(range(count)))
    assert [one for piece in pieces for one in piece] == list(range(count))
    assert all(0 < len(piece) <= PIECE for piece in pieces)


@pytest.mark.parametrize("hurried", [True, False])
def test_a_rest_is_taken_behind_each_piece_unless_it_is_behind(
    hurried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(pace.time, "sleep", naps.append)
    list(Pace(hurried=hurried).pieces(range(3 * PIECE)))
    assert len(naps) == (0 if hurried else 3)


def test_another_thread_runs_meanwhile() -> None:
    """An embedded steward shares the interpreter with its host."""
    seen: list[int] = []
    done = threading.Event()

    def other() -> None:
        while not done.is_set():
            seen.append(len(worked))
            done.wait(0)

    worked: list[int] = []
    thread = threading.Thread(target=other)
    thread.start()
    for piece in Pace().pieces(range(64 * PIECE)):
        worked += piece
    done.set()
    thread.join()
    assert len(set(seen)) > 8
