"""Both listeners: how connections live and end with slow, silent, leaving and resetting clients."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands import until
from tests.running import RunningGateway, RunningMock, configuration, message
from tests.sockets import Answer, Wire, chunked, cold, hot, request
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


def final(wire: Wire) -> Answer:
    """The next answer that is not an interim one."""
    while (answer := wire.answer()).status < 200:
        pass
    return answer


LATE = ("late", "x-mock-latency-ms: 300")
COUNT = request("POST /v1/messages/count_tokens HTTP/1.1", "x-request-id: late", body=BODY)
CHUNKED = request(POST, "x-request-id: late", "x-mock-latency-ms: 300",
                  "transfer-encoding: chunked", body=chunked(BODY))  # fmt: skip


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "raw",
    [hot(*LATE), hot(*LATE, stream=True), CHUNKED, cold("late"), COUNT],
    ids=["message", "stream", "chunked", "models", "count"],
)
def test_who_has_no_more_to_ask_still_gets_the_answers(
    gateway: RunningGateway, raw: bytes, count: int
) -> None:
    with Wire(gateway.url) as wire:
        wire.send(raw * count)
        wire.socket.shutdown(socket.SHUT_WR)
        for _ in range(count):
            answer = final(wire)
            assert (answer.status, answer.id) == (200, "late")
        assert wire.closed()


def test_a_stream_goes_on_for_who_has_no_more_to_ask(mock: RunningMock, tmp_path: Path) -> None:
    """Only with the compiled listener; the other takes it as leaving once the answer began."""
    gateway = RunningGateway(tmp_path, configuration(mock.url), "--listener", "native")
    slow = hot("slow", "x-mock-chunks: 10", "x-mock-chunk-interval-ms: 50", stream=True)
    try:
        with Wire(gateway.url) as wire:
            wire.send(hot("first")).answer()  # a new key is looked up by the app
            assert wire.send(slow).head()[0] == 200
            wire.socket.shutdown(socket.SHUT_WR)
            body = b"".join(iter(wire.chunk, b""))
            assert b"message_stop" in body and wire.closed()
    finally:
        gateway.stop()


def test_who_leaves_before_the_answer_is_noticed(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    """A closed connection looks like one whose client only has no more to ask."""
    for raw in (hot("left", "x-mock-latency-ms: 60000"), CHUNKED.replace(b" 300", b" 60000")):
        before = mock.account()["disconnects"]
        with Wire(gateway.url) as wire:
            wire.send(raw)
            until(lambda: gateway.spent()["keys:alice-dev"][1] != "0")
        until(lambda: gateway.spent()["keys:alice-dev"][1] == "0", 20)
        until(lambda: mock.account()["disconnects"] > before, 20)  # noqa: B023


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
        config = configuration(script.url)
        for entities in config["governance"].values():
            for entity in entities:
                del entity["budgets"]  # so much text costs more
        running = RunningGateway(tmp_path, config, "--listener", request.param)
        opened.append((script.close, running))
        return running

    yield make
    for close, running in opened:
        running.stop()
        close()


def resident(gateway: RunningGateway) -> int:
    """Bytes of memory of the gateway's processes together."""
    found = psutil.Process(gateway.process.pid).children(recursive=True)
    return sum(one.memory_info().rss for one in found)


PIECE, SMALL = DELTA % (b"x" * 60_000), DELTA % (b"x" * 40_000)


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
    """Wherever the pieces were when it broke: with the client, in the gateway, not yet there."""

    def play(connection: socket.socket, body: bytes) -> None:
        connection.sendall(
            HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
            + b"%x\r\n" % len(START) + START + b"\r\n"
        )  # fmt: skip
        connection.settimeout(0.5)
        with suppress(TimeoutError):
            for _ in range(json.loads(body)["max_tokens"]):
                connection.sendall(b"%x\r\n" % len(SMALL) + SMALL + b"\r\n")

    gateway = scripted(play)
    with Wire(gateway.url) as wire:
        wire.send(hot("first", max_tokens=1, stream=True)).answer()
    wires = [Wire(gateway.url) for _ in range(70)]
    for pieces, wire in enumerate(wires, 40):
        wire.send(hot("slow", max_tokens=pieces, stream=True))
    time.sleep(1.5)
    for wire in wires:
        with wire:
            answer = wire.answer()
            assert b"event: error\ndata: " in answer.body[-2000:]
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
