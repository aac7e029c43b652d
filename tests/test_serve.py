"""``bifrost serve`` as processes: first start, sockets, reload, workers that die, logs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.commands import Office, stored, until
from tests.running import (
    BIFROST,
    KEY,
    Process,
    RunningGateway,
    RunningMock,
    bearer,
    budget,
    configuration,
    environment,
    message,
)

SECOND_KEY = "sk-bf-" + "second00" * 5
CANARY = "canary-4711-of-the-message"
PROVIDER_SECRET = "sk-ant-upstream-secret"
SLOW = {"x-mock-chunks": "100", "x-mock-chunk-interval-ms": "100"}


def ask(url: str, key: str = KEY, **changes: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/messages", json=message(**changes), headers=bearer(key))


def failing(*arguments: str | Path) -> str:
    """What a ``serve`` that cannot start says in its one line."""
    done = subprocess.run(
        [*BIFROST, "serve", *map(str, arguments)],
        capture_output=True, text=True, timeout=30, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("bifrost: ") and len(done.stderr.splitlines()) == 1
    return done.stderr


def logged(gateway: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log.read_text().splitlines()]


def curl(printed: str) -> tuple[str, dict[str, Any]]:
    """Runs the printed command as it stands; its status and answer."""
    command = re.search(r"^  curl (?:.*\\\n)+.*$", printed, re.M)
    assert command, printed
    text = command[0].replace("curl", "curl -sS -w '\\n%{http_code}'", 1)
    body, _, status = subprocess.check_output(text, shell=True, text=True).rpartition("\n")
    return status, json.loads(body)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@needs_curl
def test_the_first_start_shows_all_a_person_needs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = ["serve", "--data-dir", str(data), "--port", "0"]
    first = Process(command, r"Claude Code[^{]*(\{(?s:.*)\n\})", tmp_path / "first.log")
    try:
        status, answer = curl(first.output)
        settings = json.loads(first.match[1])["env"]
        token = re.findall(r"bf-admin-\S+", first.output)
        assert (status, answer["type"], len(token)) == ("200", "message", 1)
        key = settings["ANTHROPIC_AUTH_TOKEN"]
        assert ask(settings["ANTHROPIC_BASE_URL"], key).status_code == 200
        used = Office(data).json("usage", "--by", "key", "--by", "model")
        costs = {row["model"]: row["cost_usd"] for row in used["rows"] if row["key"] == "demo"}
        tokens = answer["usage"]  # claude-haiku-4-5: 1 USD and 5 USD per million tokens
        nano = tokens["input_tokens"] * 1000 + tokens["output_tokens"] * 5000
        assert float(costs["claude-haiku-4-5"]) == nano / 1e9 > 0
    finally:
        assert first.stop() == 0
    assert (data.stat().st_mode & 0o777) == 0o700
    second = Process(command, r"listens on (http://\S+)", tmp_path / "second.log")
    try:
        assert ask(second.match[1], key).status_code == 200
        shown = second.more()
        assert "bf-admin-" not in shown and "sk-bf-" not in shown
        assert "bifrost keys rotate demo" in shown
    finally:
        second.stop()
    for log in (first.log, second.log):
        assert key not in log.read_text() and token[0] not in log.read_text()
    on_disk = stored(data)
    assert b"demo" in on_disk
    assert not any(secret.encode() in on_disk for secret in (key, token[0]))


def test_what_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    data, config = tmp_path / "data", tmp_path / "bifrost.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = failing("--port", str(port), "--data-dir", data)
    assert f"Cannot listen on 127.0.0.1:{port}" in told and "--port" in told
    assert "--host" in failing("--host", "192.0.2.1", "--port", "0", "--data-dir", data)
    assert "cannot be read" in failing("--config", tmp_path / "none.json", "--data-dir", data)
    config.write_text('{"prices": {"file": "none.json"}}')
    assert "none.json" in failing("--config", config, "--port", "0", "--data-dir", data)
    assert not data.exists()


def test_a_unix_socket(tmp_path: Path, mock: RunningMock) -> None:
    path = tmp_path / "gateway.sock"
    command = ["serve", "--data-dir", str(tmp_path / "data"), "--uds", str(path)]
    process = Process(command, "-d '.*'", tmp_path / "first.log")
    try:
        if shutil.which("curl"):
            assert curl(process.output)[0] == "200"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/health").status_code == 200
        told = failing(*command[1:])
        assert f"Cannot listen on {path}" in told and "--uds" in told
    finally:
        process.stop(signal.SIGKILL)
    assert path.is_socket()  # left behind by the kill, taken over by the next
    until(lambda: not _accepts(path))
    again = Process(command, "listens on (.*sock)", tmp_path / "second.log")
    assert again.stop() == 0 and not path.exists()


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_an_ipv6_address(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    command = ["serve", "--data-dir", str(tmp_path / "data"), "--port", "0", "--host", "::1"]
    process = Process(command, r"listens on (http://\[::1\]:\d+)", tmp_path / "log")
    try:
        assert httpx.get(f"{process.match[1]}/ready").json()["status"] == "ready"
    finally:
        assert process.stop() == 0


def children(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.process.pid).children()


def workers(gateway: Process, count: int) -> list[psutil.Process]:
    """The children that hold their own lock and serve: those with an event loop."""
    found = [child for child in children(gateway) if _has_epoll(child)]
    assert len(found) == count
    return found


def _has_epoll(child: psutil.Process) -> bool:
    folder = Path(f"/proc/{child.pid}/fd")
    return any("eventpoll" in os.readlink(entry) for entry in folder.iterdir())


@pytest.fixture(scope="module")
def pair(mock: RunningMock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with two workers."""
    folder = tmp_path_factory.mktemp("pair")
    running = RunningGateway(folder, configuration(mock.url), "--workers", "2")
    until(lambda: len([child for child in children(running) if _has_epoll(child)]) == 2)
    yield running
    running.stop()


