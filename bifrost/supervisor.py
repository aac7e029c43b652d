"""``bifrost serve``: a supervisor, its workers, one steward and, when asked for, a mock provider.

The supervisor binds the socket, forks the others, replaces the dead and passes signals on. It holds
no store open, so that nothing is shared over a fork but the socket.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bifrost import binding, logs, succession
from bifrost.alerts.thresholds import Thresholds
from bifrost.app import App, needs_mock, with_mock_url
from bifrost.audit import depots
from bifrost.audit.log import FOLDER as AUDIT
from bifrost.audit.observer import Observer
from bifrost.audit.policy import acting
from bifrost.child import SIGNALS, Child, told_to_stop
from bifrost.config.load import Stamp, digest, load, stamp, with_default_providers
from bifrost.config.settings import Settings
from bifrost.core import open_gate, recording, stores
from bifrost.errors import BifrostError, ConfigError
from bifrost.exports.exporter import any_noted, enlist, serve_exports, teller
from bifrost.exports.progress import unsent
from bifrost.governance import declared
from bifrost.governance.directory import Directory
from bifrost.metering.catalogue import Catalogue
from bifrost.meters import Meters
from bifrost.steward import serve_steward
from bifrost.tally import Tally
from bifrost.webhooks.queue import enrol

log = logging.getLogger("bifrost.supervisor")
POLL_S = 0.2
YOUNG_S = 2.0  # a child that lived shorter than this is restarted with a pause
GRACE_S = 5.0  # beyond the streams' own time, before a child is killed


class Supervisor:
    """Runs the gateway of one data directory until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        source: Path | None,
        read: Stamp = None,
        *,
        listener: str = "native",
    ) -> None:
        """``read`` is the stamp of ``source`` from when ``settings`` were read.

        ``listener``: ``native``, the compiled one, or ``asgi``, uvicorn's own.
        """
        Catalogue.load(_prices(settings))
        self.settings = settings
        self.data_dir = data_dir
        depots.remember(settings.evidence, data_dir / AUDIT)
        self.source = source
        self.listener = listener
        self.children: list[Child] = []
        self.mock_url: str | None = None
        self._signals: list[int] = []
        self._stamp = stamp(source) if read is None else read
        self._left = succession.inherited()
        self._old: list[int] = []
        self._relieved = False

    @property
    def succeeds(self) -> bool:
        """Whether this program took over from another one in the same process."""
        return self._left is not None

    def bind(self) -> socket.socket:
        """The listening socket; raises ConfigError with the remedy when the address is taken."""
        if self._left is not None:
            return succession.heirloom(self._left)
        return binding.bind(self.settings.server)

    def tell(self, action: str, before: str | None = None) -> None:
        """Records that the gateway begins, ends or takes up another configuration."""
        try:
            with recording(self.data_dir) as (_, _, recorder):
                recorder.life(
                    action, digest(self.settings), before=before,
                    workers=self.settings.server.workers,
                )  # fmt: skip
        except BifrostError as error:
            log.error("that the gateway lives is not recorded", extra={"error": str(error)})

    def declare(self, settings: Settings) -> list[declared.Minted]:
        """Brings the configured entities into the directory."""
        with stores(self.data_dir) as (directory, _), acting("config"):
            return declared.apply(settings.governance, directory)

    def start_mock(self) -> None:
        """Starts the built-in mock provider and learns its address."""
        reader, writer = os.pipe()
        child = Child("mock provider", lambda: _mock(writer, 0))
        child.start()
        os.close(writer)
        ready, _, _ = select.select([reader], [], [], 20)
        port = os.read(reader, 16) if ready else b""
        os.close(reader)
        if not port:
            raise ConfigError("The built-in mock provider did not start; see the log above.")
        self.mock_url = f"http://127.0.0.1:{int(port)}"
        child.body = lambda: _mock(-1, int(port))
        self.children.append(child)
        self.settings = self._complete(self.settings)

    def _complete(self, settings: Settings) -> Settings:
        return with_mock_url(settings, self.mock_url) if self.mock_url else settings

    def run(self, sock: socket.socket, ready: Callable[[], None]) -> int:
        """Serves on ``sock`` until SIGTERM or SIGINT; ``ready`` is called once all is started."""
        for number in SIGNALS:
            signal.signal(number, lambda caught, _: self._signals.append(caught))
        left = self._left
        if left is not None:
            # An old steward must not read what new workers write.
            succession.send(left.stewards, signal.SIGTERM)
            self._old = left.workers + left.stewards
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back by the last program
        if left is not None and left.mock_url is not None:
            self._adopt_mock(left.mock_url, left.mock_pid)
        elif needs_mock(self.settings):
            self.start_mock()
        self.tell("start")
        steward = Child("steward", self._steward)
        workers = [
            Child(f"worker {n + 1}", lambda: self._worker(sock))
            for n in range(self.settings.server.workers)
        ]
        enrol(self.data_dir, self.settings.webhooks)
        couriers = [Child("webhooks", self._courier)] if self.settings.webhooks else []
        self._enlist()
        exporters = [Child("exporter", self._exporter)] if self.settings.evidence.sinks else []
        for child in (steward, *workers, *couriers, *exporters):
            child.start()
            self.children.append(child)
        succession.note_pid(self.data_dir)
        ready()
        while not self._stopping():
            self._reap()
            self._relieve()
            if signal.SIGUSR2 in self._signals:
                self._restart(sock)
            if signal.SIGHUP in self._signals or stamp(self.source) != self._stamp:
                self._reload()
            time.sleep(POLL_S)
        sock.close()  # else connections would wait here for nobody
        return self._stop()

    def _relieve(self) -> None:
        """Retires the old program's workers once all new ones stand."""
        if not self._old:
            return
        self._old = succession.reap(self._old)
        youngest = max(child.since for child in self.children)
        standing = all(child.pid for child in self.children)
        if not self._old:
            log.info("the last of the old workers is gone")
        elif self._relieved:
            succession.send(self._old, signal.SIGUSR2)  # again: one that just began ignores it
        elif standing and time.monotonic() - youngest > YOUNG_S:
            self._relieved = True
            log.info("the new workers serve; the old ones finish what they have")

    def _adopt_mock(self, url: str, pid: int) -> None:
        """The mock provider of the last program serves on."""
        port = int(url.rpartition(":")[2])
        child = Child("mock provider", lambda: _mock(-1, port), pid)
        child.since = time.monotonic()
        self.children.append(child)
        self.mock_url = url
        self.settings = self._complete(self.settings)

    def _restart(self, sock: socket.socket) -> None:
        """Becomes the installed program, if that can start; returns only if it cannot."""
        self._signals = [number for number in self._signals if number != signal.SIGUSR2]
        if not succession.sound(self.source):
            return
        names = ("steward", "webhooks", "exporter")  # there is one of each at a time
        stewards = [child.pid for child in self.children if child.name in names and child.pid]
        mock = [child.pid for child in self.children if child.name == "mock provider"]
        workers = [child.pid for child in self.children if child.name.startswith("worker")]
        left = succession.Inheritance(
            sock.fileno(), [pid for pid in workers + self._old if pid], stewards,
            self.mock_url, sum(mock),
        )  # fmt: skip
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            if not self._stopping():  # told so while the program was tried
                succession.hand_over(left)
        except OSError as error:
            log.error("not restarted: the program cannot be run", extra={"error": str(error)})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _stopping(self) -> bool:
        return signal.SIGTERM in self._signals or signal.SIGINT in self._signals

    def _reap(self) -> None:
        """Replaces children that died; one that dies young is given a pause first."""
        for child in self.children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid == 0:
                    continue
                lived = time.monotonic() - child.since
                code = os.waitstatus_to_exitcode(status)
                log.error("%s ended and is replaced", child.name, extra={"code": code})
                child.pid = 0
                child.not_before = time.monotonic() + (1.0 if lived < YOUNG_S else 0.0)
            if time.monotonic() >= child.not_before:
                child.start()

    def _reload(self) -> None:
        """Declares the new file's entities; the workers read the rest of it by themselves."""
        self._signals = [number for number in self._signals if number != signal.SIGHUP]
        self._stamp = stamp(self.source)
        if self.source is None:
            return
        try:
            loaded = with_default_providers(load(self.source).settings)
            Catalogue.load(_prices(loaded))
            for minted in self.declare(loaded):
                print(f"Virtual key {minted.name!r}, shown once: {minted.secret}", flush=True)
        except (BifrostError, OSError) as error:
            log.error("the new configuration is not used", extra={"error": str(error)})
            return
        old = self.settings
        self.settings = self._complete(msgspec.structs.replace(loaded, server=old.server))
        depots.remember(self.settings.evidence, self.data_dir / AUDIT)
        self._renew(old)
        if digest(old) != digest(self.settings):
            self.tell("configure", digest(old))
        for child in self.children:
            if child.name.startswith("worker") and child.pid:
                os.kill(child.pid, signal.SIGHUP)

    def _renew(self, old: Settings) -> None:
        """Children that do not read the file by themselves begin anew where it concerns them."""
        if (old.alerts, old.evidence) != (self.settings.alerts, self.settings.evidence):
            self._end("steward")  # and is replaced
        if old.webhooks != self.settings.webhooks:
            enrol(self.data_dir, self.settings.webhooks)
            self._end("webhooks")
            self.children = [child for child in self.children if child.name != "webhooks"]
            if self.settings.webhooks:
                self.children.append(Child("webhooks", self._courier))
        if old.evidence.sinks != self.settings.evidence.sinks:
            self._end("exporter")
            self.children = [child for child in self.children if child.name != "exporter"]
            self._enlist()
            if self.settings.evidence.sinks:
                self.children.append(Child("exporter", self._exporter))

    def _enlist(self) -> None:
        """Notes which exports are configured; what became different is in the audit log."""
        sinks = self.settings.evidence.sinks
        if sinks or any_noted(self.data_dir):
            with stores(self.data_dir) as (_, gate):
                enlist(self.data_dir, sinks, teller(gate, "config"))

    def _end(self, name: str) -> None:
        for child in self.children:
            if child.name == name and child.pid:
                os.kill(child.pid, signal.SIGTERM)
                self._await(child, time.monotonic() + GRACE_S)

    def _stop(self) -> int:
        """Lets workers finish, then the steward drain; kills what does not end in time."""
        patience = self.settings.server.shutdown_timeout_s + GRACE_S
        workers = [child for child in self.children if child.name.startswith("worker")]
        others = [child for child in self.children if child not in workers]
        old = [Child("old worker", lambda: None, pid) for pid in succession.reap(self._old)]
        for group in (workers + old, others):
            if group is others:
                self.tell("stop")  # while the steward is there to sign it
            for child in group:
                if child.pid:
                    os.kill(child.pid, signal.SIGTERM)
            deadline = time.monotonic() + patience
            for child in group:
                self._await(child, deadline)
        if self.settings.server.uds:
            Path(self.settings.server.uds).unlink(missing_ok=True)
        return 0

    @staticmethod
    def _await(child: Child, deadline: float) -> None:
        while child.pid:
            pid, _ = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.pid = 0
            elif time.monotonic() >= deadline:
                log.error("%s did not stop in time and is killed", child.name)
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0
            else:
                time.sleep(0.02)

    # -- what the children do --------------------------------------------------------------

    def _steward(self) -> None:
        stop = told_to_stop()
        directory = Directory(self.data_dir)
        gate = open_gate(self.data_dir, directory)
        try:
            percents = self.settings.alerts.budget_thresholds
            thresholds = Thresholds(self.data_dir, gate, directory, lambda: percents)
            access = self.settings.server.access_log
            observers: list[Observer] = [thresholds, Tally(Meters(self.data_dir))]
            serve_steward(
                self.data_dir, gate, directory, stop, access_log=access, observers=observers,
                evidence=self.settings.evidence,
                unsent=partial(unsent, self.data_dir, self.settings.evidence.sinks),
            )  # fmt: skip
        finally:
            gate.close()
            directory.close()

    def _courier(self) -> None:
        from bifrost.webhooks.courier import serve_webhooks  # brings in aiohttp

        stop = told_to_stop()
        serve_webhooks(self.data_dir, lambda: self.settings.webhooks, stop)

    def _exporter(self) -> None:
        stop = told_to_stop()
        with stores(self.data_dir) as (_, gate):
            tell = teller(gate, "exporter")
            serve_exports(self.data_dir, lambda: self.settings.evidence.sinks, tell, stop)

    def _worker(self, sock: socket.socket) -> None:
        import uvicorn

        from bifrost.farewell import Server

        native = self.listener == "native"
        protocol: Any
        if native:
            from bifrost._fast.listener import Listener as protocol
        else:
            from bifrost.listener import Protocol as protocol

        app = App(
            self.settings,
            self.data_dir,
            source=self.source,
            read=self._stamp,
            steward=False,
            prepare=self._complete,
            native=native,
        )
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=protocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(self.settings.server.shutdown_timeout_s),
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        Server(config).run(sockets=[sock])


def _mock(writer: int, port: int) -> None:
    """The mock provider's process: tells its port through ``writer`` once, then serves."""
    import asyncio

    import uvloop

    from bifrost.mock.options import MockOptions
    from bifrost.mock.server import start

    async def main() -> None:
        server = await start(MockOptions(port=port))
        if writer >= 0:
            os.write(writer, str(server.port).encode())
            os.close(writer)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await server.close()

    uvloop.run(main())


def _prices(settings: Settings) -> Path | None:
    return Path(settings.prices.file) if settings.prices.file else None


def configure_logs(settings: Settings) -> None:
    """Structured logs for the supervisor and everything it forks."""
    logs.configure(settings.server.log_level)
