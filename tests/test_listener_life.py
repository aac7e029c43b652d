"""Both listeners: how connections live and end with slow, silent, leaving and resetting clients."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands import until
from tests.running import RunningGateway, RunningMock, configuration, message
from tests.sockets import Wire, cold, hot, request
from tests.test_stream import DELTA, END, HEAD, START, Script

BODY = json.dumps(message()).encode()
POST = "POST /v1/messages HTTP/1.1"
LISTENERS = ["native", "asgi"]


@pytest.fixture(scope="module", params=LISTENERS)
def gateway(
    mock: RunningMock,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[RunningGateway]:
    """A gateway with either listener, impatient with clients."""
    config = configuration(mock.url)
    config["server"] = {"keep_alive_timeout_s": 1, "receive_timeout_s": 2}
    folder = tmp_path_factory.mktemp("gateway")
    running = RunningGateway(folder, config, "--listener", request.param)
    yield running
    assert "Traceback" not in running.log.read_text()
    running.stop()


def linger(wire: Wire) -> float:
    """Waits for the end of the connection; how many seconds it took."""
    began = time.monotonic()
    assert wire.closed()
    return time.monotonic() - began


@pytest.mark.parametrize("first", [b"", b"\r\n", hot("one"), cold("one")])
def test_an_idle_connection_is_closed(gateway: RunningGateway, first: bytes) -> None:
    with Wire(gateway.url) as wire:
        if len(wire.send(first) and first) > 2:
            assert wire.answer().status == 200
        assert linger(wire) > 0.5


def test_an_answer_may_take_longer_than_a_client_may_be_idle(gateway: RunningGateway) -> None:
    slow = hot("slow", "x-mock-latency-ms: 4000")
    with Wire(gateway.url) as wire:
        assert wire.send(slow).answer().status == 200
        assert wire.send(hot("next")).answer().id == "next"


@pytest.mark.parametrize(
    "before", [b"", hot("before"), cold("before")], ids=["first", "after hot", "after cold"]
)
@pytest.mark.parametrize(
    "start",
    [
        b"P",
        b"POST /v1/messages HTTP/1.1\r\nx-a: ",
        request(POST, "content-length: 99999", body=b""),
        request("POST /other HTTP/1.1", "content-length: 99999", body=b""),
        request(POST, "transfer-encoding: chunked", body=b"5\r\nab"),
    ],
    ids=["start", "head", "body", "body of nothing", "chunk"],
)
def test_a_request_that_stops_coming_is_given_up(
    gateway: RunningGateway, before: bytes, start: bytes
) -> None:
    with Wire(gateway.url) as wire:
        if before:
            assert wire.send(before).answer().id == "before"
        wire.send(start)
        answer = wire.answer()
        if b"/other" in start:
            assert answer.status == 404  # whatever the body
        else:
            assert answer.status == 408 and answer.headers["connection"] == "close"
        assert wire.closed()


def test_a_head_in_drops_is_given_up(gateway: RunningGateway) -> None:
    with Wire(gateway.url) as wire:
        wire.send(b"POST /v1/messages HTTP/1.1\r\n")
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.3):
                try:
                    wire.send(b"x-a: b\r\n")
                except OSError:
                    return

        threading.Thread(target=drip).start()
        try:
            assert wire.answer().status == 408
        finally:
            ended.set()


def test_a_body_that_keeps_coming_is_waited_for(gateway: RunningGateway) -> None:
    raw = hot("patient")
    size = len(raw) // 6 + 1
    with Wire(gateway.url) as wire:
        for at in range(0, len(raw), size):
            if at > len(raw) - len(BODY):
                time.sleep(0.8)
            wire.send(raw[at : at + size])
        assert wire.answer().id == "patient"


def reset(wire: Wire) -> None:
    """Ends the connection with a reset."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()


def test_resets_at_any_moment_harm_nobody(gateway: RunningGateway) -> None:
    stream = hot("gone", "x-mock-chunks: 50", "x-mock-chunk-interval-ms: 20", stream=True)
    for cut in (1, 60, len(stream) - 5, len(stream)):
        for raw in (stream, stream.replace(b"/v1/messages", b"/v1/elsewhere", 1)):
            wire = Wire(gateway.url).send(raw[:cut])
            reset(wire)
    wire = Wire(gateway.url).send(stream)
    assert wire.head()[0] == 200
    reset(wire)
    assert until(lambda: gateway.spent()["keys:alice-dev"][1] == "0")
    with Wire(gateway.url) as wire:
        assert wire.send(hot("still")).answer().id == "still"


