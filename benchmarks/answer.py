"""The first answer of something that was just started: asked for again until it comes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from benchmarks.cases import cases
from benchmarks.load import Target
from benchmarks.processes import BenchError

PAUSE_S = 0.002


def await_answer(
    target: Target, seconds: float, check: Callable[[], None], *, patient: bool = False
) -> None:
    """Returns once a small request was answered with 200.

    ``check`` raises when the process has ended. BenchError after ``seconds``, with what was
    answered last, and at the first other answer unless ``patient``.
    """
    message, last = target.message(cases()[0]), b"nothing"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check()
        try:
            last = _answer(target, message)
        except OSError:
            time.sleep(PAUSE_S)
            continue
        if last.startswith(b"HTTP/1.1 200"):
            return
        if last and not patient:
            break
        time.sleep(10 * PAUSE_S)
    raise BenchError(f"{target.name} does not answer with 200: {last.decode('latin-1')}")


def _answer(target: Target, message: bytes) -> bytes:
    """The beginning of an answer, at most 2 kB."""
    with socket.create_connection((target.host, target.port), 1) as sock:
        sock.settimeout(10)
        sock.sendall(message)
        return sock.recv(2048)
