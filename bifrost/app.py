"""The composition root: settings -> stores, pipeline, doors -> one ASGI app.

Hot routes go straight to their door; everything else (health, metrics, unknown paths) is Starlette.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bifrost import offer
from bifrost.admin.api import Api
from bifrost.admin.table import House
from bifrost.call import Call
from bifrost.config.load import (
    Loaded,
    Stamp,
    default_settings,
    digest,
    load,
    stamp,
    with_default_providers,
)
from bifrost.config.settings import Settings
from bifrost.core import Core
from bifrost.doors.anthropic import AnthropicDoor, broken_event
from bifrost.doors.door import Receive, Scope, Send, path_of
from bifrost.doors.entrance import Entrance
from bifrost.errors import BifrostError
from bifrost.governance import admin_token
from bifrost.governance.declared import Minted
from bifrost.metrics import Pulse, exposition
from bifrost.pipeline import MAX_ANSWER, PING, Pipeline
from bifrost.proxies import Proxies
from bifrost.watch import Watch

if TYPE_CHECKING:
    from bifrost._fast.hall import Hall

log = logging.getLogger("bifrost.app")
CHECK_S = 1.0
GRANTS_SETTLED = 20_000
DRAIN_S = 600.0


class App:
    """The gateway as an ASGI application; under any server, alone or mounted in another app.

    Starts with the lifespan, or at the first request when a mount brings none.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        *,
        source: Path | None = None,
        read: Stamp = None,
        steward: bool = True,
        prepare: Callable[[Settings], Settings] | None = None,
        native: bool = False,
    ) -> None:
        """``source`` is watched for changes; ``read`` is its stamp when ``settings`` were read.

        ``prepare`` completes freshly loaded settings (an address only the server knows).
        ``native``: the compiled listener serves this app, so it gets a hall.
        """
        self.settings = settings
        self.data_dir = data_dir
        self.source = source
        self.core: Core | None = None
        self._steward = steward
        self._prepare = prepare
        self._native = native
        self.hall: Hall | None = None
        self.proxies = _proxies(settings)
        self._entrance: Entrance | None = None
        self._api: Api | None = None
        self._pipeline: Pipeline | None = None
        self._pulse: Pulse | None = None
        self._starting = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._mock: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stamp = stamp(source) if read is None else read
        self.starlette = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
            ],
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.starlette(scope, receive, send)
            return
        if self.core is None:
            await self.start()
        self.proxies.settle(scope)
        path = path_of(scope)
        if path in ("/health", "/ready", "/metrics"):
            await self.starlette(scope, receive, send)
        elif (path == "/api" or path.startswith("/api/")) and path != "/api/hello":
            assert self._api is not None
            await self._api(scope, receive, send)
        else:
            assert self._entrance is not None
            await self._entrance.handler(path)(scope, receive, send)

    @staticmethod
    def _show(minted: list[Minted]) -> None:
        """New secrets go to the terminal, once, and never into a log."""
        for key in minted:
            print(f"Virtual key {key.name!r}, shown once: {key.secret}", file=sys.stderr)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.start()
        yield
        await self.stop()

    async def start(self) -> None:
        """Opens the stores and the doors; harmless when already started."""
        async with self._starting:
            if self.core is not None:
                return
            settings = await self._with_mock(self.settings)
            core = Core(settings, self.data_dir)
            if self._steward:
                self._show(core.declare(settings))
                if token := admin_token.mint(core.directory):
                    print(f"Admin token, shown once: {token}", file=sys.stderr)
                core.start_steward()
            else:
                core.recorder.stands_in = False
            server = settings.server
            self._pipeline = Pipeline(
                core.governor,
                Watch(
                    server.ping_interval_s, epoch=core.directory.epoch, still=core.governor.still
                ),
                broken_event,
                core.witness,
                debug_headers=server.debug_headers,
            )
            self._pipeline.failover.configure(settings.routing)
            self._entrance = Entrance(
                self._pipeline, self._models, self.proxies, core.meters.refused,
                lambda: core.treasury.help_url, max_body_bytes=server.max_body_bytes,
            )  # fmt: skip
            self._api = Api(self._house(core))
            if self._native:
                self.hall = self._open_hall(self._pipeline, self._entrance.anthropic)
            self._pulse = Pulse(core, lambda: len(self._pipeline.watch) if self._pipeline else 0)
            self._pulse.beat()
            self.core = core
            core.prove()
            loop = asyncio.get_running_loop()
            self._keeper = loop.create_task(self._keep())
            if not self._steward:  # a worker of ``bifrost serve``: it may own its signals
                loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    def _house(self, core: Core) -> House:
        """What the admin API works on."""
        return House(
            data_dir=core.data_dir,
            directory=core.directory,
            gate=core.gate,
            recorder=core.recorder,
            identifier=core.identifier,
            pricing=core.pricing,
            settings=lambda: core.settings,
            lanes=core.governor.current,
            usable=lambda grant: list(offer.usable(core, grant)),
            client=lambda scope: self.proxies.recorded(scope),
        )

    def _open_hall(self, pipeline: Pipeline, door: AnthropicDoor) -> Hall:
        """What the compiled listener needs to serve the hot routes by itself."""
        # They need uvicorn, which only ``serve`` has for sure.
        from bifrost._fast.hall import Hall
        from bifrost.listener import Doubt, Protocol

        server = self.settings.server
        return Hall(
            pipeline.governor.desk,
            pipeline,
            _hot_targets(self.settings),
            refusal=door.refusal,
            cold=Protocol,
            doubt=Doubt,
            max_body_bytes=door.max_body_bytes,
            max_answer=MAX_ANSWER,
            ping=PING,
            proxies=self.proxies,
            keep_alive_s=server.keep_alive_timeout_s,
            receive_s=server.receive_timeout_s,
        )

    async def _with_mock(self, settings: Settings) -> Settings:
        """A mock provider without an address runs inside this process."""
        if not needs_mock(settings):
            return settings
        if self._mock is None:
            from bifrost.mock.options import MockOptions
            from bifrost.mock.server import start

            self._mock = await start(MockOptions())
        return with_mock_url(settings, self._mock.url)

    async def stop(self) -> None:
        """Closes connections and stores; what is settled is on disk."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        core, self.core = self.core, None
        if core is not None:
            if self._api is not None:
                await self._api.tell(everything=True)
            core.unprove()
            await core.upstreams.close()
            await asyncio.to_thread(core.close)
        if self._mock is not None:
            await self._mock.close()
            self._mock = None

    async def _keep(self) -> None:
        """Once a second: what the core has to do, and changed files."""
        settled = 0
        while True:
            await asyncio.sleep(CHECK_S)
            assert self.core is not None
            self.core.keep()
            self.core.prove()
            if self._pulse is not None:
                self._pulse.beat()
            if self._api is not None:
                await self._api.tell()
            known = len(self.core.identifier.keyring)
            if self.hall is not None and known > settled + settled // 4 + GRANTS_SETTLED:
                gc.freeze()  # a million grants would be looked through again and again
                settled = known
            if stamp(self.source) != self._stamp:
                await self.reload()

    def _reload_soon(self) -> None:
        self._background(self.reload())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> None:
        """Reads the configuration again; a bad one is logged and the old one stays."""
        core, self._stamp = self.core, stamp(self.source)
        if self.source is None or core is None:
            return
        try:
            settings = with_default_providers(load(self.source).settings)
            settings = self._prepare(settings) if self._prepare else settings
            settings = await self._with_mock(settings)
            before = digest(core.settings)
            if self._steward:
                self._show(core.declare(settings))
            core.configure(settings)
            if self._steward and digest(settings) != before:
                await asyncio.to_thread(
                    core.recorder.life, "configure", digest(settings), before=before
                )
        except (BifrostError, OSError) as error:
            log.error("the new configuration is not used", extra={"error": str(error)})
            return
        self.settings = settings
        assert self._pipeline is not None and self._entrance is not None
        self._pipeline.watch.ping_interval_ns = int(settings.server.ping_interval_s * 1e9)
        self._pipeline.stations.debug_headers = settings.server.debug_headers
        self._pipeline.failover.configure(settings.routing)
        self.proxies = _proxies(settings)
        self._entrance.settle(self.proxies, settings.server.max_body_bytes)
        if self.hall is not None:
            self.hall.max_body_bytes = settings.server.max_body_bytes
            self.hall.keep_alive_s = settings.server.keep_alive_timeout_s
            self.hall.receive_s = settings.server.receive_timeout_s
            self.hall.targets = _hot_targets(settings)
            self.hall.proxies = self.proxies
        log.info("configuration loaded", extra={"file": str(self.source)})
        self._background(core.upstreams.retain(core.origins(), DRAIN_S))

    # -- the quiet routes ------------------------------------------------------------------

    async def _health(self, _: Request) -> Response:
        return _json({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        core = self.core
        assert core is not None
        problems, lacking = [], [name for name, found in core.credentials() if found.lacking]
        try:
            core.gate.counters([(0, 0)])
            core.directory.find("customer", "-")
        except Exception as error:
            problems.append(f"the store cannot be read: {error}")
        if not core.governor.lanes.hosts:
            problems.append("no provider is configured")
        elif len(lacking) == len(core.governor.lanes.hosts):
            problems.append("no provider has a credential; the log says why")
        if core.gate.barred:
            problems.append(f"the audit log cannot be written: {os.strerror(core.gate.barred)}")
        if core.lag_ns(time.time_ns()) > 60_000_000_000:
            problems.append("the steward is more than 60 s behind")
        status = 503 if problems else 200
        told = {"status": "not ready" if problems else "ready", "problems": problems}
        return _json(told | {"without_credential": lacking}, status)

    async def _metrics(self, _: Request) -> Response:
        assert self.core is not None and self._pulse is not None
        self._pulse.beat()
        text = await run_in_threadpool(exposition, self.core)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _models(self, call: Call, *, embeddings: bool = False) -> list[dict[str, Any]]:
        """What the key of ``call`` may use, in Anthropic's list shape."""
        assert self.core is not None
        usable = offer.usable(self.core, call.grant).values()
        return [offer.shown(info) for info in usable if embeddings or info.mode != "embedding"]


