"""A child of the supervisor: one process, which can be started again after it ended."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from bifrost.errors import BifrostError

log = logging.getLogger("bifrost.supervisor")
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def told_to_stop() -> threading.Event:
    """An event that is set when this process gets SIGTERM.

    It is set by a thread: the signal may come while the main thread, inside ``wait``, holds the
    event's lock, and a handler that asked for it there would wait for itself.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stop.set, daemon=True).start())
    return stop


class Child:
    """A forked process: how to start it again and since when it runs."""

    def __init__(self, name: str, body: Callable[[], None], pid: int = 0) -> None:
        self.name = name
        self.body = body
        self.pid = pid
        self.since = 0.0
        self.not_before = 0.0

    def start(self) -> None:
        """Forks; the child runs its body and exits, it never returns."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # Held back over the fork: a signal meant for the child must not meet our own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.pid = os.fork()
            self.since = time.monotonic()
            if self.pid == 0:
                self._run(parent)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _run(self, parent: int) -> NoReturn:
        code = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() == parent:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                # Ctrl-C reaches the whole group; the supervisor decides who ends when.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.signal(signal.SIGUSR2, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                self.body()
                code = 0
        except KeyboardInterrupt:
            code = 0
        except BifrostError as error:
            log.error("%s cannot run: %s", self.name, error)
        except BaseException:
            log.exception("%s failed", self.name)
        finally:
            logging.shutdown()
            os._exit(code)
