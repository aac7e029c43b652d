"""A provider in a cloud whose credential cannot be renewed is seen from outside, until it can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from bifrost.metrics import FAILING
from tests.cloudhosts import Vertex
from tests.commands import until
from tests.place import Place
from tests.running import configuration, message
from tests.test_clouds import NAMES, VERTEX
from tests.test_metrics import Series, checked, value

ASKED = message(model="claude-opus-4-5")


def ready(place: Place) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{place.url}/ready")
    return answer.status_code, answer.json()


def page(place: Place) -> Series:
    return checked(httpx.get(f"{place.url}/metrics").text)


def failing(place: Place) -> tuple[float, ...]:
    """Workers that go on with the old credential, and those without one."""
    found = page(place)
    name = "provider_credentials_failing"
    return tuple(value(found, name, provider="cloud", state=one) for one in FAILING)


def failures(place: Place) -> float:
    return value(page(place), "provider_credential_failures_total", provider="cloud")


def test_without_any_credential_the_gateway_is_not_ready_until_there_is_one(tmp_path: Path) -> None:
    host = Vertex()
    host.ill = True
    place = Place(tmp_path, host, VERTEX, **NAMES)
    try:
        until(lambda: ready(place)[0] == 503)
        told = ready(place)[1]
        assert told["problems"] == ["no provider has a credential; the log says why"]
        assert told["without_credential"] == ["cloud"]
        until(lambda: failing(place) == (0, 1))
        assert failures(place) >= 1
        assert "bifrost doctor" in place.gateway.log.read_text()
        host.ill = False
        before = failures(place)
        # What fails for good is tried again half a minute later; a reload of it at once.
        config = json.loads(place.gateway.config.read_text())
        config["providers"]["cloud"]["network"]["max_idle"] = 63
        place.gateway.config.write_text(json.dumps(config))
        until(lambda: ready(place) == (200, READY))
        until(lambda: failing(place) == (0, 0))
        assert failures(place) == before
        assert place.ask(ASKED).status_code == 200
    finally:
        place.close()


READY = {"status": "ready", "problems": [], "without_credential": []}


def test_a_failing_renewal_is_told_while_the_old_credential_is_in_use(tmp_path: Path) -> None:
    host = Vertex()
    place = Place(tmp_path, host, VERTEX, **NAMES)
    try:
        assert place.ask(ASKED).status_code == 200
        assert ready(place) == (200, READY) and failing(place) == (0, 0)
        host.holding.clear()  # taken back, and its issuer gives no other
        host.ill = True
        assert place.ask(ASKED).status_code == 401
        until(lambda: failing(place) == (1, 0))
        assert failures(place) == 1
        assert ready(place) == (200, READY)  # as far as the gateway knows it holds
    finally:
        place.close()


def test_one_of_two_providers_is_named_and_the_gateway_stays_ready(tmp_path: Path) -> None:
    host = Vertex()
    host.ill = True
    place = Place(tmp_path, host, VERTEX, **NAMES)
    try:
        config = json.loads(place.gateway.config.read_text())
        config["providers"] |= configuration("http://127.0.0.1:9")["providers"]
        place.gateway.config.write_text(json.dumps(config))
        until(lambda: ready(place) == (200, READY | {"without_credential": ["cloud"]}))
    finally:
        place.close()