@pytest.fixture(params=LISTENERS)
def scripted(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., RunningGateway]]:
    """Makes a gateway in front of a provider that plays bytes."""
    opened: list[Any] = []

    def make(play: Callable[[socket.socket, bytes], None]) -> RunningGateway:
        script = Script(play)
        opened.append((script.close, RunningGateway(
            tmp_path, configuration(script.url), "--listener", request.param)))  # fmt: skip
        running: RunningGateway = opened[-1][1]
        return running

    yield make
    for close, running in opened:
        running.stop()
        close()


def resident(gateway: RunningGateway) -> int:
    """Bytes of memory of the gateway's processes together."""
    found = psutil.Process(gateway.process.pid).children(recursive=True)
    return sum(one.memory_info().rss for one in found)


PIECE = DELTA % (b"x" * 60_000)


def test_a_client_that_does_not_read_costs_no_memory(
    scripted: Callable[..., RunningGateway],
) -> None:
    count = 50_000_000 // len(PIECE)
    stuck = threading.Event()

    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(HEAD + START)
        connection.settimeout(1.5)
        for _ in range(count):
            view = memoryview(PIECE)
            while view:
                try:
                    view = view[connection.send(view) :]
                except TimeoutError:
                    stuck.set()
                    connection.settimeout(30)
        connection.sendall(END)

    gateway = scripted(play)
    with Wire(gateway.url, 60) as wire:
        before = resident(gateway)
        wire.send(hot("slow", stream=True))
        assert wire.head()[0] == 200
        assert stuck.wait(30), "the provider was never held back"
        assert resident(gateway) - before < 12_000_000
        size = 0
        while piece := wire.chunk():
            size += len(piece)
        assert size == len(START) + count * len(PIECE) + len(END)
        assert wire.send(cold("next")).answer().id == "next"


def test_a_slow_client_hears_that_its_stream_broke(
    scripted: Callable[..., RunningGateway],
) -> None:
    broken = threading.Event()

    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(
            HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
            + b"%x\r\n" % len(START) + START + b"\r\n"
        )  # fmt: skip
        connection.settimeout(1.0)
        try:
            for _ in range(2000):
                connection.sendall(b"%x\r\n" % len(PIECE) + PIECE + b"\r\n")
        except TimeoutError:
            broken.set()

    gateway = scripted(play)
    with Wire(gateway.url) as wire:
        wire.send(hot("slow", stream=True))
        assert wire.head()[0] == 200
        assert broken.wait(30)
        last = piece = b""
        while piece := wire.chunk():
            last = (last + piece)[-2000:]
        assert b"event: error\ndata: " in last
        assert wire.send(cold("next")).answer().id == "next"


def served(gateway: RunningGateway) -> int:
    """Connections to clients that the gateway holds."""
    port = int(gateway.url.rpartition(":")[2])
    worker = [one for one in psutil.Process(gateway.process.pid).children()]
    return sum(
        1 for one in worker for c in one.net_connections("tcp")
        if c.status == "ESTABLISHED" and c.laddr.port == port
    )  # fmt: skip


@pytest.mark.parametrize("name", LISTENERS)
def test_a_stop_drains_what_is_under_way(mock: RunningMock, tmp_path: Path, name: str) -> None:
    gateway = RunningGateway(tmp_path, configuration(mock.url), "--listener", name)
    slow = hot("slow", "x-mock-chunks: 20", "x-mock-chunk-interval-ms: 100", stream=True)
    late = hot("late")
    with Wire(gateway.url) as idle, Wire(gateway.url) as busy, Wire(gateway.url) as sending:
        assert idle.send(hot("idle")).answer().id == "idle"
        assert busy.send(slow).head()[0] == 200
        sending.send(late[:-5])
        until(lambda: served(gateway) >= 3)
        stopper = threading.Thread(target=gateway.stop)
        stopper.start()
        assert idle.closed()
        answer = sending.send(late[-5:]).answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        body = b"".join(iter(busy.chunk, b""))
        assert b"message_stop" in body
        assert busy.closed() and sending.closed()
        stopper.join(30)
    assert gateway.process.returncode == 0