def of_each(gateway: RunningGateway, count: int) -> list[httpx.Response]:
    """Answers of each of two workers, the other one asleep."""
    answers = []
    for asleep in workers(gateway, 2):
        asleep.suspend()
        try:
            answers += [ask(gateway.url) for _ in range(count)]
        finally:
            asleep.resume()
    return answers


def test_each_of_two_workers_answers(pair: RunningGateway) -> None:
    assert [answer.status_code for answer in of_each(pair, 3)] == [200] * 6
    total = pair.command("usage")["rows"][0]
    assert (total["key"], total["requests"]) == ("alice-dev", 6)


def test_request_ids_are_unique_over_workers(pair: RunningGateway) -> None:
    ids = [answer.headers["x-request-id"] for answer in of_each(pair, 2)]
    assert len(set(ids)) == 4


@contextmanager
def traffic(url: str) -> Iterator[list[str]]:
    """Requests without a pause from four clients; what they got is known at the end."""
    over, outcomes = threading.Event(), list[str]()

    def client(number: int) -> None:
        with httpx.Client(base_url=url, headers=bearer(), timeout=20) as http:
            while not over.is_set():
                try:
                    body = message(stream=number % 2 == 0)
                    answer = http.post("/v1/messages", json=body)
                    whole = number % 2 or "message_stop" in answer.text
                    outcomes.append(f"{answer.status_code}{'' if whole else ' cut'}")
                except httpx.HTTPError as error:
                    outcomes.append(repr(error))
                time.sleep(0.01)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        over.set()
        for thread in threads:
            thread.join()


def rewrite(gateway: RunningGateway, config: dict[str, Any] | str) -> None:
    fresh = gateway.config.with_suffix(".new")
    fresh.write_text(config if isinstance(config, str) else json.dumps(config))
    fresh.replace(gateway.config)


def complaints(gateway: RunningGateway) -> list[dict[str, Any]]:
    return [line for line in logged(gateway) if "not used" in line["message"]]


def test_a_reload_drops_no_request(pair: RunningGateway, mock: RunningMock) -> None:
    config = configuration(mock.url)
    keys = config["governance"]["virtual_keys"]
    with traffic(pair.url) as outcomes:
        assert ask(pair.url, SECOND_KEY).status_code == 401
        keys.append({"name": "second", "user": "alice", "value": SECOND_KEY})
        keys.append({"name": "minted"})
        config["models"] = {"swift": [{"provider": "anthropic", "model": "claude-haiku-4-5"}]}
        rewrite(pair, config)
        until(lambda: ask(pair.url, SECOND_KEY).status_code == 200)
        until(lambda: all(_mapped(pair, "claude-haiku-4-5") for _ in range(8)))
        minted = re.search(r"'minted', shown once: (sk-bf-\S+)", pair.more())
        assert minted and ask(pair.url, minted[1]).status_code == 200

        rewrite(pair, '{"providers": ')
        told = until(lambda: complaints(pair))
        assert "not valid JSON at line 1" in told[0]["error"] and told[0]["level"] == "error"
        rewrite(pair, json.dumps(config).replace('"swift"', '"swift", "swifter"'))
        until(
            lambda: "line 1, column" in complaints(pair)[-1]["error"] and len(complaints(pair)) > 1
        )
        assert all(_mapped(pair, "claude-haiku-4-5") for _ in range(4))

        config["models"]["swift"][0]["model"] = "claude-sonnet-4-5"
        pair.config.write_text(json.dumps(config))
        pair.process.send_signal(signal.SIGHUP)
        until(lambda: all(_mapped(pair, "claude-sonnet-4-5") for _ in range(8)))
    assert len(outcomes) > 50 and set(outcomes) == {"200"}
    assert minted[1] not in pair.log.read_text()


def _mapped(gateway: RunningGateway, model: str) -> bool:
    answer = ask(gateway.url, model="swift")
    return answer.status_code == 200 and answer.headers["x-bf-model"] == model


@contextmanager
def stream(url: str, steer: dict[str, str]) -> Iterator[Iterator[str]]:
    """A streaming request whose first event has arrived."""
    body = message(stream=True)
    with httpx.stream(
        "POST", f"{url}/v1/messages", json=body, headers={**bearer(), **steer}, timeout=30
    ) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines) == "event: message_start"
        yield lines


