"""The core: stores, gate and governor of one process over one data directory.

Built by the app and by the embedded ``Gateway``; holds no HTTP and no policy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bifrost import recovery
from bifrost._fast.density import Densities
from bifrost._fast.gate import Gate, GateError
from bifrost.alerts.thresholds import Thresholds
from bifrost.audit import depots, policy
from bifrost.audit.log import FOLDER as AUDIT
from bifrost.config.conditions import condition
from bifrost.config.hosts import serving
from bifrost.config.load import Stamp, digest, stamp
from bifrost.config.settings import Network, Provider, Settings, Target
from bifrost.errors import BifrostError, ConfigError, StoreError
from bifrost.exports.exporter import enlist, serve_exports, teller
from bifrost.exports.progress import unsent
from bifrost.governance import declared
from bifrost.governance.admission import Treasury
from bifrost.governance.directory import Directory
from bifrost.governance.environment import make_folder
from bifrost.governance.vault import Vault
from bifrost.governor import Governor
from bifrost.identify import Identifier
from bifrost.lanes import Lanes
from bifrost.metering.catalogue import Catalogue
from bifrost.meters import Meters
from bifrost.pricing import Pricing
from bifrost.providers.asking import Ask, Errand, Reply
from bifrost.providers.proofs import Proof, proof
from bifrost.providers.table import Credential, Host
from bifrost.providers.tokens import Tokens
from bifrost.recorder import Recorder
from bifrost.routing.health import Health
from bifrost.routing.rules import Rule, Rules
from bifrost.routing.targets import Aim, Alias, Router
from bifrost.steward import serve_steward
from bifrost.tally import Tally
from bifrost.upstream.errands import Errands
from bifrost.upstream.pool import NetworkOptions, Origin, Upstreams
from bifrost.webhooks.queue import enrol
from bifrost.witness import Witness

log = logging.getLogger("bifrost.core")


def open_gate(data_dir: Path, directory: Directory | None = None) -> Gate:
    """The gate of a data directory, rebuilt from the audit log where it cannot be trusted.

    ``directory`` is this process's open directory of it, if there is one. Raises StoreError with
    the remedy.
    """
    try:
        return recovery.opened(data_dir, directory)
    except (GateError, OSError) as error:
        raise StoreError(f"Cannot open the state store in {data_dir / 'state'}: {error}") from error


@contextmanager
def stores(data_dir: Path) -> Iterator[tuple[Directory, Gate]]:
    """The directory, its changes recorded, and the gate of a data directory, for a short time."""
    with recording(data_dir) as (directory, gate, _):
        yield directory, gate


@contextmanager
def recording(data_dir: Path) -> Iterator[tuple[Directory, Gate, Recorder]]:
    """The same, and what records."""
    gates: list[Gate] = []
    recorder = Recorder(data_dir, lambda: gates[0])
    directory = Directory(data_dir, recorder.change, recorder.turn)
    try:
        gates.append(open_gate(data_dir, directory))
        try:
            yield directory, gates[0], recorder
        finally:
            recorder.close()
            gates[0].close()
    finally:
        directory.close()


class Core:
    """Everything a process needs to govern; ``close`` when done. Open it after any fork."""

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        make_folder(data_dir)
        depots.remember(settings.evidence, data_dir / AUDIT)
        self.data_dir = data_dir
        self.recorder = Recorder(data_dir, lambda: self.gate)
        self.directory = Directory(data_dir, self.recorder.change, self.recorder.turn)
        try:
            self.gate = open_gate(data_dir, self.directory)
        except BaseException:
            self.directory.close()
            raise
        self.densities = Densities(data_dir / "state" / "densities")
        self.meters = Meters(data_dir)
        gate = self.gate
        self.meters.time(
            gate=gate.gating, admit=gate.admitting, settle=gate.settling, governance=gate.governing
        )
        self.upstreams = Upstreams()
        self.health = Health()
        self._proofs: dict[str, tuple[Provider, Proof | None]] = {}
        self.identifier = Identifier(self.directory)
        self.treasury = Treasury(self.gate)
        self.witness = Witness(self.gate, Vault(data_dir))
        self.pricing = Pricing(self.directory.prices, self.gate)
        self._priced: tuple[int, Stamp] = (-1, None)  # the revision and file our prices are of
        self._complaint = ""
        self._laying = threading.Lock()  # new lanes, one after the other
        self.generation = 0
        self._stop = threading.Event()
        self._tells = self._courier = self._lives = self._exports = False
        self._threads: list[threading.Thread] = []
        try:
            lanes = self._configured(settings)
            self.governor = Governor(self.identifier, self.treasury, lanes, self.refresh_prices)
            self.governor.desk.overhead = self.meters.meter("overhead")
        except BaseException:
            self.close()
            raise

    def configure(self, settings: Settings) -> None:
        """Swaps in a new configuration; requests under way keep the old one."""
        with self._laying:
            self.governor.lanes = self._configured(settings)
        self._tell()

    def declare(self, settings: Settings) -> list[declared.Minted]:
        """Brings the declared customers, teams, users and keys into the directory."""
        with policy.acting("config"):
            return declared.apply(settings.governance, self.directory)

    def refresh_prices(self) -> bool:
        """Takes up prices that changed in the store or the price file, for new requests only.

        Called before the first request after any change of the policy, and once a second. What
        cannot be read is logged and the present prices stay. True if prices changed.
        """
        with self._laying:
            return self._take_up()

    def _take_up(self) -> bool:
        try:
            catalogue = self._fresh_prices()
        except (BifrostError, OSError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("the new prices are not used", extra={"error": str(error)})
            return False
        self._complaint = ""
        lanes = self.governor.lanes
        if catalogue is None or catalogue.digest == lanes.catalogue.digest:
            return False
        self.generation += 1
        self.governor.lanes = Lanes(
            self._router(self.settings, catalogue), lanes.hosts, catalogue, self.generation,
            self.densities, self.meters, self.witness.attends, health=self.health,
            max_attempts=lanes.max_attempts, rules=lanes.rules,
        )  # fmt: skip
        log.info("prices changed", extra={"digest": catalogue.digest[:16]})
        return True

    def _fresh_prices(self) -> Catalogue | None:
        """The catalogue if it may have changed; a bad file leaves the one before in use."""
        revision, file = self.pricing.revision(), _price_file(self.settings)
        now = (revision, stamp(file))
        if now == self._priced:
            return None
        try:
            if now[1] != self._priced[1]:
                with policy.acting("config"):
                    self.pricing.publish(file)
        except ConfigError as error:
            log.error("the new price file is not used", extra={"error": str(error)})
        catalogue = self.pricing.current()
        self._priced = now
        return catalogue

    def _configured(self, settings: Settings) -> Lanes:
        file = _price_file(settings)
        priced = (self.pricing.revision(), stamp(file))
        with policy.acting("config"):
            catalogue = self.pricing.publish(file)
        self._priced = priced
        router = self._router(settings, catalogue)
        hosts = {name: self._host(name, provider) for name, provider in settings.providers.items()}
        self.settings = settings
        self.witness.configure(settings.evidence)
        depots.remember(settings.evidence, self.data_dir / AUDIT)
        self.treasury.help_url = settings.help_url
        self.generation += 1
        routing = settings.routing
        self.health.settle(routing.cool_down_s, routing.max_cool_down_s)
        return Lanes(
            router, hosts, catalogue, self.generation, self.densities, self.meters,
            self.witness.attends, health=self.health, max_attempts=routing.max_attempts,
            rules=_rules(settings),
        )  # fmt: skip

    @staticmethod
    def _router(settings: Settings, catalogue: Catalogue) -> Router:
        aliases = [Alias(pattern, _goals(targets)) for pattern, targets in settings.models.items()]
        providers = settings.providers

        def has(name: str, model: str) -> bool:
            kind = providers[name].type
            priced = catalogue.price(kind, model, name=name) is not None
            return priced and bool(serving(kind, providers[name].api, model))

        return Router(list(providers), aliases, has)

    def _host(self, name: str, provider: Provider) -> tuple[Host, Origin]:
        credentials = [Credential(key.name, key.value, key.weight) for key in provider.keys]
        # A mock without an address is started beside the gateway, which then fills the address in.
        url = provider.network.base_url or (
            "http://127.0.0.1:9" if provider.type == "mock" else None
        )
        network = network_options(provider.network)
        host = Host(
            name, provider.type, url, credentials, provider.api, provider.place,
            self._proof(name, provider, network), quirks=provider.quirks,
        )  # fmt: skip
        return host, self.upstreams.get(host.base_url, network)

    def _proof(self, name: str, provider: Provider, network: NetworkOptions) -> Proof | None:
        """What a provider is shown; the same as before if nothing of it changed, so that what was
        granted is kept."""
        known = self._proofs.get(name)
        if known is not None and known[0] == provider:
            return known[1]
        if known is not None and known[1] is not None:
            known[1].tokens.close()
        made = proof(name, provider, asking(Errands(self.upstreams, network)))
        self._proofs[name] = (provider, made)
        return made

    def prove(self) -> None:
        """Renews what providers are shown, before it ends; on the event loop, once a second."""
        for _, tokens in self.credentials():
            tokens.keep()

    def credentials(self) -> Iterator[tuple[str, Tokens[Any]]]:
        """By provider in a cloud that is shown one: what it is shown, which ends."""
        for name, (host, _) in self.governor.lanes.hosts.items():
            if host.proof is not None:
                yield name, host.proof.tokens

    def unprove(self) -> None:
        """Gives up the renewals under way: the process ends."""
        for _, made in self._proofs.values():
            if made is not None:
                made.tokens.close()

    def origins(self) -> Sequence[Origin]:
        """The origins the present configuration uses."""
        return [origin for _, origin in self.governor.lanes.hosts.values()]

    def keep(self) -> None:
        """What is due once a second: changes nobody told of, prices, and what is yet to settle."""
        self.identifier.refresh()
        self.refresh_prices()
        self.governor.tell()
        if self.gate.unpaid:
            try:
                self.gate.pay()
            except GateError as error:
                log.error("requests wait to be settled", extra={"error": str(error)})

    def lag_ns(self, now_ns: int) -> int:
        """Age of the oldest event that is not yet in the audit log."""
        oldest = self.gate.outbox(0, 1)
        return max(0, now_ns - oldest[0][0]) if oldest else 0

    def start_steward(self) -> None:
        """Offers this process as steward, courier and exporter, in threads."""
        self.recorder.life("start", digest(self.settings))
        self._lives = True
        self.recorder.stands_in = False  # from now on there is a steward
        thresholds = Thresholds(
            self.data_dir,
            self.gate,
            self.directory,
            lambda: self.settings.alerts.budget_thresholds,
        )
        self._start(
            "bifrost-steward",
            serve_steward,
            (self.data_dir, self.gate, self.directory, self._stop),
            access_log=self.settings.server.access_log,
            observers=[thresholds, Tally(self.meters)],
            evidence=self.settings.evidence,
            unsent=lambda: unsent(self.data_dir, self.settings.evidence.sinks),
        )
        self._tells = True
        self._tell()

    def _tell(self) -> None:
        """Serves the configured webhooks and exports; a thread begins when there are any."""
        if not self._tells:
            return
        enrol(self.data_dir, self.settings.webhooks)
        if self.settings.webhooks and not self._courier:
            from bifrost.webhooks.courier import serve_webhooks  # brings in aiohttp

            self._courier = True
            self._start(
                "bifrost-webhooks",
                serve_webhooks,
                (self.data_dir, lambda: self.settings.webhooks, self._stop),
            )
        self._export()

    def _export(self) -> None:
        """Serves the configured exports; the thread begins when there are any."""
        enlist(self.data_dir, self.settings.evidence.sinks, teller(self.gate, "config"))
        if self.settings.evidence.sinks and not self._exports:
            self._exports = True
            self._start(
                "bifrost-exporter",
                serve_exports,
                (self.data_dir, lambda: self.settings.evidence.sinks,
                 teller(self.gate, "exporter"), self._stop),
            )  # fmt: skip

    def _start(
        self, name: str, work: Callable[..., None], given: tuple[Any, ...], **more: Any
    ) -> None:
        thread = threading.Thread(target=work, args=given, kwargs=more, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Stops the steward, the courier and the exporter, flushes and closes the stores."""
        if hasattr(self, "governor"):  # else it could not be opened
            self.governor.tell(everything=True)
        if self._lives:
            self._lives = False
            self.recorder.life("stop", digest(self.settings))
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self.recorder.close()
        self.meters.close()
        self.gate.close()
        self.directory.close()


def _goals(targets: Sequence[Target]) -> tuple[Aim, ...]:
    return tuple((one.provider, one.model, one.weight, one.standby) for one in targets)


def _rules(settings: Settings) -> Rules:
    return Rules(
        Rule(one.name, one.models, condition(one.when), _goals(one.targets))
        for one in settings.routing.rules
    )


def asking(errands: Errands) -> Ask:
    """How the providers' room asks token endpoints."""

    async def ask(errand: Errand) -> Reply:
        return Reply(*await errands.send(errand))

    return ask


def _price_file(settings: Settings) -> Path | None:
    return Path(settings.prices.file) if settings.prices.file else None


def network_options(network: Network) -> NetworkOptions:
    """The upstream room's options from the configuration's."""
    return NetworkOptions(
        timeout_s=network.timeout_s,
        connect_timeout_s=network.connect_timeout_s,
        idle_timeout_s=network.idle_timeout_s,
        max_retries=network.max_retries,
        max_connections=network.max_connections,
        max_idle=network.max_idle,
        keepalive_s=network.keepalive_s,
        proxy=network.proxy,
        ca_file=network.ca_file,
        verify=network.verify,
    )
