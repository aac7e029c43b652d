"""Tasks of the keeper: what it does in a thread, and the step of the steward that ends each."""

from __future__ import annotations

import threading
from collections.abc import Callable

Append = Callable[[list[bytes]], int]
Step = Callable[[Append], None]


class Task:
    """Slow work in a thread; what it returns is the steward's to do."""

    def __init__(self, work: Callable[[], Step]) -> None:
        self._work = work
        self._step: Step | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="bifrost-keeper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._step = self._work()
        except Exception as error:
            self._error = error

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Waits for it, at most so many seconds."""
        self._thread.join(timeout)

    def finish(self, append: Append) -> None:
        """Does what is left to the steward, or raises what went wrong."""
        if self._error is not None:
            raise self._error
        assert self._step is not None
        self._step(append)
