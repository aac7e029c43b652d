"""``bifrost reload``: another configuration or another program, and no client notices."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.commands import bifrost, until
from tests.running import Process, RunningGateway, RunningMock, bearer, configuration, message
from tests.sdk.books import served
from tests.test_serve import SLOW, ask, children, logged, rewrite, stream

RESTARTED = "Bifrost was restarted on "


def workers(gateway: Process) -> set[int]:
    """The processes that serve: those with a worker's sockets and event loop."""
    found = set()
    for child in children(gateway):
        try:
            entries = [os.readlink(one) for one in Path(f"/proc/{child.pid}/fd").iterdir()]
        except OSError:
            continue
        if any("eventpoll" in entry for entry in entries):
            found.add(child.pid)
    return found


class Client(threading.Thread):
    """Asks again and again, each time on a fresh connection or always on the same; notes it all."""

    def __init__(self, gateway: RunningGateway, *, keep: bool, transport: Any = None) -> None:
        super().__init__(daemon=True)
        self.gateway, self.keep, self.transport = gateway, keep, transport
        self.over = threading.Event()
        self.outcomes: list[str] = []

    def run(self) -> None:
        http = self._http()
        while not self.over.is_set():
            streamed = len(self.outcomes) % 2 == 0
            try:
                answer = http.post(
                    f"{self.gateway.url}/v1/messages", json=message(stream=streamed),
                    headers=bearer(),
                )  # fmt: skip
                whole = not streamed or "message_stop" in answer.text
                self.outcomes.append(f"{answer.status_code}{'' if whole else ' cut'}")
            except httpx.HTTPError as error:
                self.outcomes.append(repr(error))
            if not self.keep:
                http.close()
                http = self._http()
            time.sleep(0.005)
        http.close()

    def _http(self) -> httpx.Client:
        return httpx.Client(timeout=30, transport=self.transport() if self.transport else None)


@contextmanager
def clients(gateway: RunningGateway, **more: Any) -> Iterator[list[Client]]:
    """One client that keeps its connection and one that does not, all the time."""
    running = [Client(gateway, keep=keep, **more) for keep in (True, False)]
    for client in running:
        client.start()
    try:
        yield running
    finally:
        for client in running:
            client.over.set()
        for client in running:
            client.join(30)


def restart(gateway: RunningGateway, times: int = 1) -> None:
    """``bifrost reload --restart`` until its successor says that it serves."""
    before = gateway.more(0).count(RESTARTED)
    done = bifrost("reload", "--restart", "--data-dir", gateway.data_dir)
    assert (done.code, done.err) == (0, "")
    assert f"process {gateway.process.pid}" in done.out
    until(lambda: gateway.more(0).count(RESTARTED) == before + times, 30)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningMock]:
    running = RunningMock(tmp_path)
    yield running
    running.stop()


@pytest.mark.parametrize("uds", [False, True], ids=["tcp", "unix"])
def test_restarts_in_a_row_are_noticed_by_nobody(
    own: RunningMock, tmp_path: Path, uds: bool
) -> None:
    gateway: Any = None
    path = tmp_path / "bifrost.sock"
    more: dict[str, Any] = {}
    if uds:
        gateway = OverUnix(tmp_path / "gateway", configuration(own.url), path)
        more["transport"] = lambda: httpx.HTTPTransport(uds=str(path))
    else:
        gateway = RunningGateway(tmp_path / "gateway", configuration(own.url), "--workers", "2")
    try:
        first = until(lambda: workers(gateway))
        with clients(gateway, **more) as running, slow(gateway, **more) as lines:
            for _ in range(2):
                old = workers(gateway)
                restart(gateway)
                until(lambda old=old: workers(gateway) - old, 20)
            text = list(lines)
            assert text.count("event: content_block_delta") == 100
            assert "event: message_stop" in text
            until(lambda: not first & workers(gateway), 30)
            seen = [len(client.outcomes) for client in running]
            until(lambda: all(len(c.outcomes) > n + 5 for c, n in zip(running, seen, strict=True)))
        for client in running:
            assert set(client.outcomes) == {"200"}, client.outcomes
        assert not path.exists() or path.is_socket()
        asked = sum(len(client.outcomes) for client in running) + 1
        [row] = gateway.command("usage")["rows"]
        assert (row["requests"], Decimal(row["cost_usd"])) == (asked, dollars(own))
        spent = {(Decimal(cost), reserved) for cost, reserved in gateway.spent().values()}
        assert spent == {(dollars(own), "0")}
        assert not [line for line in logged(gateway) if line["level"] in ("error", "critical")]
    finally:
        assert gateway.stop() == 0
    assert not path.exists()


def dollars(mock: RunningMock) -> Decimal:
    """What the mock says it served, priced."""
    return Decimal(served(mock)) / 10**9


class OverUnix(RunningGateway):
    """The gateway on a Unix socket."""

    def __init__(self, folder: Path, config: dict[str, Any], path: Path) -> None:
        folder.mkdir(parents=True)
        self._open, self._stores = ExitStack(), None
        self.data_dir, self.config = folder / "data", folder / "bifrost.json"
        self.config.write_text(json.dumps(config))
        Process.__init__(
            self,
            ["serve", "--config", str(self.config), "--data-dir", str(self.data_dir),
             "--uds", str(path), "--workers", "2"],
            "listens on (.*sock)", folder / "gateway.log",
        )  # fmt: skip
        self.url = "http://localhost"


@contextmanager
def slow(gateway: RunningGateway, transport: Any = None) -> Iterator[Iterator[str]]:
    """A stream of ten seconds whose first event has arrived."""
    with (
        httpx.Client(timeout=60, transport=transport() if transport else None) as http,
        http.stream(
            "POST", f"{gateway.url}/v1/messages", json=message(stream=True),
            headers={**bearer(), **SLOW},
        ) as answer,
    ):  # fmt: skip
        lines = answer.iter_lines()
        assert next(lines) == "event: message_start"
        yield lines