def serving(gateway: Process, upstream: RunningMock) -> psutil.Process:
    """The worker with a busy connection to the provider."""
    port = int(upstream.url.rpartition(":")[2])

    def holder() -> psutil.Process | None:
        for child in children(gateway):
            if any(c.raddr and c.raddr.port == port for c in child.net_connections("tcp4")):
                return child
        return None

    found: psutil.Process = until(holder)
    return found


def test_a_killed_worker_is_replaced_and_charged_in_full(mock: RunningMock, tmp_path: Path) -> None:
    gateway = RunningGateway(tmp_path, configuration(mock.url))
    try:
        with pytest.raises(httpx.TransportError), stream(gateway.url, SLOW) as lines:
            held = gateway.spent()["keys:alice-dev"][1]
            victim = serving(gateway, mock)
            victim.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            for _ in lines:
                pass
        until(lambda: set(gateway.spent().values()) == {(held, "0")}, 5)
        assert float(held) > 0 and time.monotonic() - killed < 6
        assert ask(gateway.url).status_code == 200
        assert victim.pid not in [child.pid for child in children(gateway)]
        [row] = gateway.command("usage", "--by", "key")["rows"]
        assert row["requests"] == 2 and float(row["cost_usd"]) > float(held)
        assert any("worker 1 ended" in line["message"] for line in logged(gateway))
    finally:
        assert gateway.stop() == 0


@pytest.mark.parametrize("whole_group", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_lets_a_stream_finish(mock: RunningMock, tmp_path: Path, whole_group: bool) -> None:
    gateway = RunningGateway(tmp_path, configuration(mock.url))
    steer = {"x-mock-chunks": "8", "x-mock-chunk-interval-ms": "100"}
    with stream(gateway.url, steer) as lines:
        for child in children(gateway) if whole_group else ():
            child.send_signal(signal.SIGINT)
        gateway.process.send_signal(signal.SIGINT if whole_group else signal.SIGTERM)
        assert "event: message_stop" in list(lines)
    gateway.process.wait(10)
    spent = gateway.spent()
    assert gateway.stop() == 0
    [(cost, reserved)] = set(spent.values())
    assert float(cost) > 0 and reserved == "0"
    [row] = Office(gateway.data_dir).json("usage")["rows"]
    assert (row["requests"], row["cost_usd"]) == (1, cost)


def test_the_wait_for_streams_is_bounded(mock: RunningMock, tmp_path: Path) -> None:
    config = {**configuration(mock.url), "server": {"shutdown_timeout_s": 0}}
    gateway = RunningGateway(tmp_path, config)
    with stream(gateway.url, {**SLOW, "x-mock-chunks": "600"}) as lines:
        until(lambda: "event: content_block_delta" == next(lines))
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(5)
    spent = gateway.spent()
    assert gateway.stop() == 0
    [(cost, reserved)] = set(spent.values())
    assert float(cost) > 0 and reserved == "0"


def test_children_end_with_their_supervisor(tmp_path: Path) -> None:
    command = ["serve", "--data-dir", str(tmp_path / "data"), "--port", "0", "--workers", "2"]
    process = Process(command, "listens on (.*)", tmp_path / "log")
    family = until(lambda: children(process) if len(children(process)) == 4 else None)
    process.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_logs_are_json_lines_without_secrets_or_content(mock: RunningMock, tmp_path: Path) -> None:
    config = {**configuration(mock.url), "server": {"access_log": True, "log_level": "debug"}}
    config["governance"]["virtual_keys"].append(
        {"name": "poor", "value": SECOND_KEY, "budgets": budget("0.000001")}
    )
    gateway = RunningGateway(tmp_path, config)
    content = {"messages": [{"role": "user", "content": CANARY}], "system": CANARY}
    try:
        assert ask(gateway.url, **content).status_code == 200
        assert ask(gateway.url, SECOND_KEY, **content).status_code == 402
        assert ask(gateway.url, **content, model=7).status_code == 400
        assert ask(gateway.url, KEY + "x", **content).status_code == 401
        for steer in ({"x-mock-fail": "500"}, {"x-mock-cut-after": "3"}):
            body = message(stream=True, **content)
            headers = {**bearer(), **steer}
            httpx.post(f"{gateway.url}/v1/messages", json=body, headers=headers)
        until(lambda: len(accesses(gateway)) == 4)
        outcomes = [line["outcome"] for line in accesses(gateway)]
    finally:
        gateway.stop()
    assert outcomes == ["ok", "refused", "error", "broken"]
    text = gateway.log.read_text()
    for secret in (CANARY, KEY, SECOND_KEY, PROVIDER_SECRET):
        assert secret not in text
    for line in logged(gateway):
        assert line.get("type") == "model" or {"time", "level", "logger", "message"} <= set(line)


def accesses(gateway: Process) -> list[dict[str, Any]]:
    return [line for line in logged(gateway) if line.get("type") == "model"]
