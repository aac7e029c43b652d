"""``bifrost doctor``: is everything as it must be?"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import click

from bifrost.cli.store import json_option, opened, print_json
from bifrost.config.hosts import address
from bifrost.config.load import default_settings, load, with_default_providers
from bifrost.config.settings import Provider, Settings
from bifrost.core import asking, network_options
from bifrost.errors import BifrostError
from bifrost.metering.catalogue import Catalogue
from bifrost.providers.proofs import proof
from bifrost.upstream.errands import Errands
from bifrost.upstream.pool import Upstreams

Finding = tuple[str, str, str]  # ok | warn | fail, what, detail
OLD_CATALOGUE_DAYS = 90
CLOCK_S = 30


@click.command("doctor")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, path_type=Path),
              envvar="BIFROST_CONFIG", help="Configuration file.")  # fmt: skip
@json_option
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path),
              envvar="BIFROST_DATA_DIR", help="State directory.  [default: data]")  # fmt: skip
def doctor(config_file: Path | None, as_json: bool, data_dir: Path | None) -> None:
    """Check configuration, port, store, providers and clock; exit code 1 if something fails.

    \b
    Example:
      bifrost doctor --config bifrost.json
    """
    findings = examine(config_file, data_dir)
    if as_json:
        print_json([{"result": r, "check": c, "detail": d} for r, c, d in findings])
    else:
        for result, check, detail in findings:
            click.echo(f"{result:<4}  {check}: {detail}")
    sys.exit(1 if any(result == "fail" for result, _, _ in findings) else 0)


def examine(config_file: Path | None, data_dir: Path | None) -> list[Finding]:
    """Every check's finding, in order."""
    try:
        loaded = load(config_file).settings if config_file else default_settings()
    except (BifrostError, OSError) as error:
        return [("fail", "configuration", str(error))]
    settings = with_default_providers(loaded)
    store = data_dir or Path(settings.data_dir or "data")
    findings: list[Finding] = [("ok", "configuration", str(config_file or "defaults"))]
    for check in (_prices, _port):
        findings.append(_guarded(check.__name__.strip("_"), check, settings))
    findings.append(_guarded("store", lambda _: _store(store), settings))
    findings += asyncio.run(_providers(settings))
    return findings


def _guarded(name: str, check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except (BifrostError, OSError) as error:
        return ("fail", name, str(error))


def _prices(settings: Settings) -> Finding:
    catalogue = Catalogue.load(Path(settings.prices.file) if settings.prices.file else None)
    age = (time.time() - time.mktime(time.strptime(catalogue.date, "%Y-%m-%d"))) / 86_400
    detail = f"{catalogue.source} of {catalogue.date}"
    if age > OLD_CATALOGUE_DAYS:
        return ("warn", "prices", f"{detail} is {age:.0f} days old; update bifrost-gateway")
    return ("ok", "prices", detail)


def _port(settings: Settings) -> Finding:
    server = settings.server
    if server.uds:
        return ("ok", "port", f"none; the gateway listens on the socket {server.uds}")
    where = f"{server.host}:{server.port}"
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            return ("warn", "port", f"{where} is taken ({error.strerror}); a running gateway?")
    return ("ok", "port", f"{where} is free")


def _store(data_dir: Path) -> Finding:
    if not (data_dir / "config").is_dir():
        return ("warn", "store", f"{data_dir} does not exist yet; `bifrost serve` makes it")
    with opened(data_dir) as (directory, gate):
        keys = directory.count("virtual_key")
        held = len(gate.reservations())
    return ("ok", "store", f"{data_dir}: {keys} virtual keys, {held} requests in flight")


async def _providers(settings: Settings) -> list[Finding]:
    """Reaches every provider without spending anything; its Date header tells our clock's error."""
    upstreams = Upstreams()
    findings: list[Finding] = []
    for name, provider in settings.providers.items():
        base_url = provider.network.base_url
        api, url = address(provider.type, provider.api, base_url, provider.place)
        if url is None:
            findings.append(
                ("ok", f"provider {name}", "the built-in mock, started with the gateway")
            )
            continue
        try:
            origin = upstreams.get(url, network_options(provider.network))
            path = b"/v1/models" if api == "messages" else b"/models"
            head = b"GET %b%b HTTP/1.1\r\nhost: %b\r\n\r\n" % (
                origin.path_prefix, path, origin.host_header,
            )  # fmt: skip
            exchange = await origin.send([head, b""])
            headers = dict(exchange.headers)
            exchange.cancel()
            findings.append(("ok", f"provider {name}", f"{url} answers ({exchange.status})"))
            findings += _clock(headers.get(b"date"))
        except BifrostError as error:
            findings.append(("fail", f"provider {name}", str(error)))
        findings += await _credential(name, provider, upstreams)
    await upstreams.close()
    return findings


async def _credential(name: str, provider: Provider, upstreams: Upstreams) -> list[Finding]:
    """Gets what a provider in a cloud is shown, where that is no key."""
    shown = proof(name, provider, asking(Errands(upstreams, network_options(provider.network))))
    if shown is None:
        return []
    what = f"credential {name}"
    try:
        lease = await shown.tokens.fresh()
    except BifrostError as error:
        return [("fail", what, str(error))]
    minutes = (lease.ends - time.time()) / 60
    lasts = "without an end" if lease.ends == float("inf") else f"for {minutes:.0f} minutes"
    return [("ok", what, f"granted {lasts}")]


def _clock(date: bytes | None) -> list[Finding]:
    if date is None:
        return []
    try:
        theirs = parsedate_to_datetime(date.decode("latin-1")).timestamp()
    except ValueError:
        return []
    off = abs(time.time() - theirs)
    if off > CLOCK_S:
        return [("warn", "clock", f"{off:.0f} s off the provider's; budgets reset by this clock")]
    return [("ok", "clock", f"within {max(off, 1):.0f} s of the provider's")]