def test_a_stop_during_the_takeover_stops_everything(mock: RunningMock, tmp_path: Path) -> None:
    config = {**configuration(mock.url), "server": {"shutdown_timeout_s": 1}}
    gateway = RunningGateway(tmp_path / "gateway", config, "--workers", "2")
    with stream(gateway.url, {**SLOW, "x-mock-chunks": "600"}):
        old = workers(gateway)
        restart(gateway)
        until(lambda: workers(gateway) - old)
        family = children(gateway)
        assert {child.pid for child in family} & old
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(30)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert set(reserved for _, reserved in gateway.spent().values()) == {"0"}
    assert gateway.stop() == 0
    assert not [line for line in logged(gateway) if "is killed" in line["message"]]


@pytest.mark.parametrize("after_s", [0.3, 0.8, 1.3])
def test_a_stop_in_the_middle_of_a_restart_is_not_forgotten(
    mock: RunningMock, tmp_path: Path, after_s: float
) -> None:
    gateway = RunningGateway(tmp_path / "gateway", configuration(mock.url))
    family = children(gateway)
    gateway.process.send_signal(signal.SIGUSR2)
    time.sleep(after_s)  # it tries the program, becomes it or has just become it
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.wait(30)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == [] and gateway.stop() == 0


def test_a_configuration_that_cannot_be_used_is_not_restarted_into(
    mock: RunningMock, tmp_path: Path
) -> None:
    gateway = RunningGateway(tmp_path / "gateway", configuration(mock.url))
    try:
        before = until(lambda: workers(gateway))
        rewrite(gateway, '{"server": {"port": "none"}}')
        done = bifrost("reload", "--restart", "--data-dir", gateway.data_dir)
        assert done.code == 0
        [line] = until(
            lambda: [one for one in logged(gateway) if "not restarted" in one["message"]]
        )
        assert line["level"] == "error" and "server.port: expected an integer" in line["message"]
        assert ask(gateway.url).status_code == 200
        assert workers(gateway) == before and RESTARTED not in gateway.more(0)
    finally:
        gateway.stop()


def test_reload_alone_reads_the_configuration_again(mock: RunningMock, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sk-ant-first")
    config = configuration(mock.url)
    config["providers"]["anthropic"]["keys"][0]["value"] = f"file:{secret}"
    gateway = RunningGateway(tmp_path / "gateway", config)
    try:
        ask(gateway.url)
        assert dict(mock.requests()[0]["headers"])["x-api-key"] == "sk-ant-first"
        before = workers(gateway)
        secret.write_text("sk-ant-second")  # a changed file of a secret is not noticed by itself
        done = bifrost("reload", "--data-dir", gateway.data_dir)
        assert "reads its configuration again" in done.out and done.code == 0

        def key() -> str:
            assert ask(gateway.url).status_code == 200
            return str(dict(mock.requests()[0]["headers"])["x-api-key"])

        until(lambda: key() == "sk-ant-second")
        assert workers(gateway) == before
    finally:
        gateway.stop()


@pytest.mark.parametrize("options", [(), ("--restart",)])
def test_without_a_gateway_reload_says_so(
    tmp_path: Path, options: tuple[str, ...], mock: RunningMock
) -> None:
    data = tmp_path / "gateway" / "data"
    told = f"bifrost: No gateway runs on {data}; start one with `bifrost serve`.\n"
    assert bifrost("reload", *options, "--data-dir", data)[::2] == (1, told)
    gateway = RunningGateway(tmp_path / "gateway", configuration(mock.url))
    gateway.stop()
    assert bifrost("reload", *options, "--data-dir", data)[::2] == (1, told)
    note = data / "supervisor.json"
    for broken in ("", "[]", '{"pid": 1}', json.dumps({"pid": os.getpid(), "started": "1"})):
        note.write_text(broken)
        assert bifrost("reload", *options, "--data-dir", data)[::2] == (1, told)


def test_a_new_key_of_the_configuration_is_shown_after_a_restart(
    mock: RunningMock, tmp_path: Path
) -> None:
    gateway = RunningGateway(tmp_path / "gateway", configuration(mock.url))
    try:
        config = configuration(mock.url)
        config["governance"]["virtual_keys"].append({"name": "minted"})
        gateway.process.send_signal(signal.SIGSTOP)  # else it may read the file before it restarts
        rewrite(gateway, config)
        gateway.process.send_signal(signal.SIGUSR2)
        gateway.process.send_signal(signal.SIGCONT)
        until(lambda: RESTARTED in gateway.more(0), 30)
        assert "'minted', shown once:\n  sk-bf-" in gateway.more()
    finally:
        gateway.stop()


def test_the_mock_beside_the_gateway_stays_through_a_restart(tmp_path: Path) -> None:
    command = ["serve", "--data-dir", str(tmp_path / "data"), "--port", "0"]
    process = Process(command, r'"ANTHROPIC_AUTH_TOKEN": "(sk-bf-\S+)"', tmp_path / "log")
    try:
        where = process.output.split("listens on ")[1].split()[0]
        key = process.match[1]
        assert ask(where, key).status_code == 200
        before = {child.pid for child in children(process)}
        process.process.send_signal(signal.SIGUSR2)
        until(lambda: RESTARTED in process.more(0), 30)
        until(lambda: len({child.pid for child in children(process)} & before) == 1, 30)
        for _ in range(4):
            assert ask(where, key).status_code == 200
        assert len(children(process)) == 3  # worker, steward, mock provider
    finally:
        assert process.stop() == 0