def _hot_targets(settings: Settings) -> dict[bytes, bytes]:
    """The compiled listener has no way through a corporate proxy; then every request takes ours."""
    if any(provider.network.proxy for provider in settings.providers.values()):
        return {}
    return AnthropicDoor.hot()


def _proxies(settings: Settings) -> Proxies:
    server = settings.server
    return Proxies(
        server.trusted_proxies, server.forwarded_header, record=server.record_client_address
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def needs_mock(settings: Settings) -> bool:
    """Whether a provider of type mock has no address yet."""
    return any(p.type == "mock" and not p.network.base_url for p in settings.providers.values())


def with_mock_url(settings: Settings, url: str) -> Settings:
    """The settings with every mock provider pointed at ``url`` unless it has an address."""
    replace = msgspec.structs.replace
    providers = {
        name: replace(provider, network=replace(provider.network, base_url=url))
        if provider.type == "mock" and not provider.network.base_url
        else provider
        for name, provider in settings.providers.items()
    }
    return replace(settings, providers=providers)


def create_app(
    config: str | Path | Settings | Loaded | None = None, *, data_dir: str | Path | None = None
) -> App:
    """The gateway as an ASGI app, lifespan included. ``config`` is a file or loaded settings.

    Raises ConfigError when the configuration cannot be used.
    """
    source: Path | None = None
    read: Stamp = None
    if isinstance(config, str | Path):
        config = load(config)
    if isinstance(config, Loaded):
        source, read = config.path, config.stamp
        config = config.settings
    settings = with_default_providers(config) if config is not None else default_settings()
    return App(settings, Path(data_dir or settings.data_dir or "data"), source=source, read=read)
